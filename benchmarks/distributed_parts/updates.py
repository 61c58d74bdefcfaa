"""Aggregate updates once: in this process, by ``MapReduce``, and by a tree of tasks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.distributed_parts.surroundings import Memory, local_ray, spilled_bytes

FANOUT = 4


def make_update(client: int, d: int) -> Tensor:
    """Return the update of a client, the same wherever it is made."""
    generator = torch.Generator().manual_seed(client)
    return torch.randn(d, generator=generator) + 1


def measure(method: str, rule_name: str, n: int, d: int, store_bytes: int) -> dict[str, Any]:
    """Aggregate n updates of d numbers once, and return the figures."""
    from hqde_fl.rules import Mean, MultiKrum, SerialExecutor, ThreadedExecutor, aggregate
    from hqde_fl.updates import Updates

    rule = Mean() if rule_name == "mean" else MultiKrum(n // 8)
    row: dict[str, Any] = {"method": method, "rule": rule_name, "n": n, "d": d}
    if method in ("serial", "threads"):
        with Memory() as memory:
            updates = Updates([make_update(client, d) for client in range(n)])
            executor = SerialExecutor() if method == "serial" else ThreadedExecutor()
            started = time.perf_counter()
            outcome = aggregate(rule, updates, executor=executor)
            row["seconds"] = time.perf_counter() - started
        row["bytes-in"] = 4 * n * d
    else:
        with local_ray(object_store_memory=store_bytes):
            row |= measure_on_ray(method, rule, n, d)
            return row
    return row | memory.peaks | {"first": outcome.delta[:100].tolist()}


def measure_on_ray(method: str, rule: Any, n: int, d: int) -> dict[str, Any]:
    """Aggregate updates that tasks make; the process is connected to a Ray."""
    import ray

    from hqde_fl.distributed import mapreduce, ray_tasks
    from hqde_fl.distributed.stored_updates import UpdateCollector
    from hqde_fl.distributed.tree import run_tree
    from hqde_fl.rules import Cohort, Tree, aggregate

    fetched = [0]

    def counted(references: Any) -> Any:
        value = ray_tasks.fetch(references)
        fetched[0] += bytes_in(value)
        return value

    mapreduce.fetch = counted  # type: ignore[attr-defined]
    ray_tasks_fetch_in_order = ray_tasks.fetch_in_order

    def counted_in_order(*arguments: Any) -> Iterator[Any]:
        for value in ray_tasks_fetch_in_order(*arguments):
            fetched[0] += bytes_in(value)
            yield value

    mapreduce.fetch_in_order = counted_in_order  # type: ignore[attr-defined, assignment]
    make = ray.remote(num_cpus=1)(make_update)
    with Memory() as memory:
        started = time.perf_counter()
        collector = UpdateCollector(n, d)
        for client in range(n):
            collector.add(client, make.remote(client, d))
        stored = collector.columns()
        collecting = time.perf_counter() - started
        started = time.perf_counter()
        if method == "tree":
            tree = Tree(fanout=FANOUT)
            cohort = Cohort.of(n)
            outcome, reports = run_tree(tree, stored, cohort, {}, tile_bytes=1 << 21)
            bytes_in_root = next(report.bytes for report in reports if report.path == "0")
        else:
            outcome = aggregate(rule, stored, executor=mapreduce.MapReduce())
            bytes_in_root = fetched[0]
        seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "collecting": collecting,
        "bytes-in": bytes_in_root,
        "spilled": spilled_bytes(),
        "first": outcome.delta[:100].tolist(),
        **memory.peaks,
    }


def bytes_in(value: Any) -> int:
    """Return the bytes of the arrays and tensors in a value."""
    if isinstance(value, list | tuple):
        return sum(map(bytes_in, value))
    if hasattr(value, "gram"):
        return bytes_in(value.gram) + bytes_in(value.score)
    return int(getattr(value, "nbytes", 0))
