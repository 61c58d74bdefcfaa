"""Cost of checkpoints: runs that write one after every round, and runs that write none, in turn.

All runs are in one process. The cost is the median, over pairs of neighbouring runs, of how much
longer the median round takes with checkpoints, and of how much more CPU time this process takes: on
the engine inline that is all, on ray it is the server. Other load on the machine changes the former
more than the latter.

    python benchmarks/checkpoints.py --json checkpoints.json [--quick]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.reporting import check, conclude, machine  # noqa: E402
from hqde_fl.simulations.experiment.experiment import Experiment  # noqa: E402
from hqde_fl.simulations.run import run_experiment  # noqa: E402

FEEDBACK = {
    "codec": {
        "name": "error-feedback",
        "inner": {"name": "quantized", "bits": 4, "unbiased": False},
    }
}
CASES: dict[str, dict[str, Any]] = {
    "digits, 20 clients": {"strategy": {}},
    "digits, 20 clients, momentum": {
        "strategy": {"server-optimizer": {"name": "adam"}, "rule": {"name": "byzantine-filter"}}
    },
    "digits, 20 clients, error feedback": {"strategy": FEEDBACK},
}
"""Cases by name; clients with error feedback have states that are written, too."""


def run_once(case: str, engine: str, every: int, rounds: int) -> dict[str, float]:
    """Run an experiment; return the seconds of a round, and those waited for checkpoints."""
    table = {
        "name": "cost",
        "rounds": rounds,
        "seed": 3,
        "task": {"name": "digits", "hidden": 256},
        "clients": {"count": 20, "epochs": 2},
        "engine": {"name": engine},
        "monitor": {"enabled": False},
        "checkpoint": {"every": every},
        **CASES[case],
    }
    ends: list[float] = []
    used: list[float] = []

    def on_round(line: Any) -> None:
        ends.append(time.perf_counter())
        used.append(time.process_time())

    with tempfile.TemporaryDirectory(dir=ROOT) as folder, contextlib.redirect_stderr(io.StringIO()):
        out = Path(folder) / "run"
        run_experiment(Experiment.parse(table), out, on_round=on_round, report=False)
        manifest = json.loads((out / "manifest.json").read_text())
    waited = manifest.get("checkpoints", {}).get("waited-seconds", 0.0)
    return {
        "round": statistics.median(b - a for a, b in pairwise(ends)),
        "cpu": (used[-1] - used[0]) / (len(used) - 1),
        "waited": waited / rounds,
    }


def compare(case: str, engine: str, pairs: int, rounds: int) -> dict[str, Any]:
    """Return the medians of a round with and without checkpoints, and the relative cost."""
    run_once(case, engine, 1, 3)  # loads data and libraries
    runs: dict[int, list[dict[str, float]]] = {0: [], 1: []}
    for pair in range(pairs):
        for every in (0, 1) if pair % 2 else (1, 0):
            runs[every].append(run_once(case, engine, every, rounds))

    def median(every: int, key: str) -> float:
        return statistics.median(run[key] for run in runs[every])

    def cost(key: str) -> float:
        both = zip(runs[1], runs[0], strict=True)
        return statistics.median(one[key] / none[key] for one, none in both) - 1

    return {
        "case": case,
        "engine": engine,
        "round": median(0, "round"),
        "with checkpoints": median(1, "round"),
        "cpu": median(0, "cpu"),
        "cpu with": median(1, "cpu"),
        "waited": median(1, "waited"),
        "cost": cost("round"),
        "cpu cost": cost("cpu"),
    }


def main() -> int:
    """Run the cases, print the table, write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--quick", action="store_true", help="fewer pairs of runs")
    parser.add_argument("--engine", choices=("inline", "ray"), help="only this one")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    pairs, rounds = (5, 12) if options.quick else (11, 20)
    rows = []
    names = ("round", "with checkpoints", "cpu", "cpu with", "waited")
    print(f"{'case':<36}{'engine':<8}{'':>2}" + ", ".join(names) + "; cost, cpu cost")
    for engine in (options.engine,) if options.engine else ("inline", "ray"):
        for case in CASES:
            row = compare(case, engine, pairs, rounds)
            rows.append(row)
            figures = "".join(f"{row[name]:>9.4f}" for name in names)
            costs = f"{row['cost']:>8.1%}{row['cpu cost']:>8.1%}"
            print(f"{case:<36}{engine:<8}{figures}{costs}", flush=True)
    checks = []
    for row in rows:
        name = f"{row['engine']}, {row['case']}"
        checks.append(check(f"{name}: a round takes longer by", row["cost"], 0.03, upper=True))
        if row["engine"] == "inline":
            checks.append(check(f"{name}: more CPU time by", row["cpu cost"], 0.03, upper=True))
    return conclude(rows, checks, options.json, machine())


if __name__ == "__main__":
    sys.exit(main())
