"""The weight store while its actors are killed."""

from __future__ import annotations

import random
import time
from typing import Any

import torch

from benchmarks.distributed_parts.surroundings import local_ray

KILLS, OPERATIONS = 20, 1000


def measure_store() -> dict[str, Any]:
    """Put and get versions while the actors of the store are killed at random."""
    import ray

    from hqde_fl.distributed.store import DistributedWeightStore
    from hqde_fl.distributed.weight_coordinator import NAMESPACE, coordinator_name, replica_name

    rng, seconds = random.Random(0), {"put": [0.0], "get": [0.0]}
    acknowledged: dict[str, list[float]] = {"a": [], "b": [], "c": []}
    stale = kills = 0
    with local_ray():
        store = DistributedWeightStore("benchmark")
        names = [coordinator_name(store.name), *(replica_name(store.name, k) for k in range(3))]
        for operation in range(OPERATIONS):
            if operation % (OPERATIONS // KILLS) == 7:
                ray.kill(ray.get_actor(rng.choice(names), namespace=NAMESPACE))
                kills += 1
            key = rng.choice("abc")
            versions = acknowledged[key]
            started = time.perf_counter()
            if rng.random() < 0.5 or not versions:
                number = store.put(key, {"w": torch.full((1000,), float(operation))})
                seconds["put"].append(time.perf_counter() - started)
                stale += number != len(versions) + 1
                versions.append(float(operation))
            else:
                latest = store.latest(key)
                seconds["get"].append(time.perf_counter() - started)
                value = float(latest.weights["w"][0])
                stale += (latest.version, value) != (len(versions), versions[-1])
        lost = 0
        for key, versions in acknowledged.items():
            for number, value in enumerate(versions, start=1):
                lost += float(store.get(key, number).weights["w"][0]) != value
    medians = {f"{k}-ms": 1000 * sorted(v)[len(v) // 2] for k, v in seconds.items()}
    slowest = {f"slowest-{k}-ms": 1000 * max(v) for k, v in seconds.items()}
    return {
        "method": "weight store",
        "kills": kills,
        "operations": OPERATIONS,
        "lost": lost,
        "stale": int(stale),
        **medians,
        **slowest,
    }
