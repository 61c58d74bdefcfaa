"""Screen the replies to a round's messages as they arrive."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import replace
from logging import INFO, WARNING

from flwr.app import ArrayRecord, ConfigRecord, Message

from hqde_fl.codec.parallel import alone
from hqde_fl.protocol.control_variates import screen_control, without_control
from hqde_fl.protocol.delta_broadcast import NO_VERSION
from hqde_fl.protocol.flower_internals import log
from hqde_fl.protocol.held_entries import claimed_digest, lacks_entries
from hqde_fl.protocol.members import member_name, records_of
from hqde_fl.protocol.no_data import NO_DATA, has_no_data
from hqde_fl.protocol.packed_updates import FEEDBACK, NO_RESIDUAL
from hqde_fl.protocol.reply_block import BlockRow, untouched_row
from hqde_fl.protocol.reply_matching import ReplyMatcher
from hqde_fl.protocol.screening import (
    NO_UPDATE,
    Accepted,
    Rejected,
    Screening,
    screen,
    screen_evaluation,
)
from hqde_fl.protocol.spent_epsilon import reported_epsilon
from hqde_fl.strategies.clients_model import version_held
from hqde_fl.strategies.outcomes import FAILED, LATE, MISSING, REJECTED
from hqde_fl.strategies.round.block_screening import BlockScreening
from hqde_fl.strategies.round.error_reasons import last_line
from hqde_fl.strategies.round.member_screening import screen_members
from hqde_fl.strategies.round.outgoing import Tags
from hqde_fl.strategies.round.packed_replies import has_packed_update
from hqde_fl.strategies.round.round_log import RoundLog
from hqde_fl.strategies.round.secure_round import SecureRound
from hqde_fl.strategies.state import ModelState

Screened = Mapping[int, Accepted] | Rejected
"""The update of each member in a reply, or why the reply is rejected."""


class ScreenedReplies:
    """The training replies of a round that passed screening, and what replies report.

    Parameters
    ----------
    models : Sequence[ModelState]
        The members as the round began.
    messages : Sequence[Message]
        The messages that the replies answer.
    round_log : RoundLog
        Knows the assignments; records each reply's size and the reason for its exclusion.
    tags : Tags
        Tags of the members; empty where there is one model.
    limits : Screening
        Limits on the content of a reply.
    arrays_key : str
        Name of a reply's one ``ArrayRecord``.
    controls : bool, default=False
        True if a reply needs control variates beside it.
    secure : SecureRound, optional
        With secure aggregation: screens masked updates, and keeps them.

    Attributes
    ----------
    accepted : dict[int, Mapping[int, Accepted]]
        Node id -> member -> update, in the order of arrival.
    held : list[dict[int, int]]
        For each member, node id -> the version of the clients' model that the node reports to hold:
        that of this round, or ``NO_VERSION``.
    without_residual : set[tuple[int, int]]
        Node id and member of updates whose client had no error-feedback residual.
    without_entries : set[int]
        Node ids of clients that lacked a part of the model which they were not sent.
    unchanged : list[dict[int, tuple[Collection[str], str or None]]]
        For each member, node id -> names of the entries that its reply left out as unchanged, and
        the digest of those that it says it has stored, if any.
    """

    def __init__(
        self,
        models: Sequence[ModelState],
        messages: Sequence[Message],
        round_log: RoundLog,
        tags: Tags,
        limits: Screening,
        arrays_key: str,
        controls: bool = False,
        secure: SecureRound | None = None,
    ) -> None:
        self._secure = secure
        self.accepted: dict[int, Mapping[int, Accepted]] = {}
        self.held: list[dict[int, int]] = [{} for _ in models]
        self.without_residual: set[tuple[int, int]] = set()
        self.without_entries: set[int] = set()
        self.unchanged: list[dict[int, tuple[Collection[str], str | None]]] = [{} for _ in models]
        self._models, self._matcher, self._log = models, ReplyMatcher(messages), round_log
        self._tags, self._limits, self._key = tags, limits, arrays_key
        self._controls = controls
        self._rows = BlockScreening(models[0].sent, limits, arrays_key)
        self._sizes: dict[Hashable, Mapping[str, int]] = {}

    def begin(self, reply: Message, pool: Executor) -> Future[Screened] | None:
        """Begin to screen the content of a packed reply in a thread; None for any other reply."""
        node = self._matcher.source(reply)
        if node is None or self._controls or self._secure or self._log.has_reply(node):
            return None
        if not has_packed_update(reply) or self._matcher.envelope_error(reply, node):
            return None
        return pool.submit(self._screen_alone, reply, self._log.assigned_members(node))

    def _screen_alone(self, reply: Message, members: Sequence[int]) -> Screened:
        with alone():
            return self._screen(reply, members)

    def add(self, reply: Message, begun: Future[Screened] | None = None) -> int | None:
        """Screen one reply, which is hostile until proven otherwise, and record the result.

        ``begun`` is what ``begin`` returned for it, if that was called.


        Return the id of the node whose message it answers; None if it answers none of them. An
        accepted reply is added to ``accepted``; for any other the round log gets the reason. A
        node's second reply excludes the node. A reply to none of the messages is only logged.
        """
        node = self._matcher.source(reply)
        if node is None:
            source = reply.metadata.src_node_id
            log(WARNING, "dropped a reply signed by node %d to a message never sent", source)
        elif self._log.has_reply(node):
            self.accepted.pop(node, None)
            self._log.update(node, reason="rejected: duplicate reply")
        elif reply.has_error():
            failure = f"failed: {last_line(reply.error.reason)}"
            self._log.update(node, reason=NO_DATA if has_no_data(reply) else failure)
        elif not reply.has_content():
            self._log.update(node, reason="rejected: neither a content nor an error")
        elif (row := untouched_row(reply)) is None or not self._accept_row(node, reply, row):
            self._log.record_reply(node, reply.content)
            if reason := self._exclusion(node, reply, begun):
                self._log.update(node, reason=reason)
        return node

    def of_member(self, member: int) -> dict[int, Accepted]:
        """Return the accepted updates of a member by node id."""
        return {node: part[member] for node, part in self.accepted.items() if member in part}

    def drop_updates(self) -> None:
        """Keep of the accepted replies all but their updates, which may be large."""
        for node, parts in self.accepted.items():
            self.accepted[node] = {
                m: replace(part, update=NO_UPDATE, control=None) for m, part in parts.items()
            }

    def metrics(self, node: int) -> Mapping[str, float]:
        """Return the metrics of the reply of a node, which must be in ``accepted``."""
        return next(iter(self.accepted[node].values())).metrics

    def _accept_row(self, node: int, reply: Message, row: BlockRow) -> bool:
        """Accept a sound reply that is the row of a block; return False if it is not one."""
        if self._tags or self._controls or self._matcher.envelope_error(reply, node):
            return False
        accepted = self._rows.accepted(row)
        if accepted is None:
            return False
        values = row.block.metrics_of(row.row)
        digits = tuple(value.bit_length() for value in values.values() if isinstance(value, int))
        key = tuple(values), digits  # what the bytes of a reply with the model's layout depend on
        if key not in self._sizes:
            self._sizes[key] = self._log.sizes(row.block.content(row.row))
        self._log.record_sizes(node, self._sizes[key])
        self.accepted[node] = {0: accepted}
        metrics = accepted.metrics
        seconds, epsilon = metrics.get("train-seconds"), reported_epsilon(metrics)
        self._log.update(node, seconds=seconds, epsilon=epsilon)
        self.unchanged[0][node] = accepted.unchanged, None
        return True

    def _exclusion(self, node: int, reply: Message, begun: Future[Screened] | None) -> str | None:
        """Accept a reply and return None, or return why it is not: ``rejected: ...`` and the like.

        A client misses something if it could not reconstruct the model. What it says it holds is
        noted unless the reply is rejected.
        """
        if reason := self._matcher.envelope_error(reply, node):
            return f"rejected: {reason}"
        members = self._log.assigned_members(node)
        feedback = records_of(reply.content, ConfigRecord).get(FEEDBACK, ConfigRecord())
        listed = feedback.get(NO_RESIDUAL)
        if isinstance(listed, list):
            self.without_residual.update((node, member) for member in members if member in listed)
        held = self._versions_held(reply, members)
        if NO_VERSION in held.values() or lacks_entries(reply.content):
            self._note_held(node, held)
            self.without_entries.add(node)
            return f"{MISSING}: needs the model in full"
        record = None
        if self._controls:
            reply, record = without_control(reply)
        if self._secure is not None:
            screened: Screened = self._secure.screen(node, reply)
        else:
            screened = self._screen(reply, members) if begun is None else begun.result()
        if self._controls and not isinstance(screened, Rejected):
            screened = self._with_controls(screened, record)
        if isinstance(screened, Rejected):
            return f"rejected: {screened.reason}"
        self.accepted[node] = screened
        metrics = self.metrics(node)
        epsilon = reported_epsilon(metrics)
        self._log.update(node, seconds=metrics.get("train-seconds"), epsilon=epsilon)
        self._note_held(node, held)
        for member in members:
            digest = claimed_digest(reply.content, member if self._tags else None)
            self.unchanged[member][node] = screened[member].unchanged, digest
        return None

    def with_held(self, member: int, model: ModelState) -> ModelState:
        """Return a model after what the replies report that their nodes hold of it."""
        holdings = model.holdings.without(*self.without_entries)
        if model.broadcast is not None:
            model = replace(model, broadcast=model.broadcast.with_held(self.held[member]))
        replies = self.unchanged[member]
        if holdings.digests or any(digest is not None for _, digest in replies.values()):
            holdings = holdings.with_replies(replies, model.sent_record)
        return replace(model, holdings=holdings)

    def _screen(self, reply: Message, members: Sequence[int]) -> Screened:
        """Return the reply's update of each member, or why the reply is rejected."""
        if self._tags:
            return screen_members(reply, self._models, members, self._tags, self._limits, self._key)
        model = self._models[0]
        screened = screen(reply, model.sent, self._limits, self._key)
        return screened if isinstance(screened, Rejected) else {0: screened}

    def _with_controls(
        self, accepted: Mapping[int, Accepted], record: ArrayRecord | None
    ) -> Mapping[int, Accepted] | Rejected:
        """Return the updates with the changes of the client's control variates, or the reason."""
        completed, arrays = {}, 0
        for member, part in accepted.items():
            layout = self._models[member].layout
            control = screen_control(record, layout, member if self._tags else None)
            if isinstance(control, str):
                return Rejected(f"{member_name(member)}: {control}" if self._tags else control)
            completed[member] = replace(part, control=control)
            arrays += len(layout.weights)
        if record is not None and len(record) != arrays:
            return Rejected(f"control variates: expected {arrays} arrays, found {len(record)}")
        return completed

    def _versions_held(self, reply: Message, members: Sequence[int]) -> dict[int, int]:
        """Return member -> the version that a reply reports: the current one or ``NO_VERSION``.

        Members for which it reports no version, or another one, are left out.
        """
        reported = {}
        for member in members:
            broadcast = self._models[member].broadcast
            if broadcast is not None:
                version = version_held(reply, member if self._tags else None)
                if version is not None and version in (NO_VERSION, broadcast.version):
                    reported[member] = version
        return reported

    def _note_held(self, node: int, versions: Mapping[int, int]) -> None:
        for member, version in versions.items():
            self.held[member][node] = version


