"""Samples of the nodes of a Ray cluster that this process has joined."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hqde_fl.monitor.performance_monitor import PerformanceMonitor
from hqde_fl.monitor.schema import Host, Record, ResourceSample
from hqde_fl.simulations.console.interruption import ends_process
from hqde_fl.simulations.engines.ray.node_sampler import NodeSampler
from hqde_fl.simulations.engines.ray.pool import living_nodes
from hqde_fl.simulations.experiment import import_path

SEARCH_SECONDS = 10.0
"""Time between two searches for nodes that were added or lost."""


@dataclass(eq=False)
class _Node:
    """A node's actor, the name of its host in the records, and the calls that it has not answered.

    ``root`` is the call that asks for its raylet, if this process runs on the node as well.
    """

    actor: Any
    name: str | None
    pending: list[Any] = field(default_factory=list)
    root: Any = None


class NodeSamples:
    """A source of records for a monitor: one actor samples each node of the cluster.

    It never waits: each call takes what the nodes have answered by now, and asks them again. On the
    node of this process the monitor samples itself; it only adds the Ray workers there.

    Parameters
    ----------
    monitor : PerformanceMonitor
        The monitor.
    """

    def __init__(self, monitor: PerformanceMonitor) -> None:
        self._monitor = monitor
        self._nodes: dict[str, _Node] = {}
        self._search = float("-inf")

    def __call__(self) -> list[Record]:
        """Return the records that are there by now."""
        if ends_process():  # Ray ends, too
            return []
        if time.monotonic() >= self._search:
            self._search = time.monotonic() + SEARCH_SECONDS
            self._find_nodes()
        records: list[Record] = []
        for key, node in list(self._nodes.items()):
            try:
                records += self._answers(node)
            except RayError:  # the node or its actor has died; a node that lives is found again
                del self._nodes[key]
        return records

    def close(self) -> None:
        """End the actors."""
        for node in () if ends_process() else self._nodes.values():
            with suppress(Exception):  # Ray may be shut down already
                ray.kill(node.actor)
        self._nodes.clear()

    def _find_nodes(self) -> None:
        """Start an actor on each node that has none, and forget those of lost nodes."""
        own = ray.get_runtime_context().get_node_id()
        alive = living_nodes().keys()
        self._nodes = {key: node for key, node in self._nodes.items() if key in alive}
        remote: Any = ray.remote(NodeSampler)
        for key in sorted(alive - self._nodes.keys()):
            actor = remote.options(
                num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(key, soft=False)
            ).remote(import_path.describe_path())
            if key == own:
                self._nodes[key] = _Node(actor, None, root=actor.raylet.remote())
            else:
                self._nodes[key] = _Node(actor, key[:8], [actor.host.remote()])

    def _answers(self, node: _Node) -> list[Record]:
        if node.root is not None:
            if ray.wait([node.root], timeout=0)[0]:
                self._monitor.add_root(ray.get(node.root))
                node.root = None
                ray.kill(node.actor)
            return []
        if node.name is None:
            return []
        ready, node.pending = ray.wait(node.pending, num_returns=len(node.pending), timeout=0)
        records = [self._named(record, node.name) for record in ray.get(ready)]
        if not node.pending:
            node.pending = [node.actor.sample.remote()]
        return records

    def _named(self, record: Host | ResourceSample, key: str) -> Record:
        """Return a record of a node; on this host, where a test may have several, with its id."""
        if record.host == socket.gethostname():
            return replace(record, host=f"{record.host}/{key}")
        return record
