"""Times that other frameworks publish about themselves, on this machine, and what robustness costs.

``python benchmarks/claims.py [--json FILE] [--quick] [--case flute]``

Each case is run as its authors describe it, with data of the same shapes: FLUTE's LR_MNIST,
blazefl's own benchmark, and a tenth of pfl's CIFAR-10. A run is a process; its time counts from the
start of the interpreter to its end, recording and the evaluations of the server included. Each is
run with the mean and with NNM and the geometric median, in turn. blazefl (the extra ``bench``) asks
for Python 3.12 but runs with 3.11 as well, if it is installed with ``pip install --no-deps
--ignore-requires-python blazefl tqdm``.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.claim_parts.cases import CASES, Case  # noqa: E402
from benchmarks.reporting import check, conclude, machine  # noqa: E402

ENGINES = {"flute": "inline", "blazefl": "ray", "pfl": "ray"}
"""The engine of each case: small cohorts of small models end before Ray's workers have started."""
RULES = ("mean", "robust")
FLUTE_SECONDS = 20.0
ROBUST_COST = 0.15


def experiment_of(name: str, rule: str, rounds: int) -> dict[str, Any]:
    """Return a case as an experiment; the robust rule tolerates a fifth of the cohort."""
    case: Case = CASES[name]
    robust = [{"name": "nnm", "f": case.cohort // 5}, {"name": "geometric-median"}]
    return {
        "name": f"{name}-{rule}",
        "seed": 1,
        "rounds": rounds,
        "task": {"name": "benchmarks.claim_parts.tasks:task", "case": name},
        "clients": {
            "count": case.clients,
            "epochs": case.epochs,
            "batch-size": case.batch,
            "lr": case.lr,
        },
        "strategy": {
            "rule": {"name": "chain", "rules": robust} if rule == "robust" else rule,
            "fraction-train": case.cohort / case.clients,
            "server-optimizer": {"name": "sgd", "lr": 1.0},
        },
        "engine": {"name": ENGINES[name]},
        # what the other frameworks do not do either, but for blazefl's evaluation of every round
        "metrics": {"every": 1 if name == "blazefl" else rounds},
        "monitor": {"enabled": False},
        "checkpoint": {"every": 0},
    }


def run_here(name: str, rule: str, rounds: int) -> float:
    """Run a case in this process, and return its test accuracy."""
    import torch

    from hqde_fl.simulations.experiment.experiment import Experiment
    from hqde_fl.simulations.run import run_experiment

    logging.getLogger("flwr").setLevel(logging.ERROR)
    if ENGINES[name] == "inline":
        torch.set_num_threads(1)
    experiment = Experiment.parse(experiment_of(name, rule, rounds))
    with tempfile.TemporaryDirectory() as folder:
        result = run_experiment(experiment, Path(folder) / "run", report=False)
    return float(result.final["accuracy"] or 0.0)


def timed(command: Sequence[str]) -> tuple[float, float]:
    """Run a command; return its seconds and the accuracy that it prints last."""
    # pools of threads that fight over the cores help nobody
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False
    )
    seconds = time.monotonic() - began
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return seconds, float(done.stdout.strip().splitlines()[-1])


Figures = Mapping[tuple[str, str], list[tuple[float, float]]]
"""Case and who runs it -> seconds and accuracy of each run."""


def measured(names: Sequence[str], repeats: int, quick: bool) -> Figures:
    """Run every case in turn with both rules, and blazefl's in blazefl, if it is there."""
    figures: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for name in names:
        rounds = CASES[name].quick_rounds if quick else CASES[name].rounds
        runs = {
            rule: [sys.executable, __file__, "--run", name, rule, str(rounds)] for rule in RULES
        }
        if name == "blazefl" and find_spec("blazefl"):
            module = "benchmarks.claim_parts.in_blazefl"
            runs["blazefl"] = [sys.executable, "-m", module, str(rounds)]
        for _ in range(repeats):
            for who, command in runs.items():
                one = timed(command)
                figures.setdefault((name, who), []).append(one)
                print(f"{name:<8} {who:<8}{one[0]:>8.1f} s, accuracy {one[1]:.3f}", flush=True)
    return figures


def rows_and_checks(
    figures: Figures, quick: bool
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return a row for each case and who ran it, and the checks."""
    seconds = {key: statistics.median(time for time, _ in runs) for key, runs in figures.items()}
    rows = [
        {
            "case": name,
            "published": CASES[name].published,
            "rounds": CASES[name].quick_rounds if quick else CASES[name].rounds,
            "by": who,
            "engine": None if who == "blazefl" else ENGINES[name],
            "seconds": seconds[name, who],
            "of mean": seconds[name, who] / seconds[name, "mean"],
            "accuracy": runs[-1][1],
            "runs": len(runs),
        }
        for (name, who), runs in figures.items()
    ]
    checks = []
    for name, who in seconds:
        of_mean = seconds[name, who] / seconds[name, "mean"]
        if who == "robust":
            claim = f"{name}: wall time of NNM and geometric median over the mean's, less 1"
            checks.append(check(claim, of_mean - 1, ROBUST_COST, upper=True))
        elif who == "blazefl":
            checks.append(check("blazefl: time of blazefl's threads over ours", of_mean, 1.0))
    if ("flute", "mean") in seconds:
        claim = "flute: seconds, start included"
        checks.append(check(claim, seconds["flute", "mean"], FLUTE_SECONDS, upper=True))
    return rows, checks


def main() -> int:
    """Run everything, print the table, write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, one run of each")
    parser.add_argument("--case", choices=tuple(CASES), help="only this one")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, in turn")
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        name, rule, rounds = options.run
        print(run_here(name, rule, int(rounds)))
        return 0
    names = [options.case] if options.case else list(CASES)
    figures = measured(names, 1 if options.quick else options.repeats, options.quick)
    rows, checks = rows_and_checks(figures, options.quick)
    print(f"\n{'case':<9}{'by':<9}{'seconds':>9}{'of mean':>9}{'accuracy':>10}")
    for row in rows:
        print(
            f"{row['case']:<9}{row['by']:<9}{row['seconds']:>9.1f}{row['of mean']:>9.2f}"
            f"{row['accuracy']:>10.3f}"
        )
    if "blazefl" in names and not find_spec("blazefl"):
        rows.append({"case": "blazefl", "by": "blazefl", "note": "not installed"})
        print("blazefl: not installed (the extra bench)")
    return conclude(rows, checks, options.json, machine() | {"quick": options.quick})


if __name__ == "__main__":
    sys.exit(main())
