"""What arrives in a round, from whom, and what of it is fit for a rule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from logging import INFO, WARNING

from flwr.app import ConfigRecord, Message

from hqde_fl.protocol.delta_broadcast import NONE
from hqde_fl.protocol.flower_internals import log
from hqde_fl.protocol.message_size import message_bytes
from hqde_fl.protocol.no_data import NO_DATA, has_no_data
from hqde_fl.protocol.packed_updates import FEEDBACK, NO_ERROR
from hqde_fl.protocol.screening import Accepted, Rejected, Screening, screen, screen_evaluation
from hqde_fl.strategies.broadcast import version_held
from hqde_fl.strategies.round.member_screening import screen_share
from hqde_fl.strategies.round.outgoing import Tags
from hqde_fl.strategies.round.reply_matching import Asked
from hqde_fl.strategies.round.round_log import Ledger
from hqde_fl.strategies.state import ModelState
from hqde_fl.terminal_text import printable

LONGEST_TAIL = 4096
"""Of an error's reason so many characters are looked at."""


@dataclass(frozen=True, eq=False)
class Received:
    """What has come in a round.

    Parameters
    ----------
    accepted : Mapping[int, Mapping[int, Accepted]]
        Node -> member -> its update, for replies that passed screening, in the order of arrival.
    current : frozenset[tuple[int, int]]
        Node and member: who says it holds the clients' model of this round.
    lost : frozenset[tuple[int, int]]
        Node and member: who says it could not follow it.
    anew : frozenset[tuple[int, int]]
        Node and member: who says it had no error to feed back.
    """

    accepted: Mapping[int, Mapping[int, Accepted]]
    current: frozenset[tuple[int, int]]
    lost: frozenset[tuple[int, int]]
    anew: frozenset[tuple[int, int]]

    def ordered(self, nodes: Iterable[int]) -> Received:
        """The same with the replies in another order."""
        return replace(self, accepted={node: self.accepted[node] for node in nodes})

    def metrics(self, node: int) -> Mapping[str, float]:
        """What a client reported besides its updates."""
        return next(iter(self.accepted[node].values())).metrics

    def of(self, member: int) -> dict[int, Accepted]:
        """Node -> its update of a member."""
        return {node: share[member] for node, share in self.accepted.items() if member in share}

    def heard(self, member: int, model: ModelState) -> ModelState:
        """The model with what nodes say they hold of it."""
        if model.broadcast is None:
            return model
        current, lost = (
            {node for node, which in pairs if which == member}
            for pairs in (self.current, self.lost)
        )
        return replace(model, broadcast=model.broadcast.heard(current, lost))


def receive(
    replies: Iterable[Message],
    ledger: Ledger,
    models: Sequence[ModelState],
    tags: Tags,
    limits: Screening,
    key: str,
) -> Received:
    """Screen the replies to a round's training messages as they come.

    Parameters
    ----------
    replies : Iterable[Message]
        Hostile until proven otherwise.
    ledger : Ledger
        Knows who was asked for what; is told what was wrong with a reply.
    models : Sequence[ModelState]
        What there is to train.
    tags : Tags
        Of the members; empty where there is one model.
    limits : Screening
        What a reply may look like.
    key : str
        The name of a reply's one ``ArrayRecord``.
    """
    accepted: dict[int, Mapping[int, Accepted]] = {}
    current: set[tuple[int, int]] = set()
    lost: set[tuple[int, int]] = set()
    anew: set[tuple[int, int]] = set()
    for reply in replies:
        node = ledger.asked.source(reply)
        if node is None:
            source = reply.metadata.src_node_id
            log(WARNING, "dropped a reply signed by node %d to a message never sent", source)
            continue
        if ledger.answered(node):
            accepted.pop(node, None)
            ledger.write(node, reason="rejected: duplicate reply")
            continue
        if reply.has_error():
            failure = f"failed: {last_line(reply.error.reason)}"
            ledger.write(node, reason=NO_DATA if has_no_data(reply) else failure)
            continue
        if not reply.has_content():
            ledger.write(node, reason="rejected: neither a content nor an error")
            continue
        size = message_bytes(reply.content)
        if reason := ledger.asked.forged(reply, node):
            ledger.write(node, bytes_up=size, reason=f"rejected: {reason}")
            continue
        share = ledger.share(node)
        said = reply.content.config_records.get(FEEDBACK, ConfigRecord()).get(NO_ERROR)
        anew.update((node, m) for m in share if isinstance(said, list) and m in said)
        held = {m: version_held(reply, m if tags else None) for m in share if models[m].broadcast}
        follows = {m for m, v in held.items() if v == _version(models[m])}
        ledger.write(node, bytes_up=size, reason=None)
        if NONE in held.values():
            ledger.write(node, reason="late: needs the model in full")
            lost.update((node, member) for member, version in held.items() if version == NONE)
            current.update((node, member) for member in follows)
            continue
        screened = (
            screen_share(reply, models, share, tags, limits, key)
            if tags
            else screen(reply, models[0].layout, models[0].origin, limits, key)
        )
        if isinstance(screened, Rejected):
            ledger.write(node, reason=f"rejected: {screened.reason}")
            continue
        accepted[node] = {0: screened} if isinstance(screened, Accepted) else screened
        seconds = accepted[node][share[0]].metrics.get("train-seconds")
        ledger.write(node, seconds=seconds)
        current.update((node, member) for member in follows)
    return Received(accepted, frozenset(current), frozenset(lost), frozenset(anew))


def _version(model: ModelState) -> int | None:
    return None if model.broadcast is None else model.broadcast.version


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
            log(INFO, "evaluation of node %d rejected: %s", node, screened.reason)
        else:
            reports[node] = screened
    return reports


def last_line(reason: object) -> str:
    """The last line of an error reply's reason, which for an exception is its message."""
    lines = str(reason or "")[-LONGEST_TAIL:].strip().splitlines()
    return printable(lines[-1].strip(), 200) if lines else "no reason given"
