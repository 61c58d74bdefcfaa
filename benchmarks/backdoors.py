"""Backdoors against every defence: the success rate and the clean accuracy, in one table.

``python benchmarks/backdoors.py [--json FILE] [--quick]``

Ten clients, three of them attackers; each cell is the mean over the seeds of the success after the
last round, and of the accuracy on the test set. Each attack is first proved effective against the
plain mean. The defences are all rules of the registry. ``--quick`` has one seed, and digits only;
the full form needs Fashion-MNIST (HQDE_FL_DATA), which is left out otherwise.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.backdoor_parts.federations import OURS, Setting, defences, digits, fashion, try_run
from benchmarks.reporting import check, conclude, machine
from hqde_fl.simulations.tasks.fashion_mnist import ENVIRONMENT

EFFECTIVE, STOPPED, LOSS = 0.9, 0.1, 0.01
"""Least success against the mean, greatest success of a defence that holds, and its loss."""


def settings(quick: bool) -> list[Setting]:
    """Return the federations to try."""
    if quick:
        return [digits(0.5, 10)]
    settings = [digits(0.5, 20), digits(None, 20)]
    return settings + ([fashion(12)] if os.environ.get(ENVIRONMENT) else [])


def measure(setting: Setting, seeds: int, workers: int, only: set[str]) -> Iterator[dict[str, Any]]:
    """Yield a row for each defence and attack, and for each defence without an attack.

    ``only`` names the defences to try besides the mean; all if it is empty.
    """
    rules = {k: v for k, v in defences().items() if not only or k in only | {"mean"}}
    cells = [(name, attack) for name in rules for attack in (None, *setting.attacks)]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs = {
            cell: [
                pool.submit(
                    try_run, setting, rules[cell[0]], setting.attacks.get(cell[1] or ""), seed
                )
                for seed in range(1, seeds + 1)
            ]
            for cell in cells
        }
        for (rule, attack), futures in jobs.items():
            results = [future.result() for future in futures]
            row: dict[str, Any] = {"setting": setting.name, "rule": rule, "attack": attack}
            if refused := [result for result in results if isinstance(result, str)]:
                yield row | {"refused": refused[0]}
                continue
            pairs = [result for result in results if not isinstance(result, str)]
            success = [success for success, _ in pairs if success is not None]
            yield row | {
                "success": statistics.mean(success) if success else None,
                "successes": success,
                "accuracy": statistics.mean(accuracy for _, accuracy in pairs),
                "accuracies": [accuracy for _, accuracy in pairs],
            }


def print_table(rows: list[dict[str, Any]], setting: Setting) -> None:
    """Print one line per defence: its accuracy without an attack, then success and accuracy."""
    print(f"\n### {setting.name}: success / accuracy\n")
    print("| defence | no attack |" + "".join(f" {name} |" for name in setting.attacks))
    print("|---|---|" + "---|" * len(setting.attacks))
    for rule in dict.fromkeys(row["rule"] for row in rows):
        cells = []
        for row in rows:
            if row["rule"] != rule:
                continue
            if "refused" in row:
                cells.append("-")
            elif row["success"] is None:
                cells.append(f"{row['accuracy']:.3f}")
            else:
                cells.append(f"{row['success']:.2f} / {row['accuracy']:.3f}")
        print(f"| {rule} | " + " | ".join(cells) + " |", flush=True)


def judge(rows: list[dict[str, Any]], setting: Setting) -> Iterator[dict[str, Any]]:
    """Yield the checks of a setting: each attack's success, and what is left of it."""
    measured = {(row["rule"], row["attack"]): row for row in rows if "refused" not in row}
    clean = measured["mean", None]["accuracy"]
    for attack in setting.attacks:
        claim = f"{setting.name}: {attack} succeeds against the mean"
        yield check(claim, measured["mean", attack]["success"], EFFECTIVE)
        for whose, names in (("ours", OURS), ("any defence", [rule for rule, _ in measured])):
            found = [measured[name, attack] for name in names if (name, attack) in measured]
            left = [row["success"] for row in found if row["accuracy"] >= clean - LOSS]
            claim = f"{setting.name}: {attack} against the best of {whose} that loses <= {LOSS}"
            yield check(claim, min(left, default=1.0), STOPPED, upper=True)


def main() -> int:
    """Run the benchmark and return the exit status: 1 if a check fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--rules", default="", help="try only these, such as robust,flame")
    parser.add_argument("--setting", default="", help="try only settings that begin so")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    options = parser.parse_args()
    seeds = options.seeds or (1 if options.quick else 3)
    rows, checks = [], []
    only = {name for name in options.rules.split(",") if name}
    for setting in settings(options.quick):
        if not setting.name.startswith(options.setting):
            continue
        measured = list(measure(setting, seeds, options.workers, only))
        print_table(measured, setting)
        rows += measured
        checks += judge(measured, setting)
    about = machine() | {"seeds": seeds, "rules": len({row["rule"] for row in rows})}
    return conclude(rows, checks, options.json, about)


if __name__ == "__main__":
    sys.exit(main())
