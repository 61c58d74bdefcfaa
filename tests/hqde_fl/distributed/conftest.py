"""A local Ray for each module of this folder but that of a cluster; no process has two."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def one_ray() -> Iterator[None]:
    """A local Ray of two CPUs, the workers of which find the tests' modules."""
    import ray

    from hqde_fl.simulations.engines.ray.private_ray import private_ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with private_ray():
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
