"""One cell of a sweep: its run, and what it cost."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from hqde_fl.errors import HQDEError
from hqde_fl.simulations.console.interruption import interrupted
from hqde_fl.simulations.experiment.model import Experiment
from hqde_fl.simulations.recording.manifest import add_to_manifest
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.recording.run_follower import OnRound
from hqde_fl.simulations.run import run_experiment

MEBIBYTE = 2**20


def carry_out(experiment: Experiment, out: Path, on_round: OnRound) -> str | None:
    """Run a cell into a directory, from its beginning; its error if it failed.

    Parameters
    ----------
    experiment : Experiment
        The cell's.
    out : Path
        Its run directory. What an earlier attempt left there is removed.
    on_round : Callable
        Told about every round.
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
    except Exception as error:  # a row with an error; the other cells have a right to run
        if interrupted():
            raise KeyboardInterrupt from error
        name = "" if isinstance(error, HQDEError) else f"{type(error).__name__}: "
        return f"{name}{error}".splitlines()[0]
    seconds = round(time.monotonic() - started, 3)
    add_to_manifest(out, {"wall-seconds": seconds, "memory-mib": round(peak / MEBIBYTE, 1)})
    return None


def is_finished(out: Path, experiment: Experiment) -> bool:
    """Whether a directory has the whole run of an experiment in it."""
    try:
        run = Run.load(out)
    except HQDEError:
        return False
    done = run.manifest["status"] == "finished"
    return done and len(run.rounds) == experiment.rounds + 1
