"""The ray engine on a cluster of three nodes, one of which goes away in the middle of a round.

This module comes before those that share one Ray: no process has two.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import ray
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from ray.cluster_utils import Cluster

from hqde_fl.monitor.performance_monitor import PerformanceMonitor
from hqde_fl.monitor.schema import Host, Record, ResourceSample
from hqde_fl.simulations.engines.ray.grid import RayGrid
from hqde_fl.simulations.engines.ray.pool import POOL
from hqde_fl.simulations.engines.ray.private_ray import private_ray

pytestmark = pytest.mark.xdist_group("ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three nodes on this machine, of one CPU each."""
    with private_ray():
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    POOL.close()
    ray.shutdown()
    cluster.shutdown()


def app_of(folder: Path) -> ClientApp:
    """Clients record their nodes and wait for one on the node that is then removed."""
    from flwr.app import MetricRecord

    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        node = ray.get_runtime_context().get_node_id()
        (folder / f"{context.node_config['partition-id']}-{node}").touch()
        doomed = message.content.config_records["config"]["doomed"]
        while node == doomed or not list(folder.glob(f"*-{doomed}")):
            time.sleep(0.05)
        metrics = MetricRecord({"num-examples": 1})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


def test_each_node_is_sampled(cluster: Cluster) -> None:
    grid = RayGrid(ClientApp(), 1, {}, seed=1)
    monitor = PerformanceMonitor(interval=0.1)
    nodes = {f"{socket.gethostname()}/{node.node_id[:8]}" for node in cluster.worker_nodes}
    heard: list[Record] = []
    complete = threading.Event()

    def hear(records: Sequence[Record]) -> None:
        heard.extend(records)
        if nodes <= {record.host for record in heard if isinstance(record, ResourceSample)}:
            complete.set()

    monitor.add_listener(hear)
    end = grid.sample_hosts(monitor)
    with monitor:
        assert complete.wait(120)
    end()
    assert {record.host for record in heard if isinstance(record, Host)} == {
        socket.gethostname(),
        *nodes,
    }
    sampled = [r for r in heard if isinstance(r, ResourceSample) and r.host in nodes]
    assert min(sample.processes for sample in sampled) > 0
    assert {sample.driver_memory for sample in sampled} == {None}
    assert monitor.failure is None


@pytest.mark.slow
def test_a_node_that_goes_away_costs_nobody_a_reply(cluster: Cluster, tmp_path: Path) -> None:
    doomed = next(iter(cluster.worker_nodes))
    grid = RayGrid(app_of(tmp_path), 9, {}, seed=1)
    content = RecordDict(
        {"arrays": ArrayRecord(), "config": ConfigRecord({"doomed": doomed.node_id})}
    )
    messages = [Message(content, node, "train") for node in grid.get_node_ids()]

    def remove() -> None:
        while not list(tmp_path.glob(f"*-{doomed.node_id}")):
            time.sleep(0.05)
        cluster.remove_node(doomed)

    remover = threading.Thread(target=remove)
    remover.start()
    replies = list(grid.send_and_receive(messages, timeout=120))
    remover.join()
    assert [reply.error.reason for reply in replies if reply.has_error()] == []
    assert grid.counters.reruns == grid.counters.deaths == 1
    assert len({reply.metadata.src_node_id for reply in replies}) == 9
    again = [Message(content, node, "train") for node in grid.get_node_ids()]
    assert not any(reply.has_error() for reply in grid.send_and_receive(again, timeout=60))
