"""Replies whose content is fine, or an error, in an envelope that is not.

A hostile node writes its reply's metadata by itself: Flower's SuperLink compares what comes *with*
the reply, the ServerApp reads what is *in* it.
"""

from __future__ import annotations

from flwr.app import Error, Message

from hqde_fl.simulations.audit.row import Case, Replies, Reply, Row
from hqde_fl.simulations.audit.tamper import envelope, leaning, posted

CODE = 2  # ErrorCode.CLIENT_APP_RAISED_EXCEPTION
ESCAPE = "\x1b[2J\x1b]0;owned\x07"


def _duplicate(case: Case) -> list[Reply]:
    return [Message(leaning(case.content), reply_to=case.message)] * 2


def _after_error(case: Case) -> list[Reply]:
    error = Message(Error(CODE, "no"), reply_to=case.message)
    return [error, Message(case.content, reply_to=case.message)]


def _many(case: Case) -> list[Reply]:
    return [Message(leaning(case.content), reply_to=case.message)] * 200


def _late(case: Case) -> list[Reply]:
    """The answer to the round before, where there was one."""
    reply = Message(case.content, reply_to=case.message if case.before is None else case.before)
    return [reply]


def _stale_too(case: Case) -> list[Reply]:
    """The answer to the round before, and the right one."""
    return [*(_late(case) if case.before is not None else []), *_honest(case)]


def _honest(case: Case) -> list[Reply]:
    return [Message(case.content, reply_to=case.message)]


def _impostor(case: Case) -> list[Reply]:
    """A reply in another client's name, to a message that it makes up."""
    reply = Message(case.content, reply_to=case.message)
    return [envelope(reply, src_node_id=case.neighbour, reply_to_message_id="made-up")]


def _error(reason: str | None) -> Replies:
    def replies(case: Case) -> list[Reply]:
        return [Message(Error(CODE, reason), reply_to=case.message)]

    return replies


def _silent(case: Case) -> list[Reply]:
    return []


ROWS = (
    Row("silent", "sends nothing", "late", _silent),
    Row("duplicate", "answers twice", "rejected: duplicate reply", _duplicate),
    Row("many-replies", "answers two hundred times", "rejected: duplicate reply", _many),
    Row(
        "error-and-reply", "says it failed, then answers", "rejected: duplicate reply", _after_error
    ),
    Row("reply-to-another-round", "answers the round before", "late", _late),
    Row("stale-reply-first", "answers the round before, then this one", "", _stale_too),
    Row("impostor", "answers in another client's name", "late", _impostor),
    Row(
        "stolen-name",
        "answers its own message in another client's name",
        "rejected: signed by node",
        posted(src_node_id=lambda case: case.neighbour),
    ),
    Row(
        "stranger",
        "answers as a node that was not asked",
        "rejected: signed by node 12345",
        posted(src_node_id=12345),
    ),
    Row("node-id-0", "says that its id is 0", "rejected: signed by node 0", posted(src_node_id=0)),
    Row(
        "another-run",
        "answers another run",
        "rejected: belongs to run 987654321",
        posted(run_id=987654321),
    ),
    Row(
        "another-group",
        "says it belongs to another round",
        "rejected: belongs to round '999'",
        posted(group_id="999"),
    ),
    Row(
        "another-type",
        "says it answers an evaluation",
        "rejected: answers 'evaluate'",
        posted(message_type="evaluate"),
    ),
    Row("reply-to-nothing", "does not say what it answers", "late", posted(reply_to_message_id="")),
    Row(
        "long-message-id",
        "names a message with a megabyte",
        "late",
        posted(reply_to_message_id="x" * 2**20),
    ),
    Row(
        "created-never", "was created at NaN", "", posted(created_at=float("nan"), ttl=float("nan"))
    ),
    Row("error", "says it failed", "failed: no", _error("no")),
    Row("error-without-reason", "fails without a reason", "failed: no reason given", _error(None)),
    Row("blank-error", "fails with blanks only", "failed: no reason given", _error(" \n\t\n ")),
    Row("long-error", "fails with 16 MiB of reasons", "failed: xxx", _error("x" * 2**24)),
    Row("long-lines-error", "fails with a million lines", "failed: x", _error("x\n" * 10**6)),
    Row("escape-in-error", "fails with what clears a terminal", "failed: \\x1b[2J", _error(ESCAPE)),
)
