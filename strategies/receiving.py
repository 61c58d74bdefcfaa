"""What arrives in a round, from whom, and what of it is fit for a rule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from logging import INFO, WARNING

from flwr.app import Message
from flwr.common.logger import log

from hqde_fl.versions import NONE
from hqde_fl.wire import (
    Accepted,
    Rejected,
    Screening,
    message_bytes,
    printable,
    screen,
    screen_evaluation,
)
from strategies.asked import Asked
from strategies.broadcast import version_held
from strategies.ledger import Ledger
from strategies.state import ModelState

LONGEST_TAIL = 4096
"""Of an error's reason so many characters are looked at."""


@dataclass(frozen=True, eq=False)
class Received:
    """What has come in a round.

    Parameters
    ----------
    accepted : Mapping[int, Accepted]
        Node -> its reply, where it passed screening, in the order of arrival.
    current : frozenset[int]
        Nodes that say they hold the clients' model of this round.
    lost : frozenset[int]
        Nodes that say they could not follow it.
    """

    accepted: Mapping[int, Accepted]
    current: frozenset[int]
    lost: frozenset[int]


def receive(
    replies: Iterable[Message], ledger: Ledger, model: ModelState, limits: Screening, key: str
) -> Received:
    """Screen the replies to a round's training messages as they come.

    Parameters
    ----------
    replies : Iterable[Message]
        Hostile until proven otherwise.
    ledger : Ledger
        Knows who was asked; is told what was wrong with a reply.
    model : ModelState
        What they were asked to train.
    limits : Screening
        What a reply may look like.
    key : str
        The name of a reply's one ``ArrayRecord``.
    """
    accepted: dict[int, Accepted] = {}
    current: set[int] = set()
    lost: set[int] = set()
    for reply in replies:
        node = ledger.asked.source(reply)
        if node is None:
            source = reply.metadata.src_node_id
            log(WARNING, "dropped a reply signed by node %d to a message never sent", source)
        elif ledger.answered(node):
            accepted.pop(node, None)
            ledger.write(node, reason="rejected: duplicate reply")
        elif reply.has_error():
            ledger.write(node, reason=f"failed: {last_line(reply.error.reason)}")
        elif not reply.has_content():
            ledger.write(node, reason="rejected: neither a content nor an error")
        elif reason := ledger.asked.forged(reply, node):
            ledger.write(node, bytes_up=message_bytes(reply.content), reason=f"rejected: {reason}")
        elif model.broadcast is not None and version_held(reply) == NONE:
            size = message_bytes(reply.content)
            ledger.write(node, bytes_up=size, reason="late: needs the model in full")
            lost.add(node)
        else:
            ledger.write(node, bytes_up=message_bytes(reply.content), reason=None)
            screened = screen(reply, model.layout, model.origin, limits, key)
            if isinstance(screened, Rejected):
                ledger.write(node, reason=f"rejected: {screened.reason}")
                continue
            ledger.write(node, seconds=screened.metrics.get("train-seconds"))
            accepted[node] = screened
            if model.broadcast is not None and version_held(reply) == model.broadcast.version:
                current.add(node)
    return Received(accepted, frozenset(current), frozenset(lost))


def receive_reports(
    replies: Iterable[Message], sent: Sequence[Message], limits: Screening
) -> dict[int, Mapping[str, float]]:
    """Screen the replies to a round's evaluation messages.

    Parameters
    ----------
    replies : Iterable[Message]
        Hostile until proven otherwise.
    sent : Sequence[Message]
        The messages they answer.
    limits : Screening
        What a reply may look like.

    Returns
    -------
    dict[int, Mapping[str, float]]
        Node -> its metrics, where they passed.
    """
    asked = Asked(sent)
    reports: dict[int, Mapping[str, float]] = {}
    seen: set[int] = set()
    for reply in replies:
        node = asked.source(reply)
        if node is None:
            source = reply.metadata.src_node_id
            log(WARNING, "dropped a report signed by node %d to a message never sent", source)
            continue
        screened: Mapping[str, float] | Rejected
        if node in seen:
            reports.pop(node, None)
            screened = Rejected("duplicate reply")
        elif reply.has_error():
            log(INFO, "evaluation on node %d failed: %s", node, last_line(reply.error.reason))
            seen.add(node)
            continue
        elif reason := asked.forged(reply, node):
            screened = Rejected(reason)
        else:
            screened = screen_evaluation(reply, limits)
        seen.add(node)
        if isinstance(screened, Rejected):
            log(WARNING, "evaluation of node %d rejected: %s", node, screened.reason)
        else:
            reports[node] = screened
    return reports


def last_line(reason: object) -> str:
    """The last line of an error reply's reason, which for an exception is its message."""
    lines = str(reason or "")[-LONGEST_TAIL:].strip().splitlines()
    return printable(lines[-1].strip(), 200) if lines else "no reason given"
