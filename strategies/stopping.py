"""Early stopping by a metric: when a run ends before its last round, and which round was best."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from flwr.serverapp.strategy import Result

from hqde_fl.errors import ConfigError, UnknownNameError
from hqde_fl.strategies.metrics import scalar_metrics


@final
@dataclass(frozen=True)
class Stopping:
    """The conditions under which a run ends early (Prechelt 1998, "Early stopping, but when?").

    Parameters
    ----------
    patience : int, default=0
        Evaluations in a row without an improvement after which the run ends; 0: never.
    min_delta : float, default=0.0
        The difference to the best value, >= 0, by which a value has to be better to count as an
        improvement.
    target : float or None, default=None
        The run ends once the metric is as good as this value; never if None.

    Raises
    ------
    ConfigError
        If a number is not in its range.
    """

    patience: int = 0
    min_delta: float = 0.0
    target: float | None = None

    def __post_init__(self) -> None:
        if self.patience < 0:
            raise ConfigError(f"stopping.patience must be >= 0, found {self.patience}")
        if not (math.isfinite(self.min_delta) and self.min_delta >= 0):
            raise ConfigError(f"stopping.min-delta must be finite and >= 0, found {self.min_delta}")


@final
class EarlyStopping:
    """Follows a metric over the rounds; what it says depends on the values alone.

    It is a ``should_stop`` of ``HQDEStrategy.start``. A run that is resumed gives it the values of
    the rounds before by ``observe``.

    Parameters
    ----------
    metric : str
        Name of a metric of the server.
    higher_is_better : bool
        Whether higher values are better.
    settings : Stopping, optional
        The conditions; without them it only remembers the best round.

    Attributes
    ----------
    best_round : int or None
        The earliest round with the best value; None as long as there is no finite one.
    reason : str
        Why the run ends; empty as long as it does not.
    """

    def __init__(
        self, metric: str, higher_is_better: bool, settings: Stopping | None = None
    ) -> None:
        self.metric, self._sign = metric, 1.0 if higher_is_better else -1.0
        self._settings = settings or Stopping()
        self._best = self._reference = -math.inf
        self._waited, self._seen = 0, -1
        self.best_round: int | None = None
        self.reason = ""

    @property
    def best(self) -> float | None:
        """The best value so far; None if there was no finite one."""
        return None if self.best_round is None else self._sign * self._best

    def __call__(self, server_round: int, result: Result) -> bool:
        """Return True if the run ends after a round, whose evaluation is observed unless it was."""
        metrics = result.evaluate_metrics_serverapp.get(server_round)
        if metrics:
            self.observe(server_round, scalar_metrics(metrics))
        return bool(self.reason)

    def observe(self, server_round: int, metrics: Mapping[str, float | None]) -> bool:
        """Take the server's metrics after a round; return True if it is the best round so far.

        A value that is not finite, or None, is no improvement. Rounds without metrics, those that
        have been observed, and those after a reason to end change nothing.

        Raises
        ------
        UnknownNameError
            If there are metrics, but not the one that is followed.
        """
        if not metrics or self.reason or server_round <= self._seen:
            return False
        if self.metric not in metrics:
            raise UnknownNameError("metric of early stopping", self.metric, metrics)
        self._seen, value = server_round, metrics[self.metric]
        score = -math.inf
        if value is not None and math.isfinite(value):
            score = self._sign * value
        is_best = score > self._best
        if is_best:
            self.best_round, self._best = server_round, score
        if score > self._reference and score - self._reference > self._settings.min_delta:
            self._reference, self._waited = score, 0
        else:
            self._waited += 1
        self.reason = self._reason_after(server_round, score)
        return is_best

    def _reason_after(self, server_round: int, score: float) -> str:
        """Return why the run ends after a round; empty if it goes on."""
        target, patience = self._settings.target, self._settings.patience
        if target is not None and score >= self._sign * target:
            return f"{self.metric} reached {target:g} in round {server_round}"
        if not patience or self._waited < patience:
            return ""
        best = "it was never finite"
        if self.best is not None:
            best = f"its best value, {self.best:g}, is that of round {self.best_round}"
        return (
            f"{self.metric} did not improve in {patience} evaluations until round {server_round}: "
            f"{best}"
        )
