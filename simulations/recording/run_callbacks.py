"""Tell callbacks which run they are part of, and the exception that ends it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hqde_fl.simulations.console.interruption import uninterrupted
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.strategies.callbacks import Callback


@contextmanager
def informed(callbacks: Sequence[Callback], path: Path, experiment: Experiment) -> Iterator[None]:
    """Call ``on_run`` of callbacks before the block, and ``on_stop`` if an exception ends it.

    Parameters
    ----------
    callbacks : Sequence[Callback]
        The callbacks.
    path : Path
        The run directory.
    experiment : Experiment
        The experiment.
    """
    for callback in callbacks:
        callback.on_run(path, experiment.to_table())
    try:
        yield
    except BaseException as error:
        with uninterrupted():
            for callback in callbacks:
                callback.on_stop(error)
        raise
