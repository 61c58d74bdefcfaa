"""Aggregation beyond one process: time, memory and bytes, and what happens when parts of it die.

Each row comes from a process of its own. In this process ("serial", "threads") the updates are in
its memory; on Ray ("map-reduce", "tree") they are made by tasks and stay in the object store, which
moves them to disk when it is full. Memory is the peak of the process that aggregates ("driver")
beyond what it had before, and of the largest other process of Ray, each without the pages of the
object store that it shares ("private") and with them ("whole").

The rows "population" are rounds of the ray engine: clients that add a number to the model reply to
``HQDEStrategy``, which merges them by a tree of three levels with the executor ``map-reduce``.

    python benchmarks/distributed.py --json distributed.json [--quick] [--only updates population]

``--quick`` takes a tenth of the updates (1 GB) and of the bound on the driver's memory for them,
a fifth of the cohort, and every fourth rule on the cluster.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.distributed_parts.updates import FANOUT  # noqa: E402
from benchmarks.reporting import check, conclude, machine  # noqa: E402

METHODS = ("serial", "threads", "map-reduce", "tree")
KINDS = ("updates", "population", "cluster", "store")
LARGE_BYTES, LARGE_BOUND = 4 * 256 * 10**7, 2e9
"""Bytes of the largest updates, and what the driver may take to aggregate them."""
SLACK = 64 << 20
"""What the driver of a population may take beside two models."""
NOISE = 1.15
"""Ratio of figures that count as equal."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of the rows.

    Parameters
    ----------
    shapes : tuple[tuple[int, int], ...]
        (n, d) of updates that all methods aggregate.
    large : tuple[int, int]
        (n, d) of the updates that are too large for the object store.
    store_bytes : int
        Size of Ray's object store.
    populations : tuple[int, ...]
        Numbers of simulated clients.
    cohort, size, rounds : int
        Clients in each of their rounds, parameters of their model, and rounds.
    rules : int
        Every so many of the rules run on the cluster.
    """

    shapes: tuple[tuple[int, int], ...]
    large: tuple[int, int]
    store_bytes: int
    populations: tuple[int, ...]
    cohort: int
    size: int
    rounds: int
    rules: int


FULL = Sizes(
    tuple((n, d) for d in (10**6, 10**7) for n in (16, 64, 256)),
    (256, 10**7),
    1 << 30,
    (1_000, 10_000, 100_000),
    cohort=1000,
    size=10**6,
    rounds=3,
    rules=1,
)
QUICK = Sizes(
    ((64, 10**6),),
    (64, 4 * 10**6),
    1 << 28,
    (1_000, 100_000),
    cohort=200,
    size=10**6,
    rounds=3,
    rules=4,
)


def measured(kind: str, *arguments: Any) -> dict[str, Any]:
    """Return a row, measured in this process."""
    from benchmarks.distributed_parts import cluster, population, updates, weights

    functions: dict[str, Any] = {
        "updates": updates.measure,
        "population": population.measure_population,
        "cluster": cluster.measure_cluster,
        "store": weights.measure_store,
    }
    row: dict[str, Any] = functions[kind](*arguments)
    return row


def in_own_process(*arguments: Any) -> dict[str, Any]:
    """Return a row that this file measures in a process of its own."""
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


def rows_of(sizes: Sizes, kinds: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of some kinds."""
    if "updates" in kinds:
        for n, d in sizes.shapes:
            for method in METHODS:
                yield in_own_process("updates", method, "mean", n, d, sizes.store_bytes)
            for method in METHODS[:3]:
                yield in_own_process("updates", method, "multi-krum", n, d, sizes.store_bytes)
        if sizes.large not in sizes.shapes:
            yield in_own_process("updates", "map-reduce", "mean", *sizes.large, sizes.store_bytes)
    if "population" in kinds:
        for population in sizes.populations:
            numbers = (population, sizes.cohort, sizes.size, sizes.rounds, sizes.store_bytes)
            yield in_own_process("population", *numbers)
    if "cluster" in kinds:
        yield in_own_process("cluster", sizes.rules)
    if "store" in kinds:
        yield in_own_process("store")


def checks(rows: list[dict[str, Any]], large: tuple[int, int]) -> Iterator[dict[str, Any]]:
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
        if method == "map-reduce" and (n, d) == large:
            bound = LARGE_BOUND * 4 * n * d / LARGE_BYTES
            claim = f"map-reduce, {rule}, {shape}: memory of the driver, whole"
            yield check(claim, row["driver-whole"], bound, upper=True)
            yield check(f"{claim.partition(':')[0]}: bytes moved to disk", row["spilled"], 1)
    yield from population_checks([row for row in rows if row["method"] == "population"])
    for row in rows:
        if row["method"] == "cluster of three nodes":
            claim = f"{row['rules']} rules on three nodes, one killed, one added: as serial"
            yield check(claim, row["difference"], 1e-6, upper=True)
        if row["method"] == "weight store":
            what = f"{row['kills']} kills in {row['operations']} operations"
            yield check(f"weight store, {what}: lost versions", row["lost"], 0, upper=True)
            yield check(f"weight store, {what}: stale reads", row["stale"], 0, upper=True)


def population_checks(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the checks of the rounds of simulated populations."""
    for row in rows:
        what = f"population {row['population']}, cohort {row['cohort']}, d={row['size']:.0e}"
        bound = 2 * 4 * row["size"] + SLACK
        claim = f"{what}: memory of the driver beyond its start, private"
        yield check(claim, row["driver-private"], bound, upper=True)
        yield check(f"{what}: clients whose update was kept", row["kept"], row["cohort"])
        yield check(f"{what}: levels of the tree", row["levels"], 3)
    if len(rows) < 2:
        return
    few, many = rows[0], rows[-1]
    ratio = f"population {many['population']} / {few['population']}, a round"
    cpu = many["driver-cpu-seconds"] / few["driver-cpu-seconds"]
    yield check(f"{ratio}: CPU seconds of the driver", cpu, NOISE, upper=True)
    private = [row["driver-before"] + row["driver-private"] for row in (few, many)]
    claim = f"{ratio}: memory of the driver, private"
    yield check(claim, private[1] / private[0], NOISE, upper=True)


def main() -> int:
    """Run the benchmark and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write machine, rows and checks to this file")
    parser.add_argument("--quick", action="store_true", help="smaller shapes, see above")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS, help="parts to run")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measured(*json.loads(options.measure))))
        return 0
    sizes = QUICK if options.quick else FULL
    about = machine() | {"quick": options.quick, "object-store-mb": sizes.store_bytes >> 20}
    print(", ".join(f"{key}: {value}" for key, value in about.items()))
    print(HEADER, flush=True)
    rows: list[dict[str, Any]] = []
    for row in rows_of(sizes, options.only):
        rows.append(row)
        print(line(row), flush=True)
    return conclude(rows, checks(rows, sizes.large), options.json, about)


if __name__ == "__main__":
    sys.exit(main())
