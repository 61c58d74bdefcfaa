"""The trial of a strategy with one row of the catalogue, and its finding."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

from flwr.serverapp.strategy import Result, Strategy

from hqde_fl.simulations.audit import pickle_canary as canary
from hqde_fl.simulations.audit.catalogue_row import CatalogueRow
from hqde_fl.simulations.audit.grid import AuditGrid
from hqde_fl.simulations.audit.honest_clients import (
    LOSS,
    ModelSignature,
    deviation,
    initial_model,
    model_signature,
)
from hqde_fl.simulations.audit.peak_memory import memory_bound

ROUNDS = 2
TOLERANCE = 0.05
"""Largest sound deviation of a float from the honest mean; the honest update is 1 per round."""

Model = Literal["sound", "poisoned", "not finite", "stalled", "deformed", "none"]


@dataclass(frozen=True)
class Finding:
    """The effect of one row on a strategy.

    Parameters
    ----------
    row : str
        Name of the row; empty for the run without a culprit.
    raised : str or None
        The exception that ended the run, or the way in which its process ended.
    model : str
        ``sound`` if within the tolerance of the honest mean. Else ``poisoned``, ``not finite``,
        ``stalled`` (honest progress was lost), ``deformed`` (other shapes or dtypes than without a
        culprit), or ``none`` if the run returned no model.
    deviation : float or None
        Largest absolute difference of a weight or a statistic from the honest mean.
    evaluation : float or None
        The clients' mean loss according to the strategy; the honest one is 2.
    named : bool
        True if something that was raised, or logged by Flower's logger, contains the culprit's node
        id.
    loaded : bool
        True if a pickle was loaded.
    said : str
        The last text about the culprit that was logged or raised.
    signature : ModelSignature or None
        Names, shapes and dtypes of the model's arrays; None if there is no model to compare.
    received : int
        Bytes of the culprit's replies in one round, as uploaded.
    growth : int or None
        Largest growth of the process's memory, in bytes, while these replies were read and
        screened, in the round that exceeded its bound the most. None if the platform cannot measure
        it, or the process ended.
    """

    row: str
    raised: str | None = None
    model: Model = "none"
    deviation: float | None = None
    evaluation: float | None = None
    named: bool = False
    loaded: bool = False
    said: str = ""
    signature: ModelSignature | None = None
    received: int = 0
    growth: int | None = None

    @property
    def within_memory_bound(self) -> bool:
        """True unless memory was measured and exceeded its bound."""
        return self.growth is None or self.growth <= memory_bound(self.received)

    @property
    def withstood(self) -> bool:
        """True if the run ended with a sound model and evaluation and loaded no pickle."""
        sound = self.evaluation is None or abs(self.evaluation - LOSS) <= TOLERANCE
        return self.raised is None and self.model == "sound" and sound and not self.loaded


def trial(
    strategy: Strategy,
    row: CatalogueRow | None,
    *,
    guarded: bool = False,
    expected: ModelSignature | None = None,
) -> Finding:
    """Run a strategy for two rounds in which one of 11 clients follows a row of the catalogue.

    Parameters
    ----------
    strategy : Strategy
        A new strategy, without state from another trial.
    row : CatalogueRow or None
        Behaviour of the culprit; None if all clients are honest.
    guarded : bool, default=False
        Read uploads as ``GuardedGrid`` does, not as Flower's own Grid.
    expected : ModelSignature, optional
        Signature of the final model without a culprit; not compared if not given.
    """
    grid = AuditGrid(row, guarded)
    canary.reset()
    finding = Finding("" if row is None else row.name)
    with _logged_texts(str(grid.culprit)) as texts:
        try:
            result = strategy.start(grid, initial_model(), num_rounds=ROUNDS)
            finding = _judge(finding, result, expected)
        except Exception as error:
            finding = replace(finding, raised=f"{type(error).__name__}: {error}"[:300])
            texts += [str(error)] if str(grid.culprit) in str(error) else []
    grid.end_measurement()
    if row is not None and not grid.culprit_answered:
        finding = replace(finding, raised="the strategy never asked the culprit")
    said = " ".join(texts[-1].split())[:300] if texts else ""
    memory = grid.largest_memory_use
    finding = replace(finding, received=memory.received, growth=memory.growth)
    return replace(finding, named=bool(texts), said=said, loaded=canary.was_loaded())


def _judge(finding: Finding, result: Result, expected: ModelSignature | None) -> Finding:
    """Return a copy of a finding with the verdict on the final model and on the evaluation.

    The signature of the model is not compared if ``expected`` is None.
    """
    evaluations = result.evaluate_metrics_clientapp
    loss = evaluations[max(evaluations)].get("eval-loss") if evaluations else None
    finding = replace(finding, evaluation=loss if isinstance(loss, float) else None)
    if not result.arrays:
        return replace(finding, model="stalled")  # no round gave a new model
    try:
        distance = deviation(result.arrays, ROUNDS)
    except Exception:  # other names, or shapes that do not match
        return replace(finding, model="deformed")
    finding = replace(finding, deviation=distance, signature=model_signature(result.arrays))
    if not math.isfinite(distance):
        return replace(finding, model="not finite")
    if expected is not None and finding.signature != expected:
        return replace(finding, model="deformed")
    if distance <= TOLERANCE:
        return replace(finding, model="sound")
    behind = any(deviation(result.arrays, rounds) <= TOLERANCE for rounds in range(ROUNDS))
    return replace(finding, model="stalled" if behind else "poisoned")


@contextmanager
def _logged_texts(word: str) -> Iterator[list[str]]:
    """Yield a list to which the messages of Flower's logger that contain a word are added.

    None of Flower's messages are printed in this context.
    """
    texts: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            if word in text:
                texts.append(text)

    loggers = [logging.getLogger(), logging.getLogger("flwr")]
    before = [(logger, logger.handlers, logger.level) for logger in loggers]
    for logger in loggers:
        logger.handlers = [Collector()] if logger.name == "flwr" or not logger.propagate else []
        logger.setLevel(logging.DEBUG)
    try:
        yield texts
    finally:
        for logger, handlers, level in before:
            logger.handlers = handlers
            logger.setLevel(level)
