"""One training round, from its addressed messages to its record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from logging import INFO, WARNING
from typing import final

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType
from torch import Tensor

from hqde_fl.codec import Identity
from hqde_fl.codec.request import to_json
from hqde_fl.monitor.spans import span
from hqde_fl.protocol.flower_internals import log
from hqde_fl.protocol.message_roles import BUFFERS
from hqde_fl.protocol.omitted_entries import LEAVE_OUT
from hqde_fl.protocol.partial_work import confirmed_work, reported_metrics
from hqde_fl.protocol.screening import Accepted
from hqde_fl.rules import Cohort
from hqde_fl.selection.history import NEW_CLIENT
from hqde_fl.strategies.callbacks import RoundRecord
from hqde_fl.strategies.clients_model import Broadcast
from hqde_fl.strategies.control_variates import ServerControl
from hqde_fl.strategies.metrics import mean_metrics
from hqde_fl.strategies.outcomes import FAILED, LATE, MISSING, REJECTED, SKIPPED
from hqde_fl.strategies.private_plan import PrivatePlan
from hqde_fl.strategies.resting import add_resting
from hqde_fl.strategies.roster import Roster
from hqde_fl.strategies.round import aggregation
from hqde_fl.strategies.round.aggregation import MergedModel
from hqde_fl.strategies.round.look_alikes import note_look_alikes
from hqde_fl.strategies.round.observations import Histories, histories_after, observe, sketches
from hqde_fl.strategies.round.outgoing import address, contents, control_records
from hqde_fl.strategies.round.packed_replies import decoding_threads, in_order
from hqde_fl.strategies.round.private_aggregation import PrivateOutcome, merge_privately
from hqde_fl.strategies.round.reply_notes import ReplyNotes
from hqde_fl.strategies.round.reply_screening import ScreenedReplies
from hqde_fl.strategies.round.reply_times import ReplyTimes
from hqde_fl.strategies.round.role_changes import apply_role_changes
from hqde_fl.strategies.round.round_log import RoundLog
from hqde_fl.strategies.round.secure_merge import BucketMeans
from hqde_fl.strategies.round.secure_round import SecureRound
from hqde_fl.strategies.round.update_storage import UpdateStorage
from hqde_fl.strategies.settings import StrategySettings
from hqde_fl.strategies.state import ModelState, ServerState


@final
class Round:
    """A training round: it addresses the model to clients and merges their replies.

    Parameters
    ----------
    number : int
        The round, from 1.
    state : ServerState
        State from which the round starts.
    arrays : ArrayRecord
        The global model of that state, as it was handed in.
    settings : StrategySettings
        Settings of the strategy.
    roster : Roster
        Knows the nodes' partition ids.
    keys : tuple[str, str]
        Names of the ``ArrayRecord`` and of the ``ConfigRecord`` in messages.
    leave_out : bool
        True if clients may leave unchanged entries out of their replies.
    times : ReplyTimes
        Measures the replies.
    secure : SecureRound, optional
        The secure aggregation of the round.

    Attributes
    ----------
    state : ServerState
        State from which the round starts; after ``close`` the next one.
    record : RoundRecord
        Record of the round, complete after ``close``.
    """

    def __init__(
        self,
        number: int,
        state: ServerState,
        arrays: ArrayRecord,
        settings: StrategySettings,
        roster: Roster,
        keys: tuple[str, str],
        leave_out: bool,
        times: ReplyTimes,
        secure: SecureRound | None = None,
    ) -> None:
        self.number, self.state = number, state
        self._secure = secure
        self._arrays: ArrayRecord | None = arrays
        self.record = RoundRecord(round=number)
        self._settings, self._roster, self._keys = settings, roster, keys
        self._leave_out, self.times = leave_out, times
        self._messages: list[Message] = []
        self._assignments: dict[int, tuple[int, ...]] = {}
        self._tags: dict[int, int] = {}
        self._work: Mapping[int, float] = {}

    @property
    def arrays(self) -> ArrayRecord:
        """The global model of ``state``; that which was handed in as long as none was moved."""
        if self._arrays is None:  # not made before the last round's can be dropped
            self._arrays = self.state.arrays()
        return self._arrays

    def address(
        self, nodes: Sequence[int], config: ConfigRecord, work: Mapping[int, float]
    ) -> list[Message]:
        """Return one training message for each node, with the model or the members it trains.

        ``work`` holds the part of its local training that a node does, where that is not all of it.

        The messages' config is ``config`` with the round and, unless it is ``Identity``, the codec.
        With a downlink codec, ``state`` becomes one with the next version of the clients' model.
        """
        settings, number = self._settings, self.number
        if self._leave_out:
            config = ConfigRecord({LEAVE_OUT: True, **config})
        if settings.communication.codec != Identity():
            config = ConfigRecord({"codec": to_json(settings.communication.codec), **config})
        if settings.aggregation.buffers != "merge":
            config = ConfigRecord({BUFFERS: settings.aggregation.buffers, **config})
        if settings.communication.downlink != Identity():
            models = tuple(self._broadcast(*pair) for pair in enumerate(self.state.models))
            self.state = replace(self.state, models=models)
        if settings.aggregation.control_variates:
            models = tuple(
                replace(m, control=m.control or ServerControl.zero(m.layout))
                for m in self.state.models
            )
            self.state = replace(self.state, models=models)
        if (members := settings.ensemble.members) > 1:
            self._tags = {m: settings.seeds.integer("tag", number, m) for m in range(members)}
        assigned_members, seeds = settings.ensemble.assigned_members, settings.seeds
        self._assignments = {
            node: assigned_members(self._roster.identity(node), number, seeds) for node in nodes
        }
        if self._secure is not None:
            nodes = self._secure.exchange(nodes, self._assignments, self.state.models)
        addressed = {node: self._assignments[node] for node in nodes}
        content = contents(self.state.models, addressed, config, self._tags)
        self._work = work
        controls = control_records(self.state.models, addressed, self._tags)
        kind = MessageType.TRAIN
        self._messages = address(nodes, content, self._keys, number, kind, work, controls)
        if self._secure is not None:
            self._secure.add_shares(self._messages)
        self.times.start()
        return self._messages

    def close(self, replies: Iterable[Message]) -> None:
        """Screen the replies, merge the accepted ones and complete state and record.

        ``arrays`` stays as it is if no model was moved.

        Raises
        ------
        BoundError
            If a ``quorum`` > 0 was reached, but the rule needs more updates than there are clients:
            those asked in the round (in an ensemble to train the member), and those that got no
            message because they had no data.
        """
        with span("screen", round=self.number):
            assignments = self._assignments if self._tags else {}
            layouts = [model.layout for model in self.state.models]
            round_log = RoundLog(self.number, self._messages, self._roster, assignments, layouts)
        screened = self._screen(replies, round_log)
        with span("aggregate", round=self.number):
            self._record_times(round_log)
            if self._secure is not None:
                for node, reason in self._secure.absent.items():
                    round_log.add_absent(node, self._roster.partition(node), reason)
            self._aggregate(screened, round_log)
        self._messages, self._secure = [], None  # they hold the last model

    def _aggregate(self, screened: ScreenedReplies, round_log: RoundLog) -> None:
        """Merge the accepted replies and complete state and record."""
        settings = self._settings
        plan, private, means = settings.plan, None, None
        if self._secure is not None:
            means = BucketMeans(self._secure.unmask(screened.accepted))
            projections: Mapping[int, Tensor] = {}
            models = [screened.with_held(*pair) for pair in enumerate(self.state.models)]
            seeds = list(map(settings.member_seeds, range(len(models))))
            merged = means.merge(settings, models, self.number, seeds, self._secure, round_log)
            means.record(self._secure, round_log)
        elif plan is None:
            changes = self._role_changes(screened, round_log)
            projections = self._sketches(screened)
            screened.drop_updates()
            merged = [self._merge(member, *pair, round_log) for member, pair in enumerate(changes)]
        else:
            private = self._merge_privately(plan, screened, round_log)
            projections = self._sketches(screened)
            merged = private.merged
        moved_members = [member for member, outcome in enumerate(merged) if outcome.is_moved]
        passed = round_log.record_influence(merged, None if means is None else means.nodes)
        note_look_alikes({node: screened.metrics(node) for node in screened.accepted})
        reports = [
            reported_metrics(screened.metrics(node), self._work.get(node, 1.0))
            for node in screened.accepted
            if node in passed and private is None and means is None
        ]
        next_models = tuple(outcome.model for outcome in merged)
        if settings.ensemble.mode == "fedavg":
            next_models = aggregation.average_members(next_models, moved_members)
        skipped = list(map(self._roster.identity, round_log.skipped()))
        residuals = self._residuals(screened.without_residual, round_log)
        facts = aggregation.summarize(merged)
        if facts["note"] is not None:
            log(WARNING, "round %d keeps the model: %s", self.number, facts["note"])
        elif private is not None:
            facts |= {"note": private.note, "diagnostics": private.diagnostics}
        secure = settings.aggregation.secure_aggregation
        if secure is not None and secure.noise_multiplier:
            facts["epsilon"] = secure.epsilon(self.number)
        if means is not None:
            facts["diagnostics"] = {**facts["diagnostics"], **means.diagnostics}
        if plan is not None and private is not None:
            facts["epsilon"] = plan.epsilon(private.state)
        f = settings.aggregation.rule.expected_faulty
        record = round_log.close(mean_metrics(reports), **facts, f=f, void=not moved_members)
        virtual, counted = self.times.virtual_round, self.state.aggregated
        is_aggregate = bool(moved_members) and (plan is None or record.kept > 0)
        if virtual is not None and not self._messages:
            virtual = 0.0  # the Grid's last round is an earlier one
        virtual_time = self.state.virtual_time + (virtual or 0.0)
        self.record = replace(record, virtual_time=None if virtual is None else virtual_time)
        self.state = ServerState(
            self.number,
            next_models,
            residuals,
            add_resting(self.state.resting, self.number, skipped),
            None if counted is None else counted + is_aggregate,
            self._histories(screened, projections),
            self.state.selector,
            virtual_time,
            None if private is None else private.state,
        )
        if moved_members:
            self._arrays = None

    def _broadcast(self, member: int, model: ModelState) -> ModelState:
        """Return the server's state of one model with a new version of the model clients train.

        That version differs from the server's model by the downlink codec's error.
        """
        codec, seeds = self._settings.communication.downlink, self._settings.member_seeds(member)
        state = model.model()
        broadcast = model.broadcast or Broadcast(model.layout, state)
        return replace(model, broadcast=broadcast.next_version(state, codec, seeds))

    def _screen(self, replies: Iterable[Message], round_log: RoundLog) -> ScreenedReplies:
        """Return the screened replies, the accepted ones sorted by partition id (``order``)."""
        screened = ScreenedReplies(
            self.state.models,
            self._messages,
            round_log,
            self._tags,
            self._settings.communication.screening,
            self._keys[0],
            controls=self._settings.aggregation.control_variates,
            secure=self._secure,
        )
        notes = ReplyNotes(self.number, self._roster, round_log)
        storage = UpdateStorage(self._settings, self.state.models, len(self._messages), self.number)
        threads = decoding_threads(self.state.models)
        with ThreadPoolExecutor(threads, "decode") as pool:
            begin = partial(screened.begin, pool=pool) if threads > 1 else lambda _: None
            for reply, arrived, begun in in_order(notes.waiting_for(replies), begin, threads):
                node = screened.add(reply, begun)
                if node is not None:
                    self.times.record_reply(node, arrived)
                if node in screened.accepted and self._secure is None:
                    client = self._roster.identity(node)
                    screened.accepted[node] = storage.stored(client, screened.accepted[node])
                notes.add(node)
                del reply, begun  # not kept while the next client trains
        self.times.record_end()
        notes.add_late(self._messages)
        order = self._roster.order(screened.accepted)
        screened.accepted = {node: screened.accepted[node] for node in order}
        return screened

    def _record_times(self, round_log: RoundLog) -> None:
        """Record how long each reply took, and for how much work."""
        virtual = self.times.virtual
        for message in self._messages:
            node = message.metadata.dst_node_id
            round_log.update(
                node,
                turnaround_seconds=self.times.arrival(node),
                virtual_turnaround=None if virtual is None else virtual.get(node),
                work=self._work.get(node, 1.0),
            )

    def _sketches(self, screened: ScreenedReplies) -> Mapping[int, Tensor]:
        """Return node -> random projection of its update, if the selector reads any."""
        settings = self._settings
        if not (settings.keeps_histories and settings.participation.selector.uses_sketches):
            return {}
        members = range(settings.ensemble.members)
        return sketches([(settings.member_seeds(m), screened.of_member(m)) for m in members])

    def _histories(self, screened: ScreenedReplies, projections: Mapping[int, Tensor]) -> Histories:
        """Return what was measured of the clients, with this round; nothing if nobody reads it."""
        settings, replies = self._settings, screened.accepted
        if not settings.keeps_histories:
            return self.state.histories
        observations = [
            (
                self._roster.identity(client.node),
                observe(
                    client, self.times, replies.get(client.node, {}), projections.get(client.node)
                ),
            )
            for client in self.record.clients
        ]
        return histories_after(self.state.histories, observations)

    def _role_changes(
        self, screened: ScreenedReplies, round_log: RoundLog
    ) -> list[tuple[ModelState, dict[int, Accepted]]]:
        """Return each member after changes of roles, with its accepted updates.

        What nodes report to hold is noted in the members. A client that alone changes an entry that
        is not trained is rejected.
        """
        rule, changes = self._settings.aggregation.rule, []
        for member, model in enumerate(self.state.models):
            model = screened.with_held(member, model)
            replies = screened.of_member(member)
            needed = max(self._settings.aggregation.quorum, rule.minimum())
            change = apply_role_changes(model, replies, rule.breakdown(len(replies)), needed)
            for node, name in change.rejected.items():
                screened.accepted.pop(node)
                reason = f"rejected: changed {name!r}, which is not trained"
                round_log.update(node, reason=reason)
            for line in change.changes:
                log(INFO, "round %d: %s", self.number, line)
            changes.append((change.model, change.replies))
        return [
            (model, {node: part for node, part in replies.items() if node in screened.accepted})
            for model, replies in changes
        ]

    def _merge(
        self,
        member: int,
        model: ModelState,
        replies: dict[int, Accepted],
        round_log: RoundLog,
    ) -> MergedModel:
        """Return a member merged from its accepted updates, or kept as ``merge_model`` describes.

        ``replies`` is emptied. A member of an ensemble is also kept if no client was assigned it.
        """
        if self._tags and not round_log.assigned_clients(member):
            return MergedModel(model, note="no client was given it")
        cohort = Cohort(
            ids=tuple(self._roster.identity(node) for node in replies),
            num_examples=tuple(reply.num_examples for reply in replies.values()),
            faulty=round_log.count(REJECTED, member) + round_log.count(FAILED, member),
            late=round_log.count(LATE, member) + round_log.count(MISSING, member),
            skipped=round_log.count(SKIPPED, member),
            round=self.number,
            seed=self._settings.member_seeds(member).root,
        )
        work = []
        for node, reply in replies.items():
            work.append(confirmed_work(reply.metrics, self._work.get(node, 1.0)))
            round_log.update(node, work=work[-1])
        settings, density = self._settings.aggregation, self._settings.reporting.density
        resting = len(self.state.resting)
        known = self.state.histories
        histories = [known.get(client, NEW_CLIENT) for client in cohort.ids]
        return aggregation.merge_model(
            settings,
            density,
            model,
            replies,
            cohort,
            resting,
            work,
            histories,
            self._settings.participation.min_available_nodes,
        )

    def _merge_privately(
        self, plan: PrivatePlan, screened: ScreenedReplies, round_log: RoundLog
    ) -> PrivateOutcome:
        """Return the members merged with differential privacy.

        Roles do not change. A client that changes an entry that is not trained is rejected.
        """
        privacy = self.state.privacy
        assert privacy is not None
        models = [screened.with_held(*pair) for pair in enumerate(self.state.models)]
        for node, parts in list(screened.accepted.items()):
            changed = [name for reply in parts.values() for name in reply.changed]
            if changed:
                screened.accepted.pop(node)
                reason = f"rejected: changed {changed[0]!r}, which is not trained"
                round_log.update(node, reason=reason)
        identity = self._roster.identity
        clients = {m.metadata.dst_node_id: identity(m.metadata.dst_node_id) for m in self._messages}
        return merge_privately(
            plan, self._settings, models, screened.accepted, clients, (self.number, privacy)
        )

    def _residuals(
        self, without_residual: Iterable[tuple[int, int]], round_log: RoundLog
    ) -> dict[tuple[int, int], int]:
        """Return (client, member) -> the round since which the client holds a feedback residual.

        Those in ``without_residual`` hold one from this round on; if they held one before, they
        lost it, which is logged and recorded as ``feedback_lost``. All others are as before.
        """
        since = dict(self.state.feedback)
        for node, member in sorted(without_residual):
            client = self._roster.identity(node)
            if (client, member) in since:
                round_log.update(node, feedback_lost=True)
                log(WARNING, "node %d (client %d) has lost its error feedback", node, client)
            since[client, member] = self.number
        return since