def screen_reports(
    replies: Iterable[Message], messages: Sequence[Message], limits: Screening
) -> tuple[dict[int, Mapping[str, float]], dict[int, str]]:
    """Screen the replies to a round's evaluation messages.

    Parameters
    ----------
    replies : Iterable[Message]
        Hostile until proven otherwise.
    messages : Sequence[Message]
        The messages that they answer.
    limits : Screening
        Limits on the content of a reply.

    Returns
    -------
    dict[int, Mapping[str, float]]
        Node id -> its metrics, for the nodes with a single reply that passed.
    dict[int, str]
        Node id -> why it has no such reply, for all other nodes; ``missing: ...`` if it lacked a
        part of the model which it was not sent.
    """
    matcher = ReplyMatcher(messages)
    reports: dict[int, Mapping[str, float]] = {}
    excluded = {message.metadata.dst_node_id: LATE for message in messages}
    seen = set[int]()
    for reply in replies:
        node = matcher.source(reply)
        if node is None:
            source = reply.metadata.src_node_id
            log(WARNING, "dropped a report signed by node %d to a message never sent", source)
            continue
        screened: Mapping[str, float] | Rejected
        if node in seen:
            reports.pop(node, None)
            screened = Rejected("duplicate reply")
        elif reply.has_error():
            excluded[node] = f"{FAILED}: {last_line(reply.error.reason)}"
            log(INFO, "evaluation on node %d %s", node, excluded[node])
            seen.add(node)
            continue
        elif reason := matcher.envelope_error(reply, node):
            screened = Rejected(reason)
        elif reply.has_content() and lacks_entries(reply.content):
            excluded[node] = f"{MISSING}: needs the model in full"
            log(INFO, "evaluation on node %d: %s", node, excluded[node])
            seen.add(node)
            continue
        else:
            screened = screen_evaluation(reply, limits)
        seen.add(node)
        if isinstance(screened, Rejected):
            excluded[node] = f"{REJECTED}: {screened.reason}"
            log(INFO, "evaluation of node %d %s", node, excluded[node])
        else:
            reports[node] = screened
    return reports, {node: why for node, why in excluded.items() if node not in reports}
