"""Measure the cost of verifying a run, and count the forged rounds that are noticed.

A run of digits writes a checkpoint after every round and keeps them all. Then 44 random rounds of
it are computed again. The cost is the CPU time of that, with the checks of the chain and of all
checkpoints' models, over that of the run; both include loading the data, neither includes the
imports. It is the median of three verifications, each of other rounds. Then three rounds are
forged, once by changing their lines and once with a new chain for all lines, so that only computing
a forged round again shows it; and the run is replayed.

    python benchmarks/verification.py --json verification.json [--quick]
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads do not take a core from others

from benchmarks.reporting import check, conclude, machine  # noqa: E402
from hqde_fl.simulations.experiment.experiment import Experiment  # noqa: E402
from hqde_fl.simulations.recording.recorded_run import Run  # noqa: E402
from hqde_fl.simulations.recording.round_chain import (  # noqa: E402
    CHAIN_HASH,
    START,
    chain_hash,
)
from hqde_fl.simulations.run import run_experiment  # noqa: E402
from hqde_fl.simulations.verification.chain_check import (  # noqa: E402
    Mismatch,
    check_chain,
    check_models,
    clients_by_round,
)
from hqde_fl.simulations.verification.recomputation import Recomputation  # noqa: E402
from hqde_fl.simulations.verification.spot_check import (  # noqa: E402
    choose_rounds,
    detection_probability,
    spot_check,
    stretches,
)

SPOTS, ROUNDS = 44, 500
MAX_COST = 0.1
"""Time of the verification over that of the run."""
EXPERIMENT: dict[str, Any] = {
    "name": "verified",
    "seed": 3,
    "task": {"name": "digits"},
    "clients": {"count": 20, "epochs": 5, "partition": {"name": "dirichlet", "alpha": 0.5}},
    "strategy": {"rule": {"name": "krum", "f": 3}},
    "faults": [{"name": "sign-flip", "count": 3}],
    "checkpoint": {"keep": 0},
    "monitor": {"enabled": False},
    "engine": {"name": "inline"},
}


def rewrite_rounds(
    path: Path, change: Callable[[dict[str, Any]], object], *, chained: bool
) -> None:
    """Change every line of a run's ``rounds.jsonl``; make a new chain if ``chained``."""
    run = Run.load(path)
    clients, previous, lines = clients_by_round(run), START, []
    for line in map(dict, run.rounds):
        change(line)
        if chained:
            own = clients.get(line["round"], [])
            previous = line[CHAIN_HASH] = chain_hash(previous, line, own)
        lines.append(json.dumps(line, sort_keys=True) + "\n")
    (path / "rounds.jsonl").write_text("".join(lines))


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return what a function returns, and its CPU and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    return work(), time.process_time() - cpu, time.perf_counter() - wall


def verified(path: Path, spots: int) -> list[Mismatch]:
    """Return the findings of a whole verification."""
    run = Run.load(path)
    found = [*check_chain(run), *check_models(run)]
    recomputation = Recomputation(run)
    planned = stretches(choose_rounds(run, spots), recomputation.bases())
    return [*found, *spot_check(recomputation, planned)]


def forged_rounds(path: Path, rounds: Sequence[int], spots: int, *, chained: bool) -> set[int]:
    """Return the rounds that verification finds in a copy of a run with three forged ones."""

    def change(line: dict[str, Any]) -> None:
        if line["round"] in rounds:
            line["server"] = {**line["server"], "accuracy": 0.999}

    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(path, Path(folder) / "forged"))
        rewrite_rounds(copy, change, chained=chained)
        return {finding.round for finding in verified(copy, spots)}


def main() -> int:
    """Run, verify, forge and replay; print the figures and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument(
        "--quick", action="store_true", help="a run half as long, half the rounds; 60 forged"
    )
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        long, short = Path(folder) / "long", Path(folder) / "short"
        spots, length = (SPOTS // 2, ROUNDS // 2) if options.quick else (SPOTS, ROUNDS)
        experiment = Experiment.parse({**EXPERIMENT, "rounds": length})
        run_experiment(Experiment.parse({**EXPERIMENT, "rounds": 2}), Path(folder) / "warm-up")
        _, cpu, wall = timed(lambda: run_experiment(experiment, long, report=False))
        trials = [timed(lambda: verified(long, spots)) for _ in range(3)]
        differences = [finding for findings, _, _ in trials for finding in findings]
        verified_cpu, verified_wall = (median(trial[i] for trial in trials) for i in (1, 2))
        if options.quick:
            experiment = Experiment.parse({**EXPERIMENT, "rounds": 60})
            run_experiment(experiment, short, report=False)
        whole = short if options.quick else long
        rounds, forged = experiment.rounds, (7, 23, 51)
        lines = forged_rounds(whole, forged, 0, chained=False)
        computed = forged_rounds(whole, forged, rounds, chained=True)
        run_experiment(experiment, Path(folder) / "again", report=False)
        same = Run.load(whole).rounds[-1][CHAIN_HASH]
        replayed = Run.load(Path(folder) / "again").rounds[-1][CHAIN_HASH]
    rows = [
        {"what": f"run, {length} rounds", "cpu": cpu, "wall": wall, "findings": 0},
        {"what": f"verify --spot {spots}", "cpu": verified_cpu, "wall": verified_wall}
        | {"findings": len(differences)},
        {"what": f"three of {rounds} rounds forged", "findings": len(lines)},
        {"what": f"and the chain made anew, --spot {rounds}", "findings": len(computed)},
    ]
    for row in rows:
        seconds = f"{row['cpu']:9.1f} s CPU {row['wall']:9.1f} s" if "cpu" in row else " " * 26
        print(f"{row['what']:<48}{seconds}  findings {row['findings']}")
    chance = detection_probability(SPOTS, ROUNDS)
    print(
        f"{SPOTS} of {ROUNDS} rounds: one of 50 forged ones is seen with probability {chance:.4f}"
    )
    checks = [
        check(
            f"verifying {spots} of {length} rounds: CPU time over the run's",
            verified_cpu / cpu,
            MAX_COST,
            upper=True,
        ),
        check("44 of 500 rounds show one of 50 forged", chance, 0.99),
        check("findings in the run itself", len(differences), 0, upper=True),
        check("three forged rounds found by the chain", len(lines & {*forged}), 3),
        check("three forged rounds found, the chain made anew", len(computed & {*forged}), 3),
        check("replay without nobody has the run's chain", float(same == replayed), 1),
    ]
    return conclude(rows, checks, options.json, {**machine(), "quick": options.quick})


if __name__ == "__main__":
    sys.exit(main())
