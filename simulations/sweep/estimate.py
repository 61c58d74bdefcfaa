"""Estimate the time of a sweep from finished cells, or from a few rounds of some cells."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from hqde_fl.errors import HQDEError
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.run import run_experiment
from hqde_fl.simulations.sweep.cells import Cell

PROBES, PROBE_ROUNDS = 4, 3


@dataclass(frozen=True)
class Estimate:
    """An estimated time.

    Parameters
    ----------
    seconds : float
        The time.
    source : str
        The measurements that it was estimated from.
    """

    seconds: float
    source: str


def from_finished(finished: Sequence[Cell], missing: Sequence[Cell], out: Path) -> Estimate | None:
    """Return an estimate of the time of the missing cells from the recorded times of others.

    It is None if no cell in ``finished`` has a time in its manifest in ``out``.

    Parameters
    ----------
    finished : Sequence[Cell]
        Cells that have finished.
    missing : Sequence[Cell]
        Cells that are to run.
    out : Path
        The directory of the sweep in which the former have finished.
    """
    taken, rounds = [], 0
    for cell in finished:
        seconds = Run.load(out / cell.directory).manifest.get("wall-seconds")
        if seconds is not None:
            taken.append(float(seconds))
            rounds += cell.experiment.rounds
    if not taken:
        return None
    left = sum(cell.experiment.rounds for cell in missing)
    number = f"{len(taken)} finished cell{'s' if len(taken) > 1 else ''}"
    return Estimate(sum(taken) / rounds * left, f"from {number}")


def from_probes(missing: Sequence[Cell]) -> Estimate | None:
    """Run a few rounds of some of the missing cells, and return an estimate of the time of all.

    It is None if all these runs fail, or if no cell is missing.
    """
    step = max(1, len(missing) // PROBES)
    probed = missing[step // 2 :: step][:PROBES]
    timings = [timing for cell in probed if (timing := _probe(cell.experiment)) is not None]
    if not timings:
        return None
    overhead = fmean(overhead for overhead, _ in timings)
    per_round = fmean(per_round for _, per_round in timings)
    left = sum(overhead + per_round * cell.experiment.rounds for cell in missing)
    return Estimate(left, f"{PROBE_ROUNDS} rounds of {len(timings)} cells were timed")


def _probe(experiment: Experiment) -> tuple[float, float] | None:
    """Run a few rounds of an experiment twice, and time the second run.

    Return its seconds outside the rounds and the mean seconds of a round; None if a run failed.
    """
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
