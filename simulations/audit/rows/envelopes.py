"""Hostile replies with an acceptable content or an error, but false metadata.

A hostile node writes the metadata in its reply itself. Flower's SuperLink compares only the
metadata sent *with* the reply; the ServerApp reads those *in* it.
"""

from __future__ import annotations

from flwr.app import Error, Message

from hqde_fl.simulations.audit.catalogue_row import AnswerContext, CatalogueRow, Replies, Reply
from hqde_fl.simulations.audit.message_changes import change_envelope, shift_slightly, with_envelope

CODE = 2  # ErrorCode.CLIENT_APP_RAISED_EXCEPTION
ESCAPE = "\x1b[2J\x1b]0;owned\x07"


def _duplicate(case: AnswerContext) -> list[Reply]:
    return [Message(shift_slightly(case.content), reply_to=case.message)] * 2


def _after_error(case: AnswerContext) -> list[Reply]:
    error = Message(Error(CODE, "no"), reply_to=case.message)
    return [error, Message(case.content, reply_to=case.message)]


def _many(case: AnswerContext) -> list[Reply]:
    return [Message(shift_slightly(case.content), reply_to=case.message)] * 200


def _late(case: AnswerContext) -> list[Reply]:
    """Return an honest reply to the message of the previous round, if any, else the present one."""
    reply = Message(
        case.content,
        reply_to=case.message if case.previous_message is None else case.previous_message,
    )
    return [reply]


def _stale_too(case: AnswerContext) -> list[Reply]:
    """Return honest replies to the messages of the previous round, if any, and of the present."""
    return [*(_late(case) if case.previous_message is not None else []), *_honest(case)]


def _honest(case: AnswerContext) -> list[Reply]:
    return [Message(case.content, reply_to=case.message)]


def _impostor(case: AnswerContext) -> list[Reply]:
    """Return an honest reply in another client's name, to a message that does not exist."""
    reply = Message(case.content, reply_to=case.message)
    return [change_envelope(reply, src_node_id=case.neighbour, reply_to_message_id="made-up")]


def _error(reason: str | None) -> Replies:
    def replies(case: AnswerContext) -> list[Reply]:
        return [Message(Error(CODE, reason), reply_to=case.message)]

    return replies


def _silent(case: AnswerContext) -> list[Reply]:
    return []


ROWS = (
    CatalogueRow("silent", "sends nothing", "late", _silent),
    CatalogueRow("duplicate", "answers twice", "rejected: duplicate reply", _duplicate),
    CatalogueRow("many-replies", "answers two hundred times", "rejected: duplicate reply", _many),
    CatalogueRow(
        "error-and-reply", "says it failed, then answers", "rejected: duplicate reply", _after_error
    ),
    CatalogueRow("reply-to-another-round", "answers the round before", "late", _late),
    CatalogueRow("stale-reply-first", "answers the round before, then this one", "", _stale_too),
    CatalogueRow("impostor", "answers in another client's name", "late", _impostor),
    CatalogueRow(
        "stolen-name",
        "answers its own message in another client's name",
        "rejected: signed by node",
        with_envelope(src_node_id=lambda case: case.neighbour),
    ),
    CatalogueRow(
        "stranger",
        "answers as a node that was not asked",
        "rejected: signed by node 12345",
        with_envelope(src_node_id=12345),
    ),
    CatalogueRow(
        "node-id-0",
        "says that its id is 0",
        "rejected: signed by node 0",
        with_envelope(src_node_id=0),
    ),
    CatalogueRow(
        "another-run",
        "answers another run",
        "rejected: belongs to run 987654321",
        with_envelope(run_id=987654321),
    ),
    CatalogueRow(
        "another-group",
        "says it belongs to another round",
        "rejected: belongs to round '999'",
        with_envelope(group_id="999"),
    ),
    CatalogueRow(
        "another-type",
        "says it answers an evaluation",
        "rejected: answers 'evaluate'",
        with_envelope(message_type="evaluate"),
    ),
    CatalogueRow(
        "reply-to-nothing",
        "does not say what it answers",
        "late",
        with_envelope(reply_to_message_id=""),
    ),
    CatalogueRow(
        "long-message-id",
        "names a message with a megabyte",
        "late",
        with_envelope(reply_to_message_id="x" * 2**20),
    ),
    CatalogueRow(
        "created-never",
        "was created at NaN",
        "",
        with_envelope(created_at=float("nan"), ttl=float("nan")),
    ),
    CatalogueRow("error", "says it failed", "failed: no", _error("no")),
    CatalogueRow(
        "error-without-reason", "fails without a reason", "failed: no reason given", _error(None)
    ),
    CatalogueRow(
        "blank-error", "fails with blanks only", "failed: no reason given", _error(" \n\t\n ")
    ),
    CatalogueRow("long-error", "fails with 16 MiB of reasons", "failed: xxx", _error("x" * 2**24)),
    CatalogueRow(
        "long-lines-error", "fails with a million lines", "failed: x", _error("x\n" * 10**6)
    ),
    CatalogueRow(
        "escape-in-error", "fails with what clears a terminal", "failed: \\x1b[2J", _error(ESCAPE)
    ),
)
