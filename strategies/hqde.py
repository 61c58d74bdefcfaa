"""The one Strategy: hostile replies in, a sound global model out."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from itertools import count
from logging import INFO, WARNING
from typing import final, get_args

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result

from hqde_fl.codec import Codec, Identity
from hqde_fl.codec.request import to_json
from hqde_fl.errors import ConfigError, RunError
from hqde_fl.protocol.flower_internals import log
from hqde_fl.protocol.screening import Screening
from hqde_fl.rules import Aggregator, Cohort, Mean
from hqde_fl.rules.tolerance import silence_warning
from hqde_fl.seeding import Seeds
from hqde_fl.selection import Ensemble, Selector, Uniform
from hqde_fl.strategies.broadcast import Broadcast, address
from hqde_fl.strategies.callbacks import Callback, RoundRecord
from hqde_fl.strategies.confidence import Confidence, HeldOut
from hqde_fl.strategies.metrics import floats, means
from hqde_fl.strategies.optimizers import SGD, ServerOptimizer
from hqde_fl.strategies.resting import put_to_rest, still_resting
from hqde_fl.strategies.roster import Roster
from hqde_fl.strategies.round.aggregation import DensityPolicy, Merged, Merging, summed_up, united
from hqde_fl.strategies.round.outgoing import contents
from hqde_fl.strategies.round.receiving import Received, receive, receive_reports
from hqde_fl.strategies.round.round_log import Ledger, Verdict
from hqde_fl.strategies.state import ModelState, ServerState
from hqde_fl.strategies.void_rounds import VoidRounds

EvaluateFn = Callable[[int, ArrayRecord], MetricRecord | None]


@final
class HQDEStrategy(FedAvg):
    """Federated learning with a robust rule; works with any Flower ``ClientApp``.

    Every reply is screened before a rule sees it. A client whose reply is malformed is dropped for
    the round, named and counted; it never stops the run.

    Parameters
    ----------
    rule : Aggregator
        How the updates are merged; plain FedAvg if not given.
    codec : Codec
        How clients are asked to pack their updates, as those of ``ensemble_app`` and others with a
        ``CodecMod`` do; the rest send full weights, and both may take part in one round.
        ``Identity`` asks for nothing.
    downlink : Codec
        How the model's changes are packed for clients that hold an earlier version, as those of
        ``ensemble_app`` and others with a ``DownlinkMod`` say; all clients then train from the
        model as it can be reconstructed. ``Identity`` sends everybody the exact model in full.
    ensemble : Ensemble
        The members of an ensemble, and who trains which: each is merged by itself, over the clients
        that trained it. One model if not given.
    selector : Selector
        Who trains each round.
    server_optimizer : ServerOptimizer
        How the aggregated update moves the model.
    screening : Screening
        What a reply may look like.
    deadline : float
        Seconds that a round waits for replies; who comes later is late.
    quorum : int
        A round with fewer good replies keeps the model, and a member that got fewer in an
        ensemble. 0: as many as the rule needs.
    density : "free", "always" or "never"
        When purity, entropy, mean correlation and fidelity to the last round of the updates'
        density matrix are among a round's diagnostics. ``"free"``: where the rule measures the
        updates' inner products anyway, for up to 256 clients. ``"always"``: where it does not, by
        one more pass over the updates, O(n^2 d).
    held_out : HeldOut
        (a client's model, as a state dict) -> how good it is on examples that you keep for this, in
        [0, 1]. For rules with ``confidence="held-out"``, which need it.
    confidence_metric : str
        The metric of a client's reply that rules with ``confidence="reported"`` take its word from,
        clipped to [0, 1]; one that ends in ``loss`` becomes e^(-loss). ``"train-loss"`` if not
        given.
    callbacks : Sequence[Callback]
        Told by ``start`` what happens. Inside another strategy, whose ``start`` runs the rounds,
        nobody calls them. (Flower's strategies for differential privacy aggregate nothing in a
        round with an error reply: every client that they ask needs data.)
    seed : int
        Of the selection.
    identify : bool
        Ask the nodes for their partition id first (``ensemble_app`` answers), so that a run is
        reproducible on engines whose node ids are random.
    fraction_evaluate : float
        Fraction of the nodes that evaluate the model after each round; 0 for none.
    min_available_nodes : int
        Wait for so many nodes before a round.
    wait_for_nodes : float
        Seconds to wait for them, then ``CohortError``.
    """

    def __init__(
        self,
        rule: Aggregator | None = None,
        *,
        codec: Codec | None = None,
        downlink: Codec | None = None,
        ensemble: Ensemble | None = None,
        selector: Selector | None = None,
        server_optimizer: ServerOptimizer | None = None,
        screening: Screening | None = None,
        deadline: float = 3600.0,
        quorum: int = 0,
        density: DensityPolicy = "free",
        held_out: HeldOut | None = None,
        confidence_metric: str = "",
        callbacks: Sequence[Callback] = (),
        seed: int = 0,
        identify: bool = False,
        fraction_evaluate: float = 1.0,
        min_available_nodes: int = 1,
        wait_for_nodes: float = 600.0,
    ) -> None:
        super().__init__(min_available_nodes=min_available_nodes)
        if not 0 <= fraction_evaluate <= 1:
            raise ConfigError(f"fraction_evaluate must be in [0, 1], found {fraction_evaluate}")
        if deadline <= 0 or quorum < 0:
            raise ConfigError(
                f"HQDEStrategy needs deadline > 0 and quorum >= 0, found {deadline} and {quorum}"
            )
        if downlink is not None and downlink.stateful:
            raise ConfigError(f"downlink feeds its errors back by itself, found {downlink}")
        self.fraction_evaluate = fraction_evaluate
        self.rule = rule if rule is not None else Mean(weighted=True)
        if density not in get_args(DensityPolicy):
            known = ", ".join(get_args(DensityPolicy))
            raise ConfigError(f"density must be among {known}, found {density!r}")
        self.density: DensityPolicy = density
        self.confidence = Confidence.asked_by(self.rule, confidence_metric, held_out)
        self.codec = codec if codec is not None else Identity()
        self.downlink = downlink if downlink is not None else Identity()
        self.ensemble = ensemble if ensemble is not None else Ensemble()
        self.selector = selector if selector is not None else Uniform()
        self.server_optimizer = server_optimizer if server_optimizer is not None else SGD()
        self.screening = screening if screening is not None else Screening()
        self.deadline, self.quorum, self.wait_for_nodes = deadline, quorum, wait_for_nodes
        self.callbacks, self.identify, self.seeds = tuple(callbacks), identify, Seeds(seed)
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
        parts = "rule codec downlink ensemble selector server_optimizer screening deadline quorum"
        for name in parts.split():
            log(INFO, "\t├── %s: %s", name, getattr(self, name))

    # --- one round, as Flower calls it ------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Choose the clients and address the global model to them.

        The model is what is handed in: a strategy around this one may have changed it since the
        last round. All else that the server remembers is kept; round 1 begins a new run.
        """
        self.state, self._arrays = self._taken_up(server_round, arrays), arrays
        rng = self.seeds.numpy("select", "train", server_round)
        nodes = self._select(self.selector, self._nodes(grid), server_round, rng)
        if server_round == 1 and (warning := self._warning(len(nodes))):
            log(WARNING, warning)
        if self.codec != Identity():
            config = ConfigRecord({"codec": to_json(self.codec), **config})
        if self.downlink != Identity():
            models = tuple(map(self._followed, self.state.models, map(self._seeds, count())))
            self.state = replace(self.state, models=models)
        self._tags, share = {}, self.ensemble.share
        if (members := self.ensemble.members) > 1:
            self._tags = {m: self.seeds.integer("tag", server_round, m) for m in range(members)}
        self._shares = {
            node: share(self._roster.identity(node), server_round, self.seeds) for node in nodes
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
        several = self.ensemble.members > 1
        ledger = Ledger(server_round, self._sent, self._roster, self._shares if several else None)
        limits, key = self.screening, self.arrayrecord_key
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
        if self.ensemble.mode == "fedavg":
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
        f = self.rule.expected_faulty
        self._record = ledger.close(metrics, **facts, f=f, void=not moved)
        if moved:
            self._arrays = self.state.arrays()
        return (self._arrays if moved else None), MetricRecord(dict(metrics))

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Choose the clients that evaluate the model."""
        if self.fraction_evaluate == 0:
            return []
        rng = self.seeds.numpy("select", "evaluate", server_round)
        selector = Uniform(self.fraction_evaluate)
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
        reports = receive_reports(replies, self._sent_evaluate, self.screening)
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
        deadline = self.deadline if timeout is None else timeout
        self.state = resume or self._begin(initial_arrays)
        self._arrays = initial_arrays = self.state.arrays()
        result = Result(arrays=initial_arrays)
        self.summary()
        void = VoidRounds(deadline, self.state.round + 1)
        for callback in self.callbacks:
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
        for callback in self.callbacks:
            callback.on_end(result.arrays)
        if self.state.round and self.state.aggregated == 0:
            raise RunError(void.failure())
        if summary := void.summary():
            log(INFO, summary)
        return result

    # --- its parts --------------------------------------------------------------------------------

    @property
    def _merging(self) -> Merging:
        return Merging(self.rule, self.server_optimizer, self.quorum, self.confidence, self.density)

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
        cohort = self.ensemble.cohort(clients)
        return silence_warning(self.rule, cohort, "" if cohort == clients else " of each member")

    def _nodes(self, grid: Grid) -> list[int]:
        patience = self.deadline if self.identify else 0.0
        return self._roster.wait(grid, self.min_available_nodes, self.wait_for_nodes, patience)

    def _seeds(self, member: int) -> Seeds:
        """What is drawn on the server for a member."""
        several = self.ensemble.members > 1
        return Seeds(self.seeds.integer("member", member)) if several else self.seeds

    def _begin(self, arrays: ArrayRecord) -> ServerState:
        """The state before the first round."""
        state = ServerState.of(arrays, self.ensemble.members)
        if self.ensemble.mode == "fedavg":  # members that will be one model start as one
            state = replace(state, models=united(state.models, [0]))
        return state

    def _followed(self, model: ModelState, seeds: Seeds) -> ModelState:
        """The model with the next version of the clients' model, as near to it as can be packed."""
        state = model.model()
        broadcast = model.broadcast or Broadcast(model.layout, state)
        return replace(model, broadcast=broadcast.follow(state, self.downlink, seeds))

    def _merge(self, member: int, model: ModelState, received: Received, ledger: Ledger) -> Merged:
        """The next state of a member, merged over the clients that trained it."""
        if self.ensemble.members > 1 and not ledger.given(member):
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
        for callback in self.callbacks:
            callback.on_round(record, result.arrays)
        assert self.state is not None
        for callback in self.callbacks:
            callback.on_state(self.state, record)
