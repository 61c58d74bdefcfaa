"""The resources of clients are compared with this machine before anything is started."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import ray

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.engines.ray import local_node, pool
from hqde_fl.simulations.engines.ray.local_node import require_fit
from hqde_fl.simulations.engines.ray.resources import Resources
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.run import run_experiment


@pytest.fixture(autouse=True)
def two_cpus_and_no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(local_node, "local_node", lambda: {"CPU": 2.0, "GPU": 0.0})
    monkeypatch.setattr(ray, "is_initialized", lambda: False)


@pytest.mark.parametrize("engine", ["ray", "flower"])
def test_a_run_that_asks_for_missing_gpus_is_refused(engine: str, tmp_path: Path) -> None:
    experiment = Experiment.parse(
        {"engine": {"name": engine, "resources": [{"num-gpus": 0.5}]}, "clients": {"count": 2}}
    )
    message = (
        r"engine\.resources: a client with num-cpus = 1, num-gpus = 0\.5 fits on no node of the "
        r"cluster, which has 2 CPUs, 0 GPUs"
    )
    with pytest.raises(ConfigError, match=message):
        run_experiment(experiment, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_group_that_does_not_fit_is_named() -> None:
    fits, too_large = Resources(num_cpus=2, partitions="0-3"), Resources(num_cpus=3, partitions="4")
    with pytest.raises(ConfigError, match=r"engine\.resources of partitions 4: a client with"):
        require_fit([fits, too_large])


def test_a_cluster_is_not_judged_by_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    asks_for_gpus = [Resources(num_gpus=1)]
    require_fit(asks_for_gpus, "10.0.0.1:6379")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    require_fit(asks_for_gpus)


def test_a_ray_that_is_too_small_does_not_end_with_the_thread_that_started_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Linux ends Ray's processes with that thread, and the next call of Ray then hangs."""
    connected, threads = threading.Event(), list[threading.Thread]()

    def connect(*_: object) -> str:
        threads.append(threading.current_thread())
        connected.set()
        return ""

    monkeypatch.setattr(pool, "_connect", connect)
    monkeypatch.setattr(ray, "is_initialized", connected.is_set)
    monkeypatch.setattr(pool, "cluster", lambda: [{"CPU": 2.0}])
    pool.prepare(resources=[Resources(num_gpus=0.5)], workers=1)
    pool.wait_until_prepared(60)
    (thread,) = threads
    thread.join(0.2)
    assert thread.is_alive()
    pool._announced.clear()
