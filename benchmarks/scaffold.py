"""SCAFFOLD against FedAvg on digits that are divided very unevenly.

``python benchmarks/scaffold.py [--json FILE] [--quick]``

Ten clients, Dirichlet 0.1, a few local epochs of plain SGD, all clients in every round. Each method
gets the learning rate that is best for it on another seed; then both train with the same seeds,
partitions and initial models, and the difference of their test accuracies, mean over the rounds of
the second half, is a paired one. ``--quick`` has one learning rate, two seeds and fewer rounds.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.reporting import check, conclude, machine
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.run import run_experiment
from hqde_fl.simulations.statistics.paired import paired_difference

CLIENTS, ALPHA, EPOCHS = 10, 0.1, 5
RATES = (0.1, 0.2, 0.4)
TUNING_SEEDS = (101,)
METHODS = {"FedAvg": False, "SCAFFOLD": True}


def accuracies(scaffold: bool, lr: float, seed: int, rounds: int) -> list[float]:
    """Return the test accuracy after each round of a run."""
    experiment = Experiment.parse(
        {
            "name": "scaffold",
            "seed": seed,
            "rounds": rounds,
            "task": "digits",
            "clients": {
                "count": CLIENTS,
                "partition": {"name": "dirichlet", "alpha": ALPHA},
                "epochs": EPOCHS,
                "lr": lr,
                "control-variates": scaffold,
            },
            "strategy": {"rule": {"name": "mean", "weighted": True}, "density": "never"},
            "engine": {"name": "inline"},
            "checkpoint": {"every": 0},
            "monitor": {"enabled": False},
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        run_experiment(experiment, Path(folder) / "run", report=False)
        lines = (Path(folder) / "run" / "rounds.jsonl").read_text().splitlines()
    return [json.loads(line)["server"]["accuracy"] for line in lines[1:]]


def score(run: list[float]) -> float:
    """Return the mean accuracy over the second half of the rounds: single rounds swing widely."""
    return statistics.mean(run[len(run) // 2 :])


def main() -> int:
    """Run the benchmark and return the exit status: 1 if a check fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    rounds, seeds = (10, 2) if options.quick else (20, 5)
    rates = (0.1,) if options.quick else RATES
    rows: list[dict[str, Any]] = []
    scores: dict[str, dict[str, float]] = {}
    for method, scaffold in METHODS.items():
        tuned = {
            lr: statistics.mean(score(accuracies(scaffold, lr, s, rounds)) for s in TUNING_SEEDS)
            for lr in (rates if len(rates) > 1 else ())
        }
        lr = max(tuned, key=tuned.__getitem__) if tuned else rates[0]
        runs = {str(s): accuracies(scaffold, lr, s, rounds) for s in range(1, seeds + 1)}
        scores[method] = {seed: score(run) for seed, run in runs.items()}
        rows.append({"method": method, "lr": lr, "tuning": tuned, "accuracies": runs})
        mean, last = statistics.mean(scores[method].values()), [run[-1] for run in runs.values()]
        print(
            f"{method:9} lr {lr:<5} second half {mean:.4f}  last round {statistics.mean(last):.4f}"
            f"  each {' '.join(f'{value:.3f}' for value in scores[method].values())}",
            flush=True,
        )
    difference = paired_difference(scores["SCAFFOLD"], scores["FedAvg"])
    assert difference is not None
    interval = difference.sample.interval
    low = difference.mean if interval is None else interval.low
    print(f"SCAFFOLD - FedAvg: {difference.mean:+.4f}, 95 % interval from {low:+.4f}")
    rows.append({"difference": difference.mean, "low": low, "seeds": seeds})
    claim = f"SCAFFOLD - FedAvg, Dirichlet {ALPHA}, low end of the paired 95 % interval"
    checks = [check(claim, low, 0.0, strict=True)]
    return conclude(rows, checks, options.json, machine() | {"quick": options.quick})


if __name__ == "__main__":
    sys.exit(main())
