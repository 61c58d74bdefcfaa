"""How long a sweep will take: from its own finished cells, or from a few rounds of some of them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from hqde_fl.errors import HQDEError
from hqde_fl.simulations.experiment.model import Experiment
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.run import run_experiment
from hqde_fl.simulations.sweep.cells import Cell

PROBES, PROBE_ROUNDS = 4, 3


@dataclass(frozen=True)
class Estimate:
    """A time, and where it comes from.

    Parameters
    ----------
    seconds : float
        The time.
    how : str
        What it was estimated from.
    """

    seconds: float
    how: str


def from_finished(cells: Sequence[Cell], missing: Sequence[Cell], out: Path) -> Estimate | None:
    """The time of the missing cells if they go on as the finished ones; None if none has."""
    taken, rounds = [], 0
    for cell in cells:
        if cell in missing:
            continue
        seconds = Run.load(out / cell.directory).manifest.get("wall-seconds")
        if seconds is not None:
            taken.append(float(seconds))
            rounds += cell.experiment.rounds
    if not taken:
        return None
    left = sum(cell.experiment.rounds for cell in missing)
    return Estimate(sum(taken) / rounds * left, f"from {len(taken)} finished cells")


def from_probes(missing: Sequence[Cell]) -> Estimate | None:
    """The time of the missing cells if they go on as the first rounds of some of them."""
    step = max(1, len(missing) // PROBES)
    probed = missing[step // 2 :: step][:PROBES]
    found = [seconds for cell in probed if (seconds := _probe(cell.experiment)) is not None]
    if not found:
        return None
    start = fmean(start for start, _ in found)
    each = fmean(each for _, each in found)
    left = sum(start + each * cell.experiment.rounds for cell in missing)
    return Estimate(left, f"{PROBE_ROUNDS} rounds of {len(found)} cells were timed")


def _probe(experiment: Experiment) -> tuple[float, float] | None:
    """Seconds before the first round and after the last, and of a round; None if it failed."""
    short = experiment.model_copy(update={"rounds": PROBE_ROUNDS})
    with tempfile.TemporaryDirectory() as directory:
        try:
            for attempt in ("warm", "timed"):  # the first also loads data and libraries
                started = time.monotonic()
                out = Path(directory) / attempt
                run_experiment(short, out, report=False)
                wall = time.monotonic() - started
            run = Run.load(out)
        except HQDEError:
            return None
    rounds = [line["seconds"] for line in run.rounds[1:]]
    return max(0.0, wall - sum(rounds)), fmean(rounds)


def spoken(seconds: float) -> str:
    """``45 s``, ``13 min``, ``2 h 5 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
