"""One local Ray for all tests of this folder but those of a cluster, which come first."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="package")
def one_ray() -> Iterator[None]:
    """A local Ray of two CPUs, the workers of which find the tests' modules."""
    import ray

    from hqde_fl.simulations.engines.ray.private_ray import private_ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with private_ray():
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
