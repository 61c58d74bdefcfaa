"""The cost and the accuracy of quantum-inspired rules, ensembles and ``create_hqde_system``.

* ``cost``: time of each rule against the geometric median. The rules are timed in turn, repeatedly,
  in one process, so that other load affects all of them equally. The ratio is the median over the
  turns of a rule's seconds over the geometric median's in the same turn.
* ``laws``: identical clients, and clients with the exact opposite update.
* ``sign-flip``, ``rules``: accuracy against classical rules, with and without attack; ten clients.
* ``ensembles``: one model against five, with the same number of client updates per member.
* ``front``: ``create_hqde_system`` against central training.

Fashion-MNIST is used if HQDE_FL_DATA names the directory of its files.

    python benchmarks/quantum.py --json quantum.json [--quick] [--part laws --part cost ...]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from benchmarks.learning import ensembles, front, laws, rules  # noqa: E402
from benchmarks.learning.data import have_fashion  # noqa: E402
from benchmarks.reporting import check, conclude, machine  # noqa: E402
from hqde_fl.rules import (  # noqa: E402  # noqa: E402
    Adaptive,
    Aggregator,
    Entanglement,
    GeometricMedian,
    Superposition,
    Voting,
    aggregate,
)
from hqde_fl.updates import Updates  # noqa: E402

REFERENCE = "GeometricMedian"
MAX_RATIO = 1.1
RULES: dict[str, Aggregator] = {
    REFERENCE: GeometricMedian(),
    "Superposition": Superposition(),
    "Entanglement": Entanglement(),
    "Entanglement, row means": Entanglement(by="row-mean"),
    "Entanglement, random": Entanglement(coupling="random"),
    "Voting": Voting(),
    "Voting on updates": Voting(votes="updates"),
    "Adaptive: entanglement": Adaptive(high=0, low=0),
    "Adaptive: superposition": Adaptive(high=1, low=0),
    "Adaptive: voting": Adaptive(high=1, low=1),
}


def cost(n: int, d: int, repeats: int) -> list[dict[str, Any]]:
    """Time every rule on n updates of d numbers; print and return a row for each rule."""
    generator = torch.Generator().manual_seed(n)
    shared = torch.randn(d, generator=generator)
    updates = Updates(torch.randn(n, d, generator=generator) + 0.5 * shared)
    seconds: dict[str, list[float]] = {name: [] for name in RULES}
    for turn in range(repeats + 1):
        for name, rule in RULES.items():
            start = time.perf_counter()
            aggregate(rule, updates)
            if turn:  # the first is a warm-up
                seconds[name].append(time.perf_counter() - start)
    rows = []
    for name, values in seconds.items():
        pairs = zip(values, seconds[REFERENCE], strict=True)
        ratios = [own / reference for own, reference in pairs]
        ratio = statistics.median(ratios)
        row = {"rule": name, "n": n, "d": d, "seconds": statistics.median(values), "ratio": ratio}
        rows.append(row)
        print(f"{name:26s}{n:6d}{d:10d}{row['seconds']:9.3f}{ratio:7.2f}x", flush=True)
    return rows


def cost_checks(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a check of each rule's ratio at n = 100, d = 1e6, except the geometric median's."""
    return [
        check(
            f"{row['rule']}, n=100, d=1e6: at most {MAX_RATIO} x {REFERENCE}",
            row["ratio"],
            MAX_RATIO,
            upper=True,
        )
        for row in rows
        if (row["n"], row["d"]) == (100, 10**6) and row["rule"] != REFERENCE
    ]


def measure_part(part: str, quick: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Run one of ``PARTS`` and return its rows and its checks.

    Both are empty for ``front`` without the files of Fashion-MNIST.
    """
    if part == "cost":
        print(f"{'rule':26s}{'n':>6s}{'d':>10s}{'seconds':>9s}{'ratio':>8s}")
        shapes = [(100, 10**6)] if quick else [(10, 10**6), (100, 10**5), (100, 10**6)]
        rows = [row for n, d in shapes for row in cost(n, d, 3 if quick else 9)]
        return rows, cost_checks(rows)
    if part == "laws":
        return [], laws.checks()
    if part == "sign-flip":
        rows = rules.sign_flip(quick)
        return rows, rules.checks(rows)
    if part == "rules":
        rows = rules.compare(quick)
        return rows + rules.lost(rows), []
    if part == "ensembles":
        rows = ensembles.compare(quick)
        return rows, ensembles.checks(rows)
    if not have_fashion():
        print("\nHQDE_FL_DATA does not say where Fashion-MNIST is: the front is left out")
        return [], []
    rows = front.compare(quick)
    return rows, front.checks(rows)


PARTS = ("cost", "laws", "sign-flip", "rules", "ensembles", "front")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write machine, rows and checks to this file")
    parser.add_argument("--quick", action="store_true", help="fewer repeats, seeds and shapes")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this; may be repeated")
    options = parser.parse_args()
    about = machine()
    getLogger("flwr").setLevel(ERROR)
    print(", ".join(f"{key}: {value}" for key, value in about.items()))
    rows: list[dict[str, Any]] = []
    checks: list[dict[str, Any]] = []
    for part in options.part or PARTS:
        new_rows, new_checks = measure_part(part, options.quick)
        rows, checks = rows + new_rows, checks + new_checks
    return conclude(rows, checks, options.json, about)


if __name__ == "__main__":
    sys.exit(main())
