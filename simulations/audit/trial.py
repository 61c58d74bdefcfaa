"""One row against one strategy: what happened."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

from flwr.serverapp.strategy import Result, Strategy

from hqde_fl.simulations.audit import canary
from hqde_fl.simulations.audit.federation import LOSS, Form, deviation, form, start
from hqde_fl.simulations.audit.grid import AuditGrid
from hqde_fl.simulations.audit.memory import memory_bound
from hqde_fl.simulations.audit.row import Row

ROUNDS = 2
TOLERANCE = 0.05
"""How far the model may end from the honest mean, where the honest step is 1 a round."""

Model = Literal["sound", "poisoned", "not finite", "stalled", "deformed", "none"]


@dataclass(frozen=True)
class Finding:
    """What one row did to a strategy.

    Parameters
    ----------
    row : str
        Its name; empty for the run without a culprit.
    raised : str or None
        What ended the run: an exception, or how its process was ended.
    model : str
        ``sound``: within the tolerance of the honest mean. Else ``poisoned``, ``not finite``,
        ``stalled`` (honest progress was lost), ``deformed`` (other shapes or types than without a
        culprit), or ``none`` where the run did not end by itself.
    deviation : float or None
        The largest difference of a number from the honest mean.
    evaluation : float or None
        The clients' mean loss as the strategy has it; the honest one is 2.
    named : bool
        Whether the culprit's node id is in anything that was logged or raised.
    loaded : bool
        Whether a pickle was loaded.
    said : str
        What was logged or raised about the culprit last.
    form : Form or None
        Names, shapes and types of the model's arrays.
    received : int
        Bytes of the culprit's replies in one round, as they travel.
    growth : int or None
        Bytes by which the process's memory grew at most while they were read and screened, in the
        round with most for what was received. None if the platform cannot measure it, or the
        process was ended.
    """

    row: str
    raised: str | None = None
    model: Model = "none"
    deviation: float | None = None
    evaluation: float | None = None
    named: bool = False
    loaded: bool = False
    said: str = ""
    form: Form | None = None
    received: int = 0
    growth: int | None = None

    @property
    def frugal(self) -> bool:
        """Whether memory stayed within its bound, as far as it was measured."""
        return self.growth is None or self.growth <= memory_bound(self.received)

    @property
    def held(self) -> bool:
        """Whether the run went on, with a sound model and a sound evaluation, and ran no code."""
        sound = self.evaluation is None or abs(self.evaluation - LOSS) <= TOLERANCE
        return self.raised is None and self.model == "sound" and sound and not self.loaded


def trial(
    strategy: Strategy, row: Row | None, *, guarded: bool = False, expected: Form | None = None
) -> Finding:
    """Run a strategy for two rounds in which one of eleven clients does what the row says.

    Parameters
    ----------
    strategy : Strategy
        A new one: whatever it remembers must not come from another trial.
    row : Row or None
        None: all clients are honest.
    guarded : bool
        Whether uploads are read as ``GuardedGrid`` reads them, or as Flower's own Grid does.
    expected : Form or None
        The ``form`` that the model has at the end without a culprit; not compared if None.
    """
    grid = AuditGrid(row, guarded)
    canary.hush()
    finding = Finding("" if row is None else row.name)
    with _listening(str(grid.culprit)) as heard:
        try:
            result = strategy.start(grid, start(), num_rounds=ROUNDS)
            finding = _judged(finding, result, expected)
        except Exception as error:
            finding = replace(finding, raised=f"{type(error).__name__}: {error}"[:300])
            heard += [str(error)] if str(grid.culprit) in str(error) else []
    grid.measured()
    if row is not None and not grid.asked:
        finding = replace(finding, raised="the strategy never asked the culprit")
    said = " ".join(heard[-1].split())[:300] if heard else ""
    finding = replace(finding, received=grid.worst.received, growth=grid.worst.growth)
    return replace(finding, named=bool(heard), said=said, loaded=canary.heard())


def _judged(finding: Finding, result: Result, expected: Form | None) -> Finding:
    """What became of the model and of the clients' evaluation."""
    evaluations = result.evaluate_metrics_clientapp
    loss = evaluations[max(evaluations)].get("eval-loss") if evaluations else None
    finding = replace(finding, evaluation=loss if isinstance(loss, float) else None)
    if not result.arrays:
        return replace(finding, model="stalled")  # there was never a new model
    try:
        distance = deviation(result.arrays, ROUNDS)
    except Exception:  # other names, or shapes that do not go together
        return replace(finding, model="deformed")
    finding = replace(finding, deviation=distance, form=form(result.arrays))
    if not math.isfinite(distance):
        return replace(finding, model="not finite")
    if expected is not None and finding.form != expected:
        return replace(finding, model="deformed")
    if distance <= TOLERANCE:
        return replace(finding, model="sound")
    behind = any(deviation(result.arrays, rounds) <= TOLERANCE for rounds in range(ROUNDS))
    return replace(finding, model="stalled" if behind else "poisoned")


@contextmanager
def _listening(word: str) -> Iterator[list[str]]:
    """What is logged with a word in it, by Flower or anybody; nothing is printed."""
    heard: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            if word in text:
                heard.append(text)

    loggers = [logging.getLogger(), logging.getLogger("flwr")]
    before = [(logger, logger.handlers, logger.level) for logger in loggers]
    for logger in loggers:
        logger.handlers = [Ear()] if logger.name == "flwr" or not logger.propagate else []
        logger.setLevel(logging.DEBUG)
    try:
        yield heard
    finally:
        for logger, handlers, level in before:
            logger.handlers = handlers
            logger.setLevel(level)
