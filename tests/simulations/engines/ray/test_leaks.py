"""Ten runs in one process use one Ray and one pool, and leave no processes, files or objects."""

from __future__ import annotations

import gc
import os
import re
import time

import psutil
import pytest
import ray
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg
from ray._private.internal_api import memory_summary

from hqde_fl.simulations.engines.ray.grid import RayGrid

pytestmark = [pytest.mark.usefixtures("one_ray"), pytest.mark.xdist_group("ray")]

MODEL_NUMBERS = 1_000_000
RUN_MIB = 6 * 4 * MODEL_NUMBERS / 2**20
"""Memory of the states of one run's six clients."""


def app_of() -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        arrays = message.content.array_records["arrays"]
        context.state["kept"] = arrays
        content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1})})
        return Message(content, reply_to=message)

    return app


def one_run(seed: int) -> None:
    import numpy as np

    grid = RayGrid(app_of(), 6, {}, seed=seed)
    strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=6)
    model = ArrayRecord([np.zeros(MODEL_NUMBERS, np.float32)])
    result = strategy.start(grid, model, num_rounds=2)
    assert len(result.arrays) == 1


def open_here() -> tuple[int, int]:
    """Return the numbers of worker processes and open files of this process."""
    gc.collect()
    this = psutil.Process(os.getpid())
    workers = [p for p in this.children(recursive=True) if p.name().startswith("ray::Starter")]
    return len(workers), this.num_fds()


def stored() -> float:
    """Return the size of the object store's contents in MiB."""
    summary = memory_summary(ray.get_runtime_context().gcs_address, stats_only=True)
    found = re.search(r"Plasma memory usage (\d+) MiB", summary)
    assert found is not None
    return float(found[1])


@pytest.mark.slow
def test_ten_runs_leave_no_actor_no_file_and_no_object() -> None:
    one_run(0)
    one_run(1)
    _, files = open_here()
    for seed in range(2, 10):
        one_run(seed)
    workers, more_files = open_here()
    assert workers <= 3
    assert more_files <= files + 8
    end = time.monotonic() + 60
    while (left := stored()) > 4 * RUN_MIB:  # Ray frees objects in batches, a moment later
        assert time.monotonic() < end, f"{left} MiB of ten runs' {10 * RUN_MIB} are still there"
        time.sleep(0.1)
