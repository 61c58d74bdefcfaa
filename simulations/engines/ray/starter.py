"""The actor as which every Ray worker starts: it orders the import path, then loads ``Worker``.

Ray's workers look for modules in the driver's working directory first. This module is pickled by
value, so that they need not look for anything of hqde-fl before that has been put right.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from ray import cloudpickle

from hqde_fl.simulations.experiment import import_path
from hqde_fl.simulations.experiment.import_path import follow


class Starter:
    """A ``Worker``, loaded where the driver would load it from.

    Parameters
    ----------
    path : Mapping[str, Any]
        The driver's ``import_path.current()``.
    threads, memory_fraction : int, float or None
        Of ``Worker``.
    """

    def __init__(
        self, path: Mapping[str, Any], threads: int, memory_fraction: float | None
    ) -> None:
        follow(path)
        from hqde_fl.simulations.engines.ray.worker import Worker

        self._worker = Worker(threads, memory_fraction)

    def ping(self) -> int:
        """Return its process id, as soon as it is there."""
        return self._worker.ping()

    def run(self, *arguments: Any) -> list[Any]:
        """Run clients: see ``Worker.run``."""
        return self._worker.run(*arguments)


for module in (import_path, sys.modules[__name__]):
    cloudpickle.register_pickle_by_value(module)  # type: ignore[no-untyped-call]
