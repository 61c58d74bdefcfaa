"""Every rule on a cluster of three nodes, of which one dies."""

from __future__ import annotations

import threading
import time
from typing import Any

from benchmarks.distributed_parts.updates import make_update


def measure_cluster(every: int) -> dict[str, Any]:
    """Run rules on a cluster of three nodes; one dies meanwhile, and one is added.

    Parameters
    ----------
    every : int
        Every so many of the rules run; 1 for all.
    """
    import ray
    from ray.cluster_utils import Cluster

    from hqde_fl.distributed.mapreduce import MapReduce
    from hqde_fl.rules import SerialExecutor, aggregate
    from hqde_fl.simulations.engines.ray.private_ray import private_ray
    from hqde_fl.updates import Updates
    from tests.contracts.rule_examples import ALL

    updates = Updates([make_update(client, 40_000) for client in range(12)])
    executor, serial = MapReduce(shard_bytes=1, tile_bytes=1, at_once=3), SerialExecutor()
    size = max(float(row.abs().max()) for row in updates.rows)
    differences: list[float] = []

    def run_all() -> None:
        for example in list(ALL.values())[::every]:
            rule = example.make(2)
            there = aggregate(rule, updates, executor=executor)
            here = aggregate(rule, updates, executor=serial)
            differences.append(float((there.delta - here.delta).abs().max()) / size)

    with private_ray():
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        doomed = cluster.add_node(num_cpus=1)
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, log_to_driver=False)
        started = time.perf_counter()
        runner = threading.Thread(target=run_all)
        runner.start()
        while len(differences) < 3:
            time.sleep(0.01)
        before = len(differences)
        cluster.remove_node(doomed)  # type: ignore[no-untyped-call]
        cluster.add_node(num_cpus=1)
        after = len(differences)
        runner.join()
        seconds = time.perf_counter() - started
    ray.shutdown()
    cluster.shutdown()  # type: ignore[no-untyped-call]
    return {
        "method": "cluster of three nodes",
        "rules": len(differences),
        "killed-after": before,
        "added-after": after,
        "difference": max(differences),
        "seconds": seconds,
    }
