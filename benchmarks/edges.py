"""Measure what edges between clients and server save, and what hostile edges cost.

``python benchmarks/edges.py --json FILE [--quick]``: digits, on the inline engine. First the bytes
between edges and server until the model reaches an accuracy of .9, for k = 1, 2, 5 and 10 rounds of
an edge for each of the server's; all of them train the same number of rounds among the clients, and
flat FedAvg too. Then two of eight edges lie, against a mean and two robust rules. Figures are means
over three seeds, with the 95 % interval of the mean by Student's t distribution; ``--quick`` runs
one seed with k = 1 and 5.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.run import run_experiment
from hqde_fl.simulations.statistics.samples import Sample

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.reporting import check, conclude, machine

ACCURACY = 0.9
"""The accuracy that is to be reached."""
CLIENT_ROUNDS = 60
"""Rounds among the clients of every run."""
BASE: dict[str, Any] = {
    "name": "edges",
    "task": {"name": "digits"},
    "clients": {
        "count": 16,
        "lr": 0.2,
        "batch-size": 32,
        "partition": {"name": "dirichlet", "alpha": 0.5},
    },
    "engine": {"name": "inline"},
    "checkpoint": {"every": 0},
    "monitor": {"enabled": False},
}
HOSTILE = [{"name": "sign-flip", "scale": 4.0, "count": 2, "level": "edge"}]
ROOT_RULES: dict[str, dict[str, Any]] = {
    "mean": {"name": "mean", "weighted": True},
    "trimmed mean": {"name": "trimmed-mean", "f": 2},
    "nnm + geometric median": {
        "name": "chain",
        "rules": [{"name": "nnm", "f": 2}, {"name": "geometric-median"}],
    },
}
"""Rules of the server: of the robust ones the last is for edges whose data differ."""


def run(seed: int, rounds: int, **tables: Any) -> Run:
    """Run an experiment in a temporary directory and return what it recorded."""
    experiment = Experiment.parse({**BASE, "seed": seed, "rounds": rounds, **tables})
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        run_experiment(experiment, out, report=False)
        return Run.load(out)


def accuracy(recorded: Run) -> float:
    """Return the accuracy of a run's last model."""
    return float(recorded.final["accuracy"] or 0.0)


def bytes_to(recorded: Run, target: float) -> float:
    """Return the bytes to and from the server until the model reaches an accuracy; inf if never."""
    total = 0.0
    for line in recorded.rounds:
        total += float(line["bytes-up"] + line["bytes-down"])
        if line["server"]["accuracy"] >= target:
            return total
    return float("inf")


def saved_bytes(seeds: range, rounds: tuple[int, ...]) -> list[dict[str, Any]]:
    """Return a row for flat FedAvg and for each number of rounds of an edge."""
    rows = []
    for k in (0, *rounds):
        edges = {"edges": {"groups": 4, "rounds": k}} if k else {}
        runs = [run(seed, CLIENT_ROUNDS // max(k, 1), **edges) for seed in seeds]
        case = f"k = {k}" if k else "flat"
        accuracies = measured("accuracy", [*map(accuracy, runs)])
        sizes = measured(f"MB-to-{ACCURACY}", [bytes_to(each, ACCURACY) / 1e6 for each in runs])
        rows.append({"case": case, "edge-rounds": k, **accuracies, **sizes})
        print(f"{case:>8}  accuracy {shown(rows[-1], 'accuracy', 4)}", end="  ")
        print(f"{shown(rows[-1], f'MB-to-{ACCURACY}', 3)} MB to {ACCURACY}", flush=True)
    return rows


def hostile_edges(seeds: range) -> list[dict[str, Any]]:
    """Return a row for each rule of the server, with honest edges and with two hostile of eight."""
    tables = {
        "edges": {"groups": 8, "rounds": 5},
        "clients": {**BASE["clients"], "count": 24},
    }
    rows = []
    for name, rule in ROOT_RULES.items():
        for faults in ([], HOSTILE):
            strategy = {"rule": rule}
            runs = [run(s, 12, **tables, strategy=strategy, faults=faults) for s in seeds]
            case = f"{name}, {2 if faults else 0} of 8 edges hostile"
            rows.append({"case": case, **measured("accuracy", [*map(accuracy, runs)])})
            print(f"{case}: accuracy {shown(rows[-1], 'accuracy', 4)}", flush=True)
    return rows


def measured(name: str, values: Sequence[float]) -> dict[str, Any]:
    """Return the mean of what the seeds measured, its 95 % interval, and each seed's value."""
    interval = Sample(tuple(values)).interval if all(map(math.isfinite, values)) else None
    ends = {} if interval is None else {f"{name}-low": interval.low, f"{name}-high": interval.high}
    return {name: fmean(values), **ends, f"{name}-of-seeds": list(values)}


def shown(row: dict[str, Any], name: str, digits: int) -> str:
    """Return a mean and its interval as text."""
    text = f"{row[name]:.{digits}f}"
    if f"{name}-low" in row:
        text += f" [{row[f'{name}-low']:.{digits}f}, {row[f'{name}-high']:.{digits}f}]"
    return text


def main() -> int:
    """Run the benchmark and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--quick", action="store_true", help="one seed, k = 1 and 5")
    options = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.WARNING)
    seeds, rounds = (range(1), (1, 5)) if options.quick else (range(3), (1, 2, 5, 10))
    saved, hostile = saved_bytes(seeds, rounds), hostile_edges(seeds)
    of_case = {row["case"]: row for row in [*saved, *hostile]}
    key = f"MB-to-{ACCURACY}"
    flat, one, five = (of_case[case] for case in ("flat", "k = 1", "k = 5"))
    mean, fallen, *_, robust = (row["accuracy"] for row in hostile)
    checks = [
        check(
            "k = 5: accuracy below flat FedAvg",
            flat["accuracy"] - five["accuracy"],
            0.01,
            upper=True,
        ),
        check(
            "k = 5: times fewer bytes between edges and server to .9 than k = 1",
            one[key] / five[key],
            3.0,
        ),
        check("k = 5: times fewer bytes to the server to .9 than flat", flat[key] / five[key], 3.0),
        check(
            "two of eight edges hostile: accuracy that nnm + geometric median loses",
            mean - robust,
            0.03,
            upper=True,
        ),
        check("two of eight edges hostile: accuracy that the mean loses", mean - fallen, 0.1),
    ]
    return conclude([*saved, *hostile], checks, options.json, machine())


if __name__ == "__main__":
    sys.exit(main())
