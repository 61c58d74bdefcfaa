"""The Ray actor in which a ``ClientWorker`` runs: it sets the import path before it loads that.

A Ray worker looks for modules in the driver's working directory first, where a module of the user
may hide one of hqde-fl. So this module is pickled by value and imports nothing until the path is
set.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

from ray import cloudpickle

from hqde_fl.simulations.experiment import import_path
from hqde_fl.simulations.experiment.import_path import adopt_path


class Starter:
    """An actor that loads a ``ClientWorker`` by the driver's import path and forwards calls to it.

    Parameters
    ----------
    path : Mapping[str, Any]
        The driver's ``import_path.describe_path()``.
    threads, memory_fraction : int, float or None
        Arguments of ``ClientWorker``.
    modules : Sequence[str]
        Names of modules to import before the first client comes; what cannot be imported is left
        to the client, which says what is wrong.
    """

    def __init__(
        self,
        path: Mapping[str, Any],
        threads: int,
        memory_fraction: float | None,
        modules: Sequence[str] = (),
    ) -> None:
        adopt_path(path)
        from hqde_fl.simulations.engines.ray.worker import ClientWorker

        self._worker = ClientWorker(threads, memory_fraction)
        for module in modules:
            with suppress(Exception):
                import_module(module)

    def host(self) -> str:
        """Return the id of the cluster's node; Ray answers once the worker has started."""
        import ray

        return str(ray.get_runtime_context().get_node_id())

    def run(self, *arguments: Any) -> Any:
        """Run clients and return the result of ``ClientWorker.run``."""
        return self._worker.run(*arguments)


for module in (import_path, sys.modules[__name__]):
    cloudpickle.register_pickle_by_value(module)  # type: ignore[no-untyped-call]
