"""Run the arena, rules against attacks cell by cell, and write who wins where.

``python benchmarks/arena.py [--quick] [--minutes 60] [--jobs 2] [--page] [--json FILE]``

The sweep is ``experiments/arena.toml``. A cell with a result in ``experiments/arena/results.csv``
is not run again: start it as often as you like, each call adds cells. All cells of the first seed
come first. A rule whose first seed is more than .15 below the best rule of that condition is
dropped from the race there: its other seeds are not run, and its regret is that of one seed.
A condition counts once every rule has all its seeds, or is dropped. A cell that fails is named,
and has no result. ``--page`` runs nothing, and writes the tables of docs/arena.md anew. ``--quick``
runs missing cells for four minutes, in the order of the whole, and leaves the file as it is.
"""

from __future__ import annotations

import argparse
import csv
import logging
import sys
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.arena_parts.page import (  # noqa: E402
    assumptions,
    far_from_best,
    lost_by_all,
    rules_table,
    winners,
)
from benchmarks.arena_parts.results import (  # noqa: E402
    WITHIN,
    Condition,
    Regret,
    Table,
    complete,
    is_dropped,
    rows_of,
)
from benchmarks.reporting import check, conclude, machine, write_between_marks  # noqa: E402
from hqde_fl.simulations.experiment.experiment import Experiment  # noqa: E402
from hqde_fl.simulations.recording.recorded_run import Run  # noqa: E402
from hqde_fl.simulations.run import run_experiment  # noqa: E402
from hqde_fl.simulations.statistics.regret import regrets  # noqa: E402
from hqde_fl.simulations.sweep.cells import Cell, Sweep  # noqa: E402

EXPERIMENT = ROOT / "experiments" / "arena.toml"
RESULTS = ROOT / "experiments" / "arena" / "results.csv"
PAGE = ROOT / "docs" / "arena.md"
COLUMNS = ("rule", "attack", "f", "partition", "seed", "accuracy")
ROBUST, FILTER = "robust", "byzantine-filter"
SHARE = 0.95
FILTER_WITHIN, FILTER_F = 0.05, 3
QUICK_MINUTES = 4.0


def label_of(cell: Cell) -> tuple[str, Condition, int]:
    """Return a cell's rule, condition and seed; without attackers all attacks are one."""
    rule, attack, f, partition = cell.labels[:4]
    f = f.removeprefix("f=")
    return rule, ("none" if f == "0" else attack, f, partition), cell.experiment.seed


def results() -> Table:
    """Return what has been run."""
    table: Table = defaultdict(lambda: defaultdict(dict))
    if RESULTS.exists():
        with RESULTS.open(newline="") as file:
            for row in csv.DictReader(file):
                condition = (row["attack"], row["f"], row["partition"])
                table[condition][row["rule"]][int(row["seed"])] = float(row["accuracy"])
    return table


