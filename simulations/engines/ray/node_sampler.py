"""The Ray actor that samples the resources of its node; like ``starter.py`` pickled by value."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from ray import cloudpickle

from hqde_fl.simulations.experiment import import_path
from hqde_fl.simulations.experiment.import_path import adopt_path


class NodeSampler:
    """Samples a node's host, and all Ray workers on it, when it is asked.

    Parameters
    ----------
    path : Mapping[str, Any]
        The driver's ``import_path.describe_path()``.
    """

    def __init__(self, path: Mapping[str, Any]) -> None:
        adopt_path(path)
        from hqde_fl.monitor.sampler import Sampler

        self._sampler = Sampler(self.raylet())

    def raylet(self) -> int:
        """Return the id of the process that starts the node's workers."""
        import os

        import psutil

        parents = psutil.Process().parents()
        return next((p.pid for p in parents if "raylet" in p.name()), os.getppid())

    def host(self) -> Any:
        """Return the record that describes the host."""
        return self._sampler.describe_host()

    def sample(self) -> Any:
        """Return what was used since the last call."""
        return self._sampler.sample()


for module in (import_path, sys.modules[__name__]):
    cloudpickle.register_pickle_by_value(module)  # type: ignore[no-untyped-call]
