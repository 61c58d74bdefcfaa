"""Aggregation beyond one process: time, memory and bytes, and what happens when parts of it die.

Each figure of time and memory comes from a process of its own. In this process ("serial",
"threads") the updates are in its memory; on Ray ("map-reduce", "tree") they are made by tasks and
stay in the object store, which moves them to disk when it is full. Memory is the peak of the
process that aggregates ("driver") and of the largest other process of Ray, each without the pages
of the object store that it shares ("private") and with them ("whole"), beyond what it had before.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.reporting import check, conclude, machine

FANOUT = 4
STORE_BYTES = 1 << 30
"""Size of Ray's object store: more updates than that are on disk."""
METHODS = ("serial", "threads", "map-reduce", "tree")
SHAPES = [(n, d) for d in (10**6, 10**7) for n in (16, 64, 256)]
QUICK_SHAPES = [(16, 10**6), (64, 10**6)]
LARGE = (256, 10**7)
KILLS, OPERATIONS = 20, 1000


def make_update(client: int, d: int) -> Tensor:
    """Return the update of a client, the same wherever it is made."""
    generator = torch.Generator().manual_seed(client)
    return torch.randn(d, generator=generator) + 1


@contextmanager
def local_ray(**options: Any) -> Iterator[None]:
    """Start a private Ray, and end it."""
    import ray

    from hqde_fl.simulations.engines.ray.private_ray import private_ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with private_ray():
        ray.init(
            "local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **options,
        )
    try:
        yield
    finally:
        ray.shutdown()


class Memory:
    """Samples the memory of this process and of its descendants until it is left."""

    def __init__(self) -> None:
        self.peaks = {"driver-private": 0, "driver-whole": 0, "other-private": 0, "other-whole": 0}
        self._own = psutil.Process()
        self._done = threading.Event()
        self._before = _memory(self._own.pid)
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(0.2):
            private, whole = _memory(self._own.pid)
            self._note("driver", private - self._before[0], whole - self._before[1])
            for child in self._own.children(recursive=True):
                self._note("other", *_memory(child.pid))

    def _note(self, who: str, private: int, whole: int) -> None:
        self.peaks[f"{who}-private"] = max(self.peaks[f"{who}-private"], private)
        self.peaks[f"{who}-whole"] = max(self.peaks[f"{who}-whole"], whole)


def _memory(pid: int) -> tuple[int, int]:
    """Return the bytes of a process's private memory and of all that it has in memory."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0, 0
    sizes = {line.split(":")[0]: line.split()[1] for line in lines if line.endswith("kB")}
    private = int(sizes.get("RssAnon", 0)) * 1024
    return private, int(sizes.get("VmRSS", 0)) * 1024


def measure(method: str, rule_name: str, n: int, d: int) -> dict[str, Any]:
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
        with local_ray(object_store_memory=STORE_BYTES):
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


def spilled_bytes() -> int:
    """Return the bytes that Ray has written to disk."""
    from hqde_fl.simulations.engines.ray.private_ray import files_folder

    files = Path(files_folder()).rglob("ray_spilled_objects*/*")
    return sum(path.stat().st_size for path in files if path.is_file())


def measure_cluster() -> dict[str, Any]:
    """Run every rule on a cluster of three nodes; one dies meanwhile, and one is added."""
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
        for example in ALL.values():
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
        while len(differences) < 5:
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


def in_own_process(*arguments: str) -> dict[str, Any]:
    """Return the figures that this file prints when it is run with some arguments."""
    command = [sys.executable, __file__, "--measure", json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{arguments}: {done.stderr[-2000:]}")
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def line(row: dict[str, Any]) -> str:
    """Return a row as a line of the table."""
    if "n" not in row:
        return ", ".join(
            f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()
        )
    sizes = " ".join(
        f"{row[key] / 1e6:10.1f}"
        for key in ("bytes-in", "driver-private", "driver-whole", "other-private", "other-whole")
    )
    return (
        f"{row['method']:11s}{row['rule']:12s}{row['n']:5d}{row['d']:10d}{row['seconds']:9.2f} "
        f"{sizes} {row.get('spilled', 0) / 1e6:9.1f}"
    )


HEADER = (
    f"{'method':11s}{'rule':12s}{'n':>5s}{'d':>10s}{'seconds':>9s} {'MB in':>10s} {'driver':>10s} "
    f"{'whole':>10s} {'other':>10s} {'whole':>10s} {'on disk':>9s}"
)


def checks(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the checks of the figures."""
    table = {(r["method"], r["rule"], r["n"], r["d"]): r for r in rows if "n" in r}
    for (method, rule, n, d), row in table.items():
        flat = table.get(("serial", rule, n, d))
        shape = f"n={n}, d={d:.0e}"
        if flat is not None and method != "serial":
            difference = max(
                abs(a - b) for a, b in zip(row["first"], flat["first"], strict=True)
            ) / max(map(abs, flat["first"]))
            claim = f"{method}, {rule}, {shape}: as serial, relative difference"
            yield check(claim, difference, 1e-6, upper=True)
        if method == "tree":
            bound = FANOUT * d * 8
            yield check(f"tree, {shape}: bytes into the root", row["bytes-in"], bound, upper=True)
        if method == "map-reduce" and (n, d) == LARGE:
            claim = f"map-reduce, {rule}, {shape}: memory of the driver, whole"
            yield check(claim, row["driver-whole"], 2e9, upper=True)
    for row in rows:
        if row["method"] == "cluster of three nodes":
            claim = f"{row['rules']} rules on three nodes, one killed, one added: as serial"
            yield check(claim, row["difference"], 1e-6, upper=True)
        if row["method"] == "weight store":
            what = f"{row['kills']} kills in {row['operations']} operations"
            yield check(f"weight store, {what}: lost versions", row["lost"], 0, upper=True)
            yield check(f"weight store, {what}: stale reads", row["stale"], 0, upper=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write machine, rows and checks to this file")
    parser.add_argument("--quick", action="store_true", help="small shapes only")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        kind, *arguments = json.loads(options.measure)
        if kind == "cluster":
            row = measure_cluster()
        elif kind == "store":
            row = measure_store()
        else:
            method, rule, n, d = kind, arguments[0], int(arguments[1]), int(arguments[2])
            row = measure(method, rule, n, d)
        print(json.dumps(row))
        return 0
    about = machine() | {"quick": options.quick, "object-store-mb": STORE_BYTES >> 20}
    print(", ".join(f"{key}: {value}" for key, value in about.items()))
    print(HEADER, flush=True)
    rows: list[dict[str, Any]] = []

    def add(*arguments: Any) -> None:
        rows.append(in_own_process(*map(str, arguments)))
        print(line(rows[-1]), flush=True)

    for n, d in QUICK_SHAPES if options.quick else SHAPES:
        for method in METHODS:
            add(method, "mean", n, d)
        for method in ("serial", "threads", "map-reduce"):
            add(method, "multi-krum", n, d)
    add("cluster")
    add("store")
    return conclude(rows, checks(rows), options.json, about)


if __name__ == "__main__":
    sys.exit(main())
