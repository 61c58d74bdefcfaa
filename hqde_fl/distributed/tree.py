"""Run the nodes of a ``Tree`` as Ray tasks: each merges what lies below it.

A leaf node's task reads its clients' updates from the object store, any other the results of its
children. Ray starts a task on the node of the cluster that holds most of what it reads, so results
travel towards the root as far as they must and no further; the root receives those of its children,
at most fanout x d numbers. How much weight each result carries follows from the cohort, so a task
is told it; this process receives the root's result, and each node's influence and state.

The tasks do what ``Tree.run`` does in one process, on the same tiles: the result has the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import ray
import torch
from torch import Tensor

from hqde_fl.distributed.ray_tasks import cpus, fetch, submit, task
from hqde_fl.distributed.shards import ShardColumns
from hqde_fl.distributed.stored_updates import StoredUpdates
from hqde_fl.monitor.spans import add_span
from hqde_fl.monitor.task_counters import TASKS, TaskCount
from hqde_fl.rules.aggregation import run_steps
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.executor import SerialExecutor
from hqde_fl.rules.library_threads import one_library_thread
from hqde_fl.rules.results import Aggregate, State
from hqde_fl.rules.tree import Tree
from hqde_fl.rules.tree_plan import PlannedNode
from hqde_fl.rules.tree_report import NodeReport


def run_tree(
    tree: Tree,
    updates: StoredUpdates,
    cohort: Cohort,
    state: State,
    *,
    tile_bytes: int,
    at_once: int = 0,
) -> tuple[Aggregate, list[NodeReport]]:
    """Return a tree's aggregate of one round's updates, and a report of each node.

    Parameters
    ----------
    tree : Tree
        The tree.
    updates : StoredUpdates
        (n, d) finite updates.
    cohort : Cohort
        The n clients that sent them, with ``excused`` set.
    state : State
        The state that the tree returned last round; empty at first.
    tile_bytes : int
        Bytes of one float64 tile.
    at_once : int, default=0
        Tasks that run at one time, at most; 0 for as many as the cluster has CPUs.
    """
    top = tree.planned(cohort)
    results: dict[str, Any] = {}
    facts: dict[str, Any] = {}

    def call(node: PlannedNode) -> Any:
        parts = [results[child.path] for child in node.children] or [
            part for row in node.rows for part in updates.rows[row].parts
        ]
        result, fact = _run_node.remote(
            node.rule, node.cohort, state.get(node.path, {}), tile_bytes, *parts
        )
        results[node.path], facts[node.path] = result, fact
        return fact

    for _, level in groupby(sorted(top.nodes(), key=PlannedNode.level), PlannedNode.level):
        calls: Iterator[Callable[[], Any]] = (partial(call, node) for node in level)
        for _ in submit(calls, at_once or cpus()):
            pass
    reports: list[NodeReport] = []
    new_states: dict[str, Any] = {}

    def merged(node: PlannedNode) -> Aggregate:
        below = [merged(child) for child in node.children]
        own, report = fetch(facts[node.path])
        reports.append(replace(report, path=node.path, level=node.level()))
        if own.state:
            new_states[node.path] = own.state
        return node.merged(own, below, cohort.n)

    outcome = merged(top)
    for report in reports:
        name = f"tree node {report.path}"
        add_span(name, report.started, report.seconds, round=cohort.round)
        TASKS.add(TaskCount("tree node", report.host, 1, report.seconds, report.bytes))
    delta = torch.from_numpy(np.array(fetch(results[top.path])))
    outcome = replace(outcome, delta=delta)
    return tree.finished(outcome, cohort.n, new_states, reports), reports


def run_node(
    rule: Any, cohort: Cohort, state: State, tile_bytes: int, *parts: Any
) -> tuple[np.ndarray[Any, Any], tuple[Aggregate, NodeReport]]:
    """Return a node's result (d,), and its outcome without the result, with a report.

    Parameters
    ----------
    rule : Aggregator
        The node's rule.
    cohort : Cohort
        Its n rows.
    state : State
        Its state.
    tile_bytes : int
        Bytes of one float64 tile.
    *parts : NDArray
        The parts of the first row, of the second, and so on.
    """
    started, clock = time.time(), time.perf_counter()
    row_parts = len(parts) // cohort.n
    columns = ShardColumns.of([parts[k * row_parts : (k + 1) * row_parts] for k in range(cohort.n)])
    with one_library_thread():
        executor = SerialExecutor(tile_bytes)
        own = rule.run(columns, cohort, state, partial(run_steps, executor=executor))
    seconds = time.perf_counter() - clock
    size, host = sum(part.nbytes for part in parts), ray.get_runtime_context().get_node_id()
    report = NodeReport("", 0, cohort.n, seconds, size, started, host)
    return own.delta.numpy(), (replace(own, delta=_EMPTY, geometry=None), report)


_EMPTY: Tensor = torch.empty(0)
_run_node = task(run_node).options(num_returns=2)
