"""Rounds of a large simulated population on the ray engine, merged by a tree of three levels."""

from __future__ import annotations

import time
from itertools import pairwise
from statistics import median
from typing import Any

from benchmarks.distributed_parts.surroundings import Memory, local_ray, spilled_bytes

FANOUT = 10


def adding_app() -> Any:
    """Return a ClientApp that adds a number of the client's own to every parameter."""
    import numpy as np
    from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp

    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        step = np.float32(1 + int(context.node_config["partition-id"]) % 7)
        arrays = ArrayRecord()
        for name, array in message.content.array_records["arrays"].items():
            arrays[name] = Array(array.numpy() + step)
        content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1})})
        return Message(content, reply_to=message)

    return app


def simulate(population: int, cohort: int, d: int, rounds: int) -> dict[str, Any]:
    """Run some rounds of a cohort of the population, and return their figures."""
    import numpy as np
    from flwr.app import ArrayRecord

    from hqde_fl.distributed.mapreduce import MapReduce
    from hqde_fl.rules import Tree
    from hqde_fl.selection import Uniform
    from hqde_fl.simulations.engines.ray.grid import RayGrid
    from hqde_fl.strategies.hqde import HQDEStrategy
    from hqde_fl.strategies.settings import Aggregation, Participation
    from hqde_fl.updates.roles import Roles

    selector = Uniform(cohort / population)
    grid = RayGrid(adding_app(), population, {})
    strategy = HQDEStrategy(
        Aggregation(Tree(fanout=FANOUT), executor=MapReduce()),
        participation=Participation(
            selector, fraction_evaluate=0.0, min_available_nodes=population
        ),
        roles=Roles({"0": "trainable"}),
    )
    ends = [(time.perf_counter(), time.process_time())]
    kept: list[int] = []

    def note(number: int, result: object) -> bool:
        ends.append((time.perf_counter(), time.process_time()))
        kept.append(strategy.record.kept)
        return False

    arrays = ArrayRecord([np.zeros(d, np.float32)])
    strategy.start(grid, arrays, num_rounds=rounds, should_stop=note)
    grid.close()
    spent = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(ends)]
    return {
        "seconds": median(wall for wall, _ in spent),
        "driver-cpu-seconds": median(cpu for _, cpu in spent),
        "kept": min(kept),
        "levels": strategy.record.diagnostics["tree-levels"],
    }


def measure_population(
    population: int, cohort: int, d: int, rounds: int, store_bytes: int
) -> dict[str, Any]:
    """Return time and memory of the rounds, beyond what the process has after a tiny run."""
    import logging

    logging.getLogger("flwr").setLevel(logging.ERROR)
    with local_ray(object_store_memory=store_bytes):
        simulate(20, 20, 1000, 1)  # imports, workers
        with Memory() as memory:
            figures = simulate(population, cohort, d, rounds)
        return {
            "method": "population",
            "population": population,
            "cohort": cohort,
            "size": d,
            **figures,
            **memory.peaks,
            "driver-before": memory.before[0],
            "spilled": spilled_bytes(),
        }
