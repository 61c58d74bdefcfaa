"""Runs the cells of published tables, and writes published and own accuracies side by side.

``python benchmarks/published.py [--only t1] [--cells REGEX] [--seeds 42 43] [--jobs 2] [--page]``

The sweeps and the published figures are in ``experiments/published``. A cell that has a result in
``results.jsonl`` there is not run again, and one that was interrupted goes on from its checkpoint
in ``runs/published``: start it as often as you like. A run takes one thread and three to ten
minutes. ``--page`` runs nothing, and writes the tables of docs/published.md anew.
``--quick`` runs nothing either: its checks are those of the results on record.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import statistics
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.reporting import check, conclude, machine, write_between_marks  # noqa: E402
from hqde_fl.simulations.statistics.samples import Sample  # noqa: E402
from hqde_fl.simulations.sweep.cells import Cell, Sweep  # noqa: E402

FOLDER = ROOT / "experiments" / "published"
RESULTS = FOLDER / "results.jsonl"
RUNS = ROOT / "runs" / "published"
PAGE = ROOT / "docs" / "published.md"
COMPARED = ("t1", "t2")
"""Tables whose accuracies are compared; of t3 only the order with and without bucketing is."""
TOLERANCE, SHARE = 0.03, 0.9
BUCKETING = "bucketing, "

Results = Mapping[tuple[str, str], Mapping[int, Mapping[str, Any]]]
"""Table and cell -> seed -> line of the results."""


def figures() -> dict[str, dict[str, float]]:
    """Return the published accuracies of each table, by the labels of its cells."""
    tables: dict[str, dict[str, float]] = tomllib.loads((FOLDER / "figures.toml").read_text())
    return tables


def results() -> Results:
    """Return what has been run."""
    found: dict[tuple[str, str], dict[int, Mapping[str, Any]]] = {}
    for line in RESULTS.read_text().splitlines() if RESULTS.exists() else ():
        one = json.loads(line)
        found.setdefault((one["table"], one["cell"]), {})[one["seed"]] = one
    return found


def cells_of(table: str, seeds: Sequence[int]) -> Iterator[tuple[str, int, Cell]]:
    """Return label, seed and cell of all cells of a table that have a published figure.

    Raises
    ------
    ValueError
        If a published figure belongs to no cell of the sweep.
    """
    overrides = [f"sweep.seeds={list(seeds)}"] if seeds else []
    cells = [
        (", ".join(cell.labels[1:]), cell.experiment.seed, cell)
        for cell in Sweep.load(FOLDER / f"{table}.toml", overrides).cells
    ]
    published = figures()[table]
    if missing := published.keys() - {label for label, _, _ in cells}:
        raise ValueError(f"{table}.toml has no cell {sorted(missing)[0]!r}")
    return (cell for cell in cells if cell[0] in published)


def run(table: str, label: str, experiment_json: str, key: str) -> dict[str, Any]:
    """Run a cell, or what is left of it, in one thread; return its line of the results."""
    import torch

    from hqde_fl.simulations.experiment.experiment import Experiment
    from hqde_fl.simulations.run import run_experiment

    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    experiment = Experiment.from_json(experiment_json)
    began = time.monotonic()
    out = RUNS / table / key
    result = run_experiment(experiment, out, engine="inline", resume=True, report=False)
    rounds = [line["server"] for line in result.recorded.rounds if line.get("server")]
    accuracies = [one["accuracy"] for one in rounds if "accuracy" in one]
    return {
        "table": table,
        "cell": label,
        "seed": experiment.seed,
        "accuracy": round(accuracies[-1], 4),
        "last-ten": round(statistics.mean(accuracies[-10:]), 4),
        "rounds": experiment.rounds,
        "seconds": round(time.monotonic() - began),
    }


def run_cells(tables: Sequence[str], pattern: str, seeds: Sequence[int], jobs: int) -> None:
    """Run all cells that have no result, and write each result as it comes."""
    known, published = results(), figures()
    due = [
        (table, label, cell.experiment.to_json(), cell.key)
        for table in tables
        for label, seed, cell in cells_of(table, seeds)
        if seed not in known.get((table, label), {}) and re.search(pattern, label)
    ]
    print(f"{len(due)} cells to run", flush=True)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(run, *cell) for cell in due]):
            line = done.result()
            with RESULTS.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(
                f"{line['table']}, {line['cell']}, seed {line['seed']}: {line['accuracy']:.3f} "
                f"(published {published[line['table']][line['cell']]:.3f}), {line['seconds']} s",
                flush=True,
            )


def rows_of(table: str, found: Results) -> list[dict[str, Any]]:
    """Return a row for each published figure of a table."""
    rows = []
    for label, published in figures()[table].items():
        lines = list(found.get((table, label), {}).values())
        sample = Sample(tuple(line["accuracy"] for line in lines)) if lines else None
        interval = sample.interval if sample else None
        rows.append(
            {
                "table": table,
                "cell": label,
                "published": published,
                "ours": sample.mean if sample else None,
                "last-ten": statistics.mean(line["last-ten"] for line in lines) if lines else None,
                "interval": [interval.low, interval.high] if interval else None,
                "difference": sample.mean - published if sample else None,
                "seeds": sorted(line["seed"] for line in lines),
            }
        )
    return rows


def markdown_row(row: Mapping[str, Any]) -> str:
    """Return a row of a table in Markdown; differences above the tolerance are bold."""
    if row["ours"] is None:
        return f"| {row['cell']} | {row['published']:.3f} | not run | | | | |"
    difference = f"{row['difference']:+.3f}"
    if row["table"] in COMPARED and abs(row["difference"]) > TOLERANCE:
        difference = f"**{difference}**"
    interval = "" if row["interval"] is None else "{:.3f} to {:.3f}".format(*row["interval"])
    seeds = ", ".join(map(str, row["seeds"]))
    return (
        f"| {row['cell']} | {row['published']:.3f} | {row['ours']:.3f} | {difference} "
        f"| {row['last-ten']:.3f} | {seeds} | {interval} |"
    )


def write_page(found: Results) -> None:
    """Write each table of the page anew."""
    head = (
        "| cell | published | ours, last round | difference | mean of the last ten evaluations "
        "| seeds | 95 % interval |\n|---|---|---|---|---|---|---|"
    )
    rows = {table: map(markdown_row, rows_of(table, found)) for table in figures()}
    write_between_marks(PAGE, {table: "\n".join([head, *rows[table]]) for table in rows})


def checks_of(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the checks: cells run, cells near the published figure, and bucketing's order."""
    done = [row for row in rows if row["ours"] is not None]
    compared = [row for row in rows if row["table"] in COMPARED]
    near = [row for row in done if row in compared and abs(row["difference"]) <= TOLERANCE]
    checks = [
        check("cells of T1 and T2 that were run", sum(row in done for row in compared), 45),
        check(f"cells of T1 and T2 within {TOLERANCE}, of all", len(near) / len(compared), SHARE),
    ]
    ours = {row["cell"]: row["ours"] for row in done if row["table"] == "t3"}
    pairs = [
        (ours[cell], ours[with_bucketing])
        for cell in ours
        if BUCKETING not in cell
        and (with_bucketing := cell.replace(", ", f", {BUCKETING}", 1)) in ours
    ]
    if pairs:
        helped = sum(after >= before - TOLERANCE for before, after in pairs)
        claim = f"T3: pairs of {len(pairs)} in which bucketing does not lower the accuracy"
        checks.append(check(claim, helped / len(pairs), SHARE))
    return checks


def main() -> int:
    """Run what is due, print the table, write the JSON file."""
    tables = tuple(figures())
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--quick", action="store_true", help="run nothing")
    parser.add_argument("--only", nargs="+", choices=tables, default=tables, help="these tables")
    parser.add_argument("--cells", default="", help="only cells in whose label this is found")
    parser.add_argument("--seeds", type=int, nargs="+", default=[], help="not those of the sweep")
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time")
    parser.add_argument("--page", action="store_true", help="write docs/published.md, run nothing")
    options = parser.parse_args()
    if not (options.quick or options.page):
        run_cells(options.only, options.cells, options.seeds, options.jobs)
    recorded = results()
    if options.page:
        write_page(recorded)
    rows = [row for table in options.only for row in rows_of(table, recorded)]
    for row in rows:
        if row["ours"] is not None:
            print(
                f"{row['table']}  {row['cell']:<48}{row['published']:>7.3f}{row['ours']:>7.3f}"
                f"{row['difference']:>+8.3f}  seeds {row['seeds']}"
            )
    return conclude(rows, checks_of(rows), options.json, machine())


if __name__ == "__main__":
    sys.exit(main())
