"""What arrives in a round, from whom, and what of it is fit for a rule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from logging import WARNING

from flwr.app import Message
from flwr.common.logger import log

from hqde_fl.versions import NONE
from hqde_fl.wire import Accepted, Rejected, Screening, message_bytes, screen
from strategies.broadcast import version_held
from strategies.ledger import Ledger
from strategies.state import ModelState


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
        node = ledger.source(reply)
        if node is None:
            source = reply.metadata.src_node_id
            log(WARNING, "dropped a reply from node %d, which was not asked", source)
        elif ledger.answered(node):
            accepted.pop(node, None)
            ledger.write(node, reason="rejected: duplicate reply")
        elif reply.has_error():
            ledger.write(node, reason=f"failed: {last_line(reply.error.reason)}")
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


def last_line(reason: str | None) -> str:
    """The last line of an error reply's reason, which for an exception is its message."""
    lines = (reason or "no reason given").strip().splitlines()
    return lines[-1].strip()[:200] if lines else "no reason given"
