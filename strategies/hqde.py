"""The Strategy of this project: a robust rule over replies that are hostile until screened."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from logging import INFO, WARNING
from typing import final

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result

from hqde_fl.codec.formats import register
from hqde_fl.errors import ConfigError, RunError
from hqde_fl.monitor.spans import EVALUATE, ROUND, note_sent, span
from hqde_fl.own_modules import own_code
from hqde_fl.protocol.flower_internals import log
from hqde_fl.protocol.message_roles import BUFFERS
from hqde_fl.rules import Aggregator
from hqde_fl.seeding import Seeds
from hqde_fl.selection import Candidates, Ensemble, Selector, Uniform
from hqde_fl.selection.base import State
from hqde_fl.strategies.callbacks import RoundRecord
from hqde_fl.strategies.choice import Choice, choose_nodes
from hqde_fl.strategies.metrics import scalar_metrics
from hqde_fl.strategies.resting import resting_clients
from hqde_fl.strategies.roster import Roster
from hqde_fl.strategies.round.aggregation import average_members
from hqde_fl.strategies.round.evaluation import Evaluation
from hqde_fl.strategies.round.reply_times import ReplyTimes
from hqde_fl.strategies.round.round import Round
from hqde_fl.strategies.round.secure_round import SecureRound
from hqde_fl.strategies.run_report import EvaluateFn, RunReport
from hqde_fl.strategies.secure_checks import check_secure_models
from hqde_fl.strategies.settings import (
    Aggregation,
    Communication,
    Participation,
    Reporting,
    StrategySettings,
)
from hqde_fl.strategies.state import ServerState
from hqde_fl.updates.roles import Roles

StopFn = Callable[[int, Result], bool]
"""Function (round, result so far) -> whether the run ends; see ``HQDEStrategy.start``."""


@final
class HQDEStrategy(FedAvg):
    """Federated learning with a robust rule; works with any Flower ``ClientApp``.

    Every reply is screened before a rule sees it. A client whose reply is malformed is rejected
    for the round, named and counted; it never stops the run.

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
        What is reported of a run.
    seed : int
        Root of all that the server draws at random, >= 0, by default 0.
    roles : Roles, optional
        The roles of the model's entries (of each member's, in an ensemble): what is trained, and
        what only goes with it; ``roles_of(model)`` tells them. By default they are inferred: from
        names and dtypes, and by the first round, in which weights that nobody changes count as
        frozen, until someone does.
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
        roles: Roles | None = None,
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
            roles,
        )
        self.settings.check_control_variates()
        self.settings.check_secure_aggregation()
        _ = self.settings.plan  # raises if differential privacy does not go with the rest
        register(self.settings.communication.codec)
        register(self.settings.communication.downlink)
        self.state: ServerState | None = None
        self._roster = Roster()
        self._round: Round | None = None
        self._evaluation = Evaluation()
        self._deadline = self.settings.communication.deadline

    def summary(self) -> None:
        """Log the parts of the strategy: rule, codecs, ensemble, selector and so on."""
        for name, value in self.settings.parts().items():
            log(INFO, "\t├── %s: %s", name, value)

    # --- one round, as Flower calls it ------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Choose the clients that train and return one message with the model for each of them.

        The model is the one handed in: a strategy around this one may have changed it since the
        last round. All other state is kept; round 1 begins a new run.

        Raises
        ------
        CohortError
            If fewer than ``min_available_nodes`` are connected after ``wait_for_nodes`` seconds.
        RunError
            If the round would exceed the privacy budget.
        ConfigError
            With secure aggregation, which needs ``start``.
        """
        if self.settings.aggregation.secure_aggregation is not None:
            raise ConfigError(
                "HQDEStrategy with secure aggregation cannot be inside of another strategy, which "
                "would read masked updates: call its start"
            )
        # a strategy around this one may read the replies, and needs all entries
        if self.settings.plan is not None:
            self.state = self._starting_state(server_round, arrays)
            if stop := self._exhausted(server_round):
                raise RunError(stop)
        return self._open_round(server_round, arrays, config, grid, leave_out=False)

    def _open_round(
        self,
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,
        grid: Grid,
        *,
        leave_out: bool,
    ) -> list[Message]:
        """Do the work of ``configure_train``; clients may leave entries out if ``leave_out``."""
        with span("address", round=server_round):
            self.state = self._starting_state(server_round, arrays)
            self._begin_privacy(None)
        with span("select", round=server_round):
            rng = self.settings.seeds.numpy("select", "train", server_round)
            plan = self.settings.plan
            if plan is not None and not plan.privacy.noise.seeded:
                rng = np.random.default_rng()  # who takes part must not follow from a seed
            selector, memory = self.settings.participation.selector, self.state.selector
            choice = self._select(selector, grid, server_round, memory, rng)
        self.state = replace(self.state, selector=choice.state)
        if server_round == 1 and (warning := self.settings.silence_warning(len(choice.nodes))):
            log(WARNING, warning)
        with span("address", round=server_round):
            current = Round(
                server_round,
                self.state,
                arrays,
                self.settings,
                self._roster,
                self._keys,
                leave_out=leave_out,
                times=ReplyTimes(grid, self._deadline),
                secure=self._secure_round(server_round, grid),
            )
            messages = current.address(choice.nodes, config, choice.work)
        self.state, self._round = current.state, current
        addressed = [message.metadata.dst_node_id for message in messages]
        note_sent(server_round, list(map(self._roster.identity, addressed)))
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Screen the replies, merge the accepted updates and move the model.

        Returns
        -------
        tuple[ArrayRecord | None, MetricRecord | None]
            The new model, or None if it was kept (in an ensemble: if every member was kept); and
            the means of the training metrics of the clients whose update the rule was given and did
            not filter, without entries if there is no such client.

        Raises
        ------
        BoundError
            If a ``quorum`` > 0 was reached, but the rule needs more updates than there are clients:
            those asked in the round (in an ensemble to train the member), and those that got no
            message because they had no data.
        RuntimeError
            If ``configure_train`` was not called before.
        """
        current = self._current_round(server_round)
        current.close(replies)
        self.state, record = current.state, current.record
        return None if record.void else current.arrays, MetricRecord(dict(record.clients_train))

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Return one message with the model for each client that is chosen to evaluate it.

        There are none if ``fraction_evaluate`` is 0.
        """
        self._evaluation = Evaluation()
        if self.fraction_evaluate == 0:
            return []
        rng = self.settings.seeds.numpy("select", "evaluate", server_round)
        uniform = Uniform(self.fraction_evaluate)
        nodes = self._select(uniform, grid, server_round + 1, {}, rng).nodes
        assert self.state is not None
        if (buffers := self.settings.aggregation.buffers) != "merge":
            config = ConfigRecord({BUFFERS: buffers, **config})
        self._evaluation = Evaluation.address(
            server_round, nodes, arrays, config, self._keys, self.state.models
        )
        note_sent(server_round, list(map(self._roster.identity, nodes)), EVALUATE)
        return self._evaluation.messages

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Return the unweighted mean and the spread of each metric over the clients that report it.

        The spread is ``NAME-min``, ``NAME-max`` and ``NAME-variance``, if several clients do. None
        is returned if no reply passes screening.
        """
        limits = self.settings.communication.screening
        metrics = self._evaluation.metrics(replies, limits, self._roster)
        if (lacking := self._evaluation.lacking) and self.state is not None:
            self.state = self.state.without_holdings(lacking)
        return None if metrics is None else MetricRecord(dict(metrics))

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
        should_stop: StopFn | None = None,
        *,
        resume: ServerState | None = None,
    ) -> Result:
        """Run the rounds and return the final model and metrics.

        Parameters
        ----------
        grid : Grid
            Delivers messages to the nodes and their replies.
        initial_arrays : ArrayRecord
            The initial model.
        num_rounds : int
            Number of the last round, >= 0, by default 3.
        timeout : float, optional
            Seconds that a round waits for replies; by default ``Communication.deadline``.
        train_config, evaluate_config : ConfigRecord, optional
            Config that training and evaluation messages carry beside the model.
        evaluate_fn : callable, optional
            Function (round, model) -> metrics or None that evaluates the model on the server,
            before the first round and after each.
        should_stop : callable, optional
            Function (round, result so far) -> bool, called after each round, when its evaluation
            and callbacks are done. If it is true, the run ends as after its last round.
        resume : ServerState, optional
            State of a run of the same configuration, which goes on with the round after it and with
            its model instead of ``initial_arrays``. Earlier rounds are not reported again.

        Returns
        -------
        Result
            Final model and metrics, as Flower's strategies return them.

        Raises
        ------
        RunError
            If rounds were run and none of them, nor one before ``resume``, moved a model. It is
            raised after the ``on_end`` of all callbacks, and says what became of the clients and
            what to change.
        """
        deadline = self.settings.communication.deadline if timeout is None else timeout
        self._deadline, is_new = deadline, resume is None
        self.state = (
            self._initial_state(initial_arrays) if resume is None else resume.without_holdings()
        )
        del initial_arrays, resume  # neither is kept as long as the run
        self._round = None
        report = RunReport(self.settings.reporting.callbacks, evaluate_fn, self.state, deadline)
        result = report.result
        self.summary()
        if self.settings.aggregation.buffers == "local" and evaluate_fn is not None:
            log(WARNING, "buffers = 'local': the server evaluates with its initial statistics")
        self._begin_privacy(num_rounds)
        report.begin(num_rounds)
        if is_new:
            with span(ROUND, round=0):
                report.finish_round(RoundRecord(round=0), self.state, time.monotonic())
        for server_round in range(self.state.round + 1, num_rounds + 1):
            if stop := self._exhausted(server_round):
                log(WARNING, "the run ends before round %d: %s", server_round, stop)
                report.stop(stop)
                break
            with span(ROUND, round=server_round):
                started = time.monotonic()
                config = train_config if train_config is not None else ConfigRecord()
                messages = self._open_round(
                    server_round, result.arrays, config, grid, leave_out=True
                )
                with span("wait"):
                    replies = grid.send_and_receive(messages, timeout=deadline) if messages else ()
                arrays, metrics = self.aggregate_train(server_round, replies)
                del messages, replies  # they may hold every client's model
                if arrays is not None:
                    result.arrays = arrays
                if metrics is not None:
                    result.train_metrics_clientapp[server_round] = metrics
                record = self._current_round(server_round).record
                with span("evaluate"):
                    config = evaluate_config if evaluate_config is not None else ConfigRecord()
                    messages = self.configure_evaluate(server_round, result.arrays, config, grid)
                    if messages:
                        evaluated = self.aggregate_evaluate(
                            server_round, grid.send_and_receive(messages, timeout=deadline)
                        )
                        means: Mapping[str, float] = {}
                        if evaluated is not None:
                            result.evaluate_metrics_clientapp[server_round] = evaluated
                            means = scalar_metrics(evaluated)
                        record = self._evaluation.note(record, means, self._roster)
                report.finish_round(record, self.state, started)
            if should_stop is not None and should_stop(server_round, result):
                log(INFO, "should_stop ended the run after round %d", server_round)
                break
        report.end(self.state)
        return result

    # --- differential privacy ---------------------------------------------------------------------

    def _begin_privacy(self, rounds: int | None) -> None:
        """Complete the state by what differential privacy needs, unless it has it.

        Parameters
        ----------
        rounds : int or None
            The number of the run's rounds, if known, for which noise may have to be calibrated.
        """
        plan = self.settings.plan
        assert self.state is not None
        if plan is None or (rounds is None and self.state.privacy is not None):
            return
        plan.check_models(
            self.state.models, merges_statistics=self.settings.aggregation.buffers == "merge"
        )
        if plan.warning:
            log(WARNING, plan.warning)
        state = plan.state(self.state.privacy, self.settings.reporting.ledger, rounds)
        self.state = replace(self.state, privacy=state)
        log(
            INFO,
            "differential privacy: %s, noise multiplier %.4g, %s, accountant %s",
            plan.sampling,
            state.multiplier,
            plan.sampling.adjacency,
            plan.accountant.name,
        )

    def _exhausted(self, server_round: int) -> str | None:
        """Return why a round would exceed the privacy budget; None if it may begin."""
        plan = self.settings.plan
        assert self.state is not None
        if plan is None or self.state.privacy is None:
            return None
        return plan.exhausted(self.state.privacy, server_round)

    # --- parts of both ----------------------------------------------------------------------------

    @property
    def record(self) -> RoundRecord:
        """The record of the last training round that ``configure_train`` began."""
        if self._round is None:
            raise RuntimeError("there is no record before the first round")
        return self._round.record

    @property
    def _keys(self) -> tuple[str, str]:
        return self.arrayrecord_key, self.configrecord_key

    def _secure_round(self, number: int, grid: Grid) -> SecureRound | None:
        """Return the server's end of secure aggregation in a round; None without it."""
        settings = self.settings.aggregation.secure_aggregation
        if settings is None:
            return None
        if settings.noise_multiplier:
            assert self.state is not None
            check_secure_models(self.state.models, self.settings.aggregation.buffers)
        return SecureRound(settings, number, grid, self.settings.seeds, self.arrayrecord_key)

    def _current_round(self, number: int) -> Round:
        """Return the round that ``configure_train`` began; raise if it is not this one."""
        if self._round is None or self._round.number != number:
            raise RuntimeError(f"round {number} needs configure_train to be called first")
        return self._round

    def _initial_state(self, arrays: ArrayRecord) -> ServerState:
        """Return the state before the first round; in mode "fedavg" all members are equal."""
        state = ServerState.of(arrays, self.settings.ensemble.members, self.settings.roles)
        if self.settings.ensemble.mode == "fedavg":  # members that become one model start as one
            state = replace(state, models=average_members(state.models, [0]))
        return state

    def _starting_state(self, server_round: int, arrays: ArrayRecord) -> ServerState:
        """Return the last round's state with the model ``arrays``.

        A new initial state if there is none, or if round 1 is run again.
        """
        state = self.state
        if state is None or server_round <= 1 <= state.round:
            return self._initial_state(arrays)
        # Converting this strategy's own record again would round the model to the record's dtypes.
        last_arrays = state.arrays() if self._round is None else self._round.arrays
        return state if arrays is last_arrays else state.with_arrays(arrays)

    def _select(
        self,
        selector: Selector,
        grid: Grid,
        server_round: int,
        memory: State,
        rng: np.random.Generator,
    ) -> Choice:
        """Wait for the nodes and return those chosen for a round; clients that rest are left out.

        The state's resting clients are brought up to date. ``memory`` is the selector's state.
        """
        assert self.state is not None
        participation = self.settings.participation
        patience = self.settings.communication.deadline if participation.identify else 0.0
        nodes = self._roster.wait(
            grid, participation.min_available_nodes, participation.wait_for_nodes, patience
        )
        identity = self._roster.identity
        reconnected = set(map(identity, self._roster.reconnected))
        resting = resting_clients(self.state.resting, server_round, reconnected)
        plan = self.settings.plan
        if plan is not None:  # who has data is private
            resting = {}
        self.state = replace(self.state, resting=resting)
        candidates = Candidates((), 0, server_round, self._deadline, self.state.histories)
        with own_code(f"selector {selector}"):
            choice = choose_nodes(
                selector,
                nodes,
                identity,
                resting,
                candidates,
                memory,
                rng,
                None if plan is None else plan.sampling.clients,
            )
        return choice.leave_out(participation.without, identity)
