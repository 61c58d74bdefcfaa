"""Run one cell of a sweep, and measure its time and memory."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from hqde_fl.errors import HQDEError
from hqde_fl.simulations.console.interruption import interrupted
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.manifest import add_to_manifest
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.recording.run_follower import OnRound
from hqde_fl.simulations.run import run_experiment

MEBIBYTE = 2**20


def run_cell(experiment: Experiment, out: Path, on_round: OnRound) -> str | None:
    """Run a cell from its beginning; return its error in one line, or None if it finished.

    The manifest of a finished run gets its time and its peak memory. If a signal has come, an error
    raises ``KeyboardInterrupt`` instead.

    Parameters
    ----------
    experiment : Experiment
        The cell's experiment.
    out : Path
        Its run directory. What an earlier attempt left there is removed.
    on_round : Callable
        Called with each line of ``rounds.jsonl``.
    """
    if out.exists():
        shutil.rmtree(out)
    process, peak, started = psutil.Process(), 0, time.monotonic()

    def listen(line: Mapping[str, Any]) -> None:
        nonlocal peak
        peak = max(peak, process.memory_info().rss)
        on_round(line)

    try:
        run_experiment(experiment, out, on_round=listen, report=False)
    except Exception as error:  # the other cells run in any case
        if interrupted():
            raise KeyboardInterrupt from error
        name = "" if isinstance(error, HQDEError) else f"{type(error).__name__}: "
        return f"{name}{error}".splitlines()[0]
    seconds = round(time.monotonic() - started, 3)
    add_to_manifest(out, {"wall-seconds": seconds, "memory-mib": round(peak / MEBIBYTE, 1)})
    return None


def is_finished(out: Path, experiment: Experiment) -> bool:
    """Return True if a directory holds a finished run with all rounds of the experiment."""
    try:
        run = Run.load(out)
    except HQDEError:
        return False
    return run.complete and run.manifest["experiment"]["rounds"] == experiment.rounds
