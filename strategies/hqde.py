"""The one Strategy: hostile replies in, a sound global model out."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import fields, replace
from itertools import count
from logging import INFO, WARNING
from typing import final

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result

from hqde_fl.codec import Identity
from hqde_fl.codec.request import to_json
from hqde_fl.errors import RunError
from hqde_fl.protocol.flower_internals import log
from hqde_fl.rules import Aggregator, Cohort
from hqde_fl.rules.tolerance import silence_warning
from hqde_fl.seeding import Seeds
from hqde_fl.selection import Ensemble, Selector, Uniform
from hqde_fl.strategies.broadcast import Broadcast, address
from hqde_fl.strategies.callbacks import RoundRecord
from hqde_fl.strategies.metrics import floats, means
from hqde_fl.strategies.resting import put_to_rest, still_resting
from hqde_fl.strategies.roster import Roster
from hqde_fl.strategies.round.aggregation import Merged, Merging, summed_up, united
from hqde_fl.strategies.round.outgoing import contents
from hqde_fl.strategies.round.receiving import Received, receive, receive_reports
from hqde_fl.strategies.round.round_log import Ledger, Verdict
from hqde_fl.strategies.settings import (
    Aggregation,
    Communication,
    Participation,
    Reporting,
    StrategySettings,
)
from hqde_fl.strategies.state import ModelState, ServerState
from hqde_fl.strategies.void_rounds import VoidRounds

EvaluateFn = Callable[[int, ArrayRecord], MetricRecord | None]


@final
class HQDEStrategy(FedAvg):
    """Federated learning with a robust rule; works with any Flower ``ClientApp``.

    Every reply is screened before a rule sees it. A client whose reply is malformed is dropped for
    the round, named and counted; it never stops the run.

    Inside another strategy, whose ``start`` runs the rounds, callbacks are not called. (Flower's
    strategies for differential privacy aggregate nothing in a round with an error reply: every
    client that they ask needs data.)

    Parameters
    ----------
    aggregation : Aggregation or Aggregator, optional
        How the updates of a round become the next model; a rule alone is short for
        ``Aggregation(rule)``. By default FedAvg.
    communication : Communication, optional
        How models and updates travel, and which replies are accepted.
    participation : Participation, optional
        Which nodes take part in a round.
    ensemble : Ensemble, optional
        The members of an ensemble and their assignment to clients; each is merged by itself, over
        the clients that trained it. By default one model.
    reporting : Reporting, optional
        What is reported of a run, and to whom.
    seed : int
        Root of all that the server draws at random, >= 0, by default 0.
    """

    def __init__(
        self,
        aggregation: Aggregation | Aggregator | None = None,
        *,
        communication: Communication | None = None,
        participation: Participation | None = None,
        ensemble: Ensemble | None = None,
        reporting: Reporting | None = None,
        seed: int = 0,
    ) -> None:
        if aggregation is not None and not isinstance(aggregation, Aggregation):
            aggregation = Aggregation(aggregation)
        participation = participation or Participation()
        super().__init__(min_available_nodes=participation.min_available_nodes)
        self.fraction_evaluate = participation.fraction_evaluate
        self.settings = StrategySettings(
            aggregation or Aggregation(),
            communication or Communication(),
            participation,
            ensemble or Ensemble(),
            reporting or Reporting(),
            Seeds(seed),
        )
        self.state: ServerState | None = None
        self._arrays: ArrayRecord | None = None
        self._roster = Roster()
        self._sent: list[Message] = []
        self._sent_evaluate: list[Message] = []
        self._shares: dict[int, tuple[int, ...]] = {}
        self._tags: dict[int, int] = {}
        self._record = RoundRecord(round=0)

    def summary(self) -> None:
        """Log what the strategy is made of."""
        groups = self.settings
        for group in (groups.aggregation, groups.communication, groups.participation):
            for part in fields(group):
                log(INFO, "\t├── %s: %s", part.name, getattr(group, part.name))
        log(INFO, "\t├── ensemble: %s", groups.ensemble)

    # --- one round, as Flower calls it ------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Choose the clients and address the global model to them.

        The model is what is handed in: a strategy around this one may have changed it since the
        last round. All else that the server remembers is kept; round 1 begins a new run.
        """
        self.state, self._arrays = self._taken_up(server_round, arrays), arrays
        rng = self.settings.seeds.numpy("select", "train", server_round)
        nodes = self._select(
            self.settings.participation.selector, self._nodes(grid), server_round, rng
        )
        if server_round == 1 and (warning := self._warning(len(nodes))):
            log(WARNING, warning)
        if self.settings.communication.codec != Identity():
            config = ConfigRecord({"codec": to_json(self.settings.communication.codec), **config})
        if self.settings.communication.downlink != Identity():
            models = tuple(map(self._followed, self.state.models, map(self._seeds, count())))
            self.state = replace(self.state, models=models)
        self._tags, share = {}, self.settings.ensemble.share
        if (members := self.settings.ensemble.members) > 1:
            self._tags = {
                m: self.settings.seeds.integer("tag", server_round, m) for m in range(members)
            }
        self._shares = {
            node: share(self._roster.identity(node), server_round, self.settings.seeds)
            for node in nodes
        }
        sent = contents(self.state.models, self._shares, config, self._tags)
        self._sent = address(nodes, sent, self._keys, server_round, MessageType.TRAIN)
        return self._sent

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Screen the replies, merge what is left, move the model.

        Returns
        -------
        tuple[ArrayRecord | None, MetricRecord | None]
            The new model (None if the old one was kept) and the mean metrics of the clients kept.

        Raises
        ------
        BoundError
            If ``quorum`` was reached but the rule needs more updates than clients were asked.
        """
        if self.state is None:
            raise RuntimeError("aggregate_train needs configure_train to be called before it")
        several = self.settings.ensemble.members > 1
        ledger = Ledger(server_round, self._sent, self._roster, self._shares if several else None)
        limits, key = self.settings.communication.screening, self.arrayrecord_key
        received = receive(replies, ledger, self.state.models, self._tags, limits, key)
        received = received.ordered(self._roster.order(received.accepted))
        merged: dict[int, Merged] = {}
        for member, model in enumerate(self.state.models):
            merged[member] = self._merge(member, received.heard(member, model), received, ledger)
        moved = [member for member, each in merged.items() if each.note is None]
        verdicts = {
            member: Verdict(list(received.of(member)), each.outcome, member in moved)
            for member, each in merged.items()
            if each.outcome is not None
        }
        kept = ledger.settle(verdicts)
        metrics = means([received.metrics(node) for node in received.accepted if node in kept])
        models = tuple(each.model for each in merged.values())
        if self.settings.ensemble.mode == "fedavg":
            models = united(models, moved)
        self.state = ServerState(
            server_round,
            models,
            self._feedback(received.anew, ledger),
            put_to_rest(
                self.state.resting, server_round, list(map(self._roster.identity, ledger.skipped()))
            ),
            None if self.state.aggregated is None else self.state.aggregated + bool(moved),
        )
        facts = summed_up(merged)
        if facts["note"] is not None:
            log(WARNING, "round %d keeps the model: %s", server_round, facts["note"])
        f = self.settings.aggregation.rule.expected_faulty
        self._record = ledger.close(metrics, **facts, f=f, void=not moved)
        if moved:
            self._arrays = self.state.arrays()
        return (self._arrays if moved else None), MetricRecord(dict(metrics))

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Choose the clients that evaluate the model."""
        if self.settings.participation.fraction_evaluate == 0:
            return []
        rng = self.settings.seeds.numpy("select", "evaluate", server_round)
        selector = Uniform(self.settings.participation.fraction_evaluate)
        nodes = self._select(selector, self._nodes(grid), server_round + 1, rng)
        contents = [(arrays, config)] * len(nodes)
        self._sent_evaluate = address(
            nodes, contents, self._keys, server_round, MessageType.EVALUATE
        )
        return self._sent_evaluate

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Mean of the clients' metrics, each client counting once."""
        reports = receive_reports(
            replies, self._sent_evaluate, self.settings.communication.screening
        )
        good = [reports[node] for node in self._roster.order(reports)]
        return MetricRecord(dict(means(good))) if good else None

    # --- the whole run ----------------------------------------------------------------------------

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float | None = None,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: EvaluateFn | None = None,
        resume: ServerState | None = None,
    ) -> Result:
        """Run the rounds.

        Parameters
        ----------
        grid : Grid
            The way to the nodes.
        initial_arrays : ArrayRecord
            The initial model.
        num_rounds : int
            How many rounds.
        timeout : float, optional
            Seconds that a round waits for replies; ``deadline`` if not given.
        train_config, evaluate_config : ConfigRecord, optional
            Sent along with the model.
        evaluate_fn : callable, optional
            (round, model) -> metrics on the server, before the first round and after each.
        resume : ServerState, optional
            Where a run of the same configuration was: the round after it is the first one, and its
            model takes the place of ``initial_arrays``. What is over is not reported again.

        Returns
        -------
        Result
            Final model and metrics, as Flower's strategies return them.

        Raises
        ------
        RunError
            If no round of the run produced an aggregate, after all callbacks were told of the end:
            what became of the clients, and what to change.
        """
        deadline = self.settings.communication.deadline if timeout is None else timeout
        self.state = resume or self._begin(initial_arrays)
        self._arrays = initial_arrays = self.state.arrays()
        result = Result(arrays=initial_arrays)
        self.summary()
        void = VoidRounds(deadline, self.state.round + 1)
        for callback in self.settings.reporting.callbacks:
            callback.on_start(initial_arrays, num_rounds)
        if resume is None:
            self._finish(RoundRecord(round=0), result, evaluate_fn, time.monotonic())
        for server_round in range(self.state.round + 1, num_rounds + 1):
            started = time.monotonic()
            config = train_config if train_config is not None else ConfigRecord()
            messages = self.configure_train(server_round, result.arrays, config, grid)
            replies = grid.send_and_receive(messages, timeout=deadline) if messages else ()
            arrays, metrics = self.aggregate_train(server_round, replies)
            if arrays is not None:
                result.arrays = arrays
            if metrics is not None:
                result.train_metrics_clientapp[server_round] = metrics
            record = self._record
            void.add(record)
            config = evaluate_config if evaluate_config is not None else ConfigRecord()
            messages = self.configure_evaluate(server_round, result.arrays, config, grid)
            if messages:
                evaluated = self.aggregate_evaluate(
                    server_round, grid.send_and_receive(messages, timeout=deadline)
                )
                if evaluated is not None:
                    result.evaluate_metrics_clientapp[server_round] = evaluated
                    record = replace(record, clients_evaluate=floats(evaluated))
            self._finish(record, result, evaluate_fn, started)
        for callback in self.settings.reporting.callbacks:
            callback.on_end(result.arrays)
        if self.state.round and self.state.aggregated == 0:
            raise RunError(void.failure())
        if summary := void.summary():
            log(INFO, summary)
        return result

    # --- its parts --------------------------------------------------------------------------------

    @property
    def _merging(self) -> Merging:
        return Merging(
            self.settings.aggregation.rule,
            self.settings.aggregation.server_optimizer,
            self.settings.aggregation.quorum,
            self.settings.aggregation.confidence,
            self.settings.reporting.density,
        )

    @property
    def _keys(self) -> tuple[str, str]:
        return self.arrayrecord_key, self.configrecord_key

    def _taken_up(self, server_round: int, arrays: ArrayRecord) -> ServerState:
        """Return the state from which a round starts, with the model that was handed in."""
        if self.state is None or server_round <= 1 <= self.state.round:
            return self._begin(arrays)
        # The record that this strategy made itself needs no second look.
        return self.state if arrays is self._arrays else self.state.with_arrays(arrays)

    def _select(
        self, selector: Selector, nodes: list[int], server_round: int, rng: np.random.Generator
    ) -> list[int]:
        """Return the nodes chosen for a round: as many as if none rested, of those that do not."""
        assert self.state is not None
        reconnected = set(map(self._roster.identity, self._roster.reconnected))
        resting = still_resting(self.state.resting, server_round, reconnected)
        self.state = replace(self.state, resting=resting)
        if not resting:
            return selector.select(nodes, rng)
        awake = [node for node in nodes if self._roster.identity(node) not in resting]
        return selector.select(awake, rng, selector.size(len(nodes))) if awake else []

    def _warning(self, clients: int) -> str | None:
        """Return a warning if few silent clients suffice to void every round."""
        cohort = self.settings.ensemble.cohort(clients)
        return silence_warning(
            self.settings.aggregation.rule, cohort, "" if cohort == clients else " of each member"
        )

    def _nodes(self, grid: Grid) -> list[int]:
        patience = (
            self.settings.communication.deadline if self.settings.participation.identify else 0.0
        )
        return self._roster.wait(
            grid,
            self.settings.participation.min_available_nodes,
            self.settings.participation.wait_for_nodes,
            patience,
        )

    def _seeds(self, member: int) -> Seeds:
        """What is drawn on the server for a member."""
        several = self.settings.ensemble.members > 1
        return (
            Seeds(self.settings.seeds.integer("member", member)) if several else self.settings.seeds
        )

    def _begin(self, arrays: ArrayRecord) -> ServerState:
        """The state before the first round."""
        state = ServerState.of(arrays, self.settings.ensemble.members)
        if self.settings.ensemble.mode == "fedavg":  # members that will be one model start as one
            state = replace(state, models=united(state.models, [0]))
        return state

    def _followed(self, model: ModelState, seeds: Seeds) -> ModelState:
        """The model with the next version of the clients' model, as near to it as can be packed."""
        state = model.model()
        broadcast = model.broadcast or Broadcast(model.layout, state)
        return replace(
            model, broadcast=broadcast.follow(state, self.settings.communication.downlink, seeds)
        )

    def _merge(self, member: int, model: ModelState, received: Received, ledger: Ledger) -> Merged:
        """The next state of a member, merged over the clients that trained it."""
        if self.settings.ensemble.members > 1 and not ledger.given(member):
            return Merged(model, note="no client was given it")
        replies = received.of(member)
        cohort = Cohort(
            ids=tuple(self._roster.identity(node) for node in replies),
            num_examples=tuple(reply.num_examples for reply in replies.values()),
            faulty=ledger.count("rejected", member) + ledger.count("failed", member),
            late=ledger.count("late", member),
            skipped=ledger.count("skipped", member),
            round=ledger.round,
            seed=self._seeds(member).root,
        )
        resting = len(self.state.resting) if self.state is not None else 0
        return self._merging.merge(model, list(replies.values()), cohort, resting)

    def _feedback(
        self, anew: Collection[tuple[int, int]], ledger: Ledger
    ) -> dict[tuple[int, int], int]:
        """Who has kept an error to feed back, since when; who had one and has not is counted."""
        kept = dict(self.state.feedback if self.state is not None else {})
        for node, member in sorted(anew):
            client = self._roster.identity(node)
            if (client, member) in kept:
                ledger.write(node, feedback_lost=True)
                log(WARNING, "node %d (client %d) has lost its error feedback", node, client)
            kept[client, member] = ledger.round
        return kept

    def _finish(
        self, record: RoundRecord, result: Result, evaluate_fn: EvaluateFn | None, started: float
    ) -> None:
        """Evaluate on the server, tell everyone."""
        if evaluate_fn is not None:
            metrics = evaluate_fn(record.round, result.arrays)
            if metrics is not None:
                result.evaluate_metrics_serverapp[record.round] = metrics
                record = replace(record, server=floats(metrics))
        record = replace(record, seconds=time.monotonic() - started)
        log(INFO, "round %d: %s", record.round, dict(record.server))
        for callback in self.settings.reporting.callbacks:
            callback.on_round(record, result.arrays)
        assert self.state is not None
        for callback in self.settings.reporting.callbacks:
            callback.on_state(self.state, record)
