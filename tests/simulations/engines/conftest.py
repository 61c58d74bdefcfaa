"""One local Ray for all tests that do not need a special one."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="package")
def one_ray() -> Iterator[None]:
    """A local Ray of three CPUs, and two GPUs that exist only for its scheduler."""
    import ray

    from hqde_fl.simulations.engines.ray.pool import POOL
    from hqde_fl.simulations.engines.ray.private_ray import private_ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with private_ray():
        ray.init("local", num_cpus=3, num_gpus=2, include_dashboard=False, log_to_driver=False)
    yield
    POOL.close()
    ray.shutdown()