def add(rule: str, condition: Condition, seed: int, accuracy: float) -> None:
    """Write a result at the end of the file."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(COLUMNS)
        writer.writerow([rule, *condition, seed, f"{accuracy:.4f}"])


def run(experiment_json: str) -> float:
    """Run a cell in one thread, and return its final accuracy."""
    import torch

    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        result = run_experiment(Experiment.from_json(experiment_json), out, report=False)
    return float(result.final["accuracy"] or 0.0)


@cache
def cells_of() -> dict[tuple[str, Condition, int], Cell]:
    """Return the cells of the arena by rule, condition and seed, those of the first seed first."""
    cells: dict[tuple[str, Condition, int], Cell] = {}
    for cell in Sweep.load(EXPERIMENT).cells:
        cells.setdefault(label_of(cell), cell)
    return dict(sorted(cells.items(), key=lambda item: item[0][2]))  # stable


def run_cells(table: Table, minutes: float, jobs: int, *, keep: bool) -> int:
    """Run cells without a result until the time is used up; return the number of those run.

    Their results are added to the table and, with ``keep``, to the file.
    """
    end, done, cells = time.monotonic() + 60 * minutes, 0, cells_of()
    first = min(seed for _, _, seed in cells)
    due = deque((r, c, s) for r, c, s in cells if s not in table[c][r])
    print(f"{len(due)} of {len(cells)} cells have no result", flush=True)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        running: dict[Future[float], tuple[str, Condition, int]] = {}
        while due or running:
            while due and len(running) < jobs and time.monotonic() < end:
                rule, condition, seed = key = due.popleft()
                if seed == first or not is_dropped(table[condition], rule, first):
                    running[pool.submit(run, cells[key].experiment.to_json())] = key
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                rule, condition, seed = key = running.pop(future)
                if (error := future.exception()) is not None:
                    print(f"failed: {key}: {type(error).__name__}: {error}", flush=True)
                    continue
                table[condition][rule][seed] = future.result()
                if keep:
                    add(rule, condition, seed, future.result())
                done += 1
    return done


def wanted_seeds() -> dict[Condition, dict[str, set[int]]]:
    """Return condition -> rule -> the seeds of its cells."""
    wanted: dict[Condition, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    for rule, condition, seed in cells_of():
        wanted[condition][rule].add(seed)
    return wanted


def influence_of_attackers(condition: Condition) -> float:
    """Return the attackers' part of the influence on ``robust``'s model, in the mean over rounds.

    The run of the first seed is run again for it. With equal weights it is f / n.
    """
    seed = min(seed for _, _, seed in cells_of())
    experiment = cells_of()[ROBUST, condition, seed].experiment
    with tempfile.TemporaryDirectory() as folder:
        run_experiment(experiment, Path(folder) / "run", report=False)
        clients = [line for line in Run.load(Path(folder) / "run").clients if line["influence"]]
    of_attackers = sum(line["influence"] for line in clients if line["fault"])
    return float(of_attackers / sum(line["influence"] for line in clients))


def checks_of(regret: Regret, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the checks on ``robust`` and the filter."""
    by_rule = {row["rule"]: row for row in rows}
    checks = []
    if ROBUST in by_rule:
        claim = f"robust: share of {len(regret)} conditions within {WITHIN} of the best rule"
        checks.append(check(claim, by_rule[ROBUST]["within .03"], SHARE))
        others = max(row["worst"] for row in rows if row["rule"] != ROBUST)
        checks.append(check("robust: worst case, of all rules", by_rule[ROBUST]["worst"], others))
    own = [
        values[FILTER]
        for (_, f, partition), values in regret.items()
        if int(f) <= FILTER_F and partition != "alpha .1"
    ]
    if own:
        claim = f"byzantine-filter: greatest regret, f <= {FILTER_F}, alpha >= .5"
        checks.append(check(claim, max(own), FILTER_WITHIN, upper=True))
    return checks


def main() -> int:
    """Run what is due, print the table, write the page or the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--quick", action="store_true", help="four minutes, nothing is kept")
    parser.add_argument("--minutes", type=float, default=75.0, help="begin no cell after this")
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time")
    parser.add_argument("--page", action="store_true", help="write docs/arena.md, run nothing")
    options = parser.parse_args()
    table = results()
    if not options.page:
        minutes = QUICK_MINUTES if options.quick else options.minutes
        print(f"{run_cells(table, minutes, options.jobs, keep=not options.quick)} cells run")
    table = complete(table, wanted_seeds())
    print(f"{len(table)} conditions are complete")
    by_seed = {condition: regrets(rules) for condition, rules in table.items()}
    regret = {
        condition: {rule: fmean(own.values()) for rule, own in rules.items()}
        for condition, rules in by_seed.items()
    }
    rows = rows_of(table, by_seed, regret)
    print(rules_table(rows))
    if options.page and table:
        logging.disable(logging.WARNING)
        write_between_marks(
            PAGE,
            {
                "rules": rules_table(rows),
                "robust": far_from_best(table, regret, ROBUST, influence_of_attackers),
                "winners": winners(table),
                "lost": lost_by_all(table),
                "assumptions": assumptions(table),
            },
        )
    about = {**machine(), "quick": options.quick}
    return conclude([dict(row) for row in rows], checks_of(regret, rows), options.json, about)


if __name__ == "__main__":
    sys.exit(main())
