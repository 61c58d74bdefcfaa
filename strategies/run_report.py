"""Report the rounds of a run to its callbacks and keep the run's result."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from logging import INFO

from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp.strategy import Result

from hqde_fl.errors import RunError
from hqde_fl.monitor.spans import span
from hqde_fl.protocol.flower_internals import log
from hqde_fl.strategies.callbacks import Callback, RoundRecord
from hqde_fl.strategies.metrics import scalar_metrics
from hqde_fl.strategies.state import ServerState
from hqde_fl.strategies.void_rounds import VoidRounds

EvaluateFn = Callable[[int, ArrayRecord], MetricRecord | None]
"""Function (round, model) -> metrics of the model on the server, or None."""


class RunReport:
    """Keeps the result of a run and reports each round to the callbacks.

    Parameters
    ----------
    callbacks : Sequence[Callback]
        The callbacks of the run, called in this order.
    evaluate_fn : EvaluateFn, optional
        Evaluates the model on the server before a round is reported.
    state : ServerState
        State from which the run starts.
    deadline : float
        Seconds that a round waits for replies, named where a run fails because clients are late.
    """

    def __init__(
        self,
        callbacks: Sequence[Callback],
        evaluate_fn: EvaluateFn | None,
        state: ServerState,
        deadline: float,
    ) -> None:
        self.result = Result(arrays=state.arrays())
        self._callbacks, self._evaluate_fn = callbacks, evaluate_fn
        self._void = VoidRounds(deadline, state.round + 1)
        self._stop = ""

    def begin(self, num_rounds: int) -> None:
        """Call ``on_start`` of the callbacks.

        Parameters
        ----------
        num_rounds : int
            Number of the last round.
        """
        for callback in self._callbacks:
            callback.on_start(self.result.arrays, num_rounds)

    def finish_round(self, record: RoundRecord, state: ServerState, started: float) -> None:
        """Evaluate the model by ``evaluate_fn``, if given, and report the round to the callbacks.

        The record that they get also holds the server's metrics and the seconds since ``started``.
        An error in the evaluation is raised once the callbacks have the round without its metrics,
        so that it can be kept; that of the initial model at once.

        Parameters
        ----------
        record : RoundRecord
            Record of the round; round 0 is the initial model.
        state : ServerState
            State after the round.
        started : float
            Time at which the round began, by ``time.monotonic``.
        """
        if record.round:
            self._void.add(record)
        failure: Exception | None = None
        if self._evaluate_fn is not None:
            try:
                with span("evaluate"):
                    metrics = self._evaluate_fn(record.round, self.result.arrays)
            except Exception as error:
                if record.round == 0:
                    raise
                failure, metrics = error, None
            if metrics is not None:
                self.result.evaluate_metrics_serverapp[record.round] = metrics
                record = replace(record, server=scalar_metrics(metrics))
        record = replace(record, seconds=time.monotonic() - started)
        log(INFO, "round %d: %s", record.round, dict(record.server))
        with span("record"):
            for callback in self._callbacks:
                callback.on_round(record, self.result.arrays)
        for phase, callbacks in groupby(self._callbacks, phase_of):
            with span(phase):
                for callback in callbacks:
                    callback.on_state(state, record)
        if failure is not None:
            raise failure

    def stop(self, reason: str) -> None:
        """Tell the callbacks why the run ends before its last round."""
        self._stop = reason
        for callback in self._callbacks:
            callback.on_early_end(reason)

    def end(self, state: ServerState) -> None:
        """Call ``on_end`` of the callbacks, then log how many rounds were void, if any.

        Parameters
        ----------
        state : ServerState
            State after the last round.

        Raises
        ------
        RunError
            If rounds were run and none of them moved a model, by the count in ``state``.
        """
        for callback in self._callbacks:
            callback.on_end(self.result.arrays)
        if state.aggregated == 0 and (state.round or self._stop):
            raise RunError(self._stop or self._void.failure())
        if summary := self._void.summary():
            log(INFO, summary)


def phase_of(callback: Callback) -> str:
    """Return the span of a round in which a callback's ``on_state`` counts."""
    return str(getattr(callback, "phase", Callback.phase))
