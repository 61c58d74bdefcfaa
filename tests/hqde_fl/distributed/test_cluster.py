"""MapReduce and the tree on a cluster of three nodes, one of which goes away and one is added.

This module comes before those that share one Ray: no process has two.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import ray
import torch
from ray.cluster_utils import Cluster
from torch import Tensor

from hqde_fl.distributed.mapreduce import MapReduce
from hqde_fl.distributed.stored_updates import UpdateCollector
from hqde_fl.rules import Krum, Median, SerialExecutor, Tree, aggregate
from hqde_fl.simulations.engines.ray.private_ray import private_ray
from hqde_fl.updates import Updates

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.drills]
D = 3 * 2048


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Three nodes on this machine, of one CPU each."""
    with private_ray():
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster  # in this context, so that a node may be added
    ray.shutdown()
    cluster.shutdown()  # type: ignore[no-untyped-call]


def sum_unless_doomed(tile: Tensor, folder: Path, doomed: str) -> Tensor:
    """Return a tile's sums; on the doomed node, wait for its end."""
    node = ray.get_runtime_context().get_node_id()
    (folder / node).touch()
    while node == doomed or not (folder / doomed).exists():
        time.sleep(0.02)
    return tile.sum(dim=1, dtype=torch.float64)


def make_update(seed: int) -> Tensor:
    return torch.randn(D, generator=torch.Generator().manual_seed(seed))


def test_a_node_that_goes_away_changes_no_bit(cluster: Cluster, tmp_path: Path) -> None:
    doomed = next(iter(cluster.worker_nodes))
    executor = MapReduce(shard_bytes=1, tile_bytes=1, at_once=3)
    rows = [make_update(seed) for seed in range(12)]
    collector = UpdateCollector(12, D, shard_bytes=1, tile_bytes=1)
    make = ray.remote(num_cpus=0, scheduling_strategy="SPREAD")(make_update)
    for client in range(12):
        collector.add(client, make.remote(client) if client % 2 else rows[client])
    stored = collector.columns()

    function = partial(sum_unless_doomed, folder=tmp_path, doomed=doomed.node_id)
    totals: list[Tensor] = []
    reducer = threading.Thread(target=lambda: totals.append(executor.reduce(function, stored)))
    reducer.start()
    while not (tmp_path / doomed.node_id).exists():
        time.sleep(0.02)
    cluster.remove_node(doomed)  # type: ignore[no-untyped-call]
    cluster.add_node(num_cpus=1)
    reducer.join()
    serial = SerialExecutor(tile_bytes=1)
    expected = serial.reduce(partial(torch.sum, dim=1, dtype=torch.float64), Updates(rows))
    assert torch.equal(totals[0], expected)
    cluster.wait_for_nodes()
    for rule in (Krum(2), Tree(Median(), Median(), fanout=3)):
        there = aggregate(rule, stored, executor=executor)
        here = aggregate(rule, Updates(rows), executor=serial)
        assert torch.equal(there.delta, here.delta)
        assert torch.equal(there.influence, here.influence)
