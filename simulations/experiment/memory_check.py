"""Refuse a model that this machine has no memory to simulate, before anything starts."""

from __future__ import annotations

import psutil

from hqde_fl.errors import ConfigError

GB = 1e9
LEAST = {"inline": 7.5, "ray": 10.5, "flower": 14.0}
"""By engine: the memory that a run takes at least, in sizes of what is trained.

Nine tenths of what ``benchmarks/big_models.py`` measured (8.1 to 8.4, 12.1 and 15.8) with the
cheapest of all: one client, plain SGD and the mean. The model, the message, what the client trains,
its reply and the rows of the rule exist at once, in part in more than one process.
"""


def require_memory(engine: str, size: int) -> None:
    """Raise ``ConfigError`` if a simulation on this machine cannot hold a model.

    Parameters
    ----------
    engine : str
        The name of the engine.
    size : int
        The bytes of the model's trained parameters, which are in memory already.
    """
    available = psutil.virtual_memory().available + size
    if LEAST[engine] * size > available:
        raise ConfigError(
            f"a model with {size / GB:.1f} GB to train needs {LEAST[engine] * size / GB:.1f} GB of "
            f"memory at least on engine {engine}, found {available / GB:.1f} GB available: use a "
            "machine with more"
        )
