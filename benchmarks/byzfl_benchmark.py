"""Run byzfl's default benchmark in byzfl and here, and write both heat maps side by side.

``python benchmarks/byzfl_benchmark.py --data DIR [--seeds 1] [--jobs 2] [--page] [--json FILE]``

Ours is ``experiments/byzfl.toml``, byzfl's is what its own ``run_benchmark`` makes of its own
``default_config``, both with the model ``--model`` and so many seeds. byzfl comes from PyPI
(``pip install --no-deps byzfl``, or ``PYTHONPATH=.venv-peers`` after ``make conformance``). DIR has
MNIST's four files. A run with a line in ``experiments/published/byzfl.jsonl`` is not run again.
``--page`` runs nothing, and writes the tables of docs/byzfl.md anew. ``--quick`` runs nothing
either: its checks are those of the results on record.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.reporting import check, conclude, machine, write_between_marks  # noqa: E402
from hqde_fl.simulations.sweep.cells import Sweep  # noqa: E402

RESULTS = ROOT / "experiments" / "published" / "byzfl.jsonl"
RUNS = ROOT / "runs" / "byzfl"
PAGE = ROOT / "docs" / "byzfl.md"
MODELS = {"byzfl-mlp": "fc_mnist", "byzfl-cnn": "cnn_mnist"}
"""Our name of a model -> byzfl's."""
RULES = {
    "GeometricMedian": "clipping + nnm + geometric-median",
    "TrMean": "clipping + nnm + trimmed-mean",
}
ATTACKS = {
    "SignFlipping": "ipm",
    "Optimal_InnerProductManipulation": "optimal-ipm",
    "Optimal_ALittleIsEnough": "optimal-alie",
}
GAMMAS, COUNTS = ("1.0", "0.66", "0.33", "0.0"), (1, 2, 3, 4)
OURS, THEIRS, BEST = "hqde-fl", "byzfl", "the better of both"
TOLERANCE, SHARE = 0.03, 0.9

Line = dict[str, Any]
"""A run: framework, model, rule, gamma, attack, f, seed, and accuracies of all evaluations."""
Map = dict[tuple[int, str], float]
"""f and gamma -> the test accuracy under the worst attack."""


def results() -> list[Line]:
    """Return what has been run."""
    return (
        [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    )


def key_of(line: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what tells a run from all others."""
    return tuple(
        line[key] for key in ("framework", "model", "rule", "gamma", "attack", "f", "seed")
    )


def add(line: Line) -> None:
    """Write a run at the end of the file, and say so."""
    with RESULTS.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(
        *key_of(line), f"{line['test'][-1]:.3f}", f"{line['seconds']:.0f} s", sep=", ", flush=True
    )


def run(experiment_json: str, line: Line) -> Line:
    """Run one of our cells in one thread, and return its line of the results."""
    import tempfile

    import torch

    from hqde_fl.simulations.experiment.experiment import Experiment
    from hqde_fl.simulations.run import run_experiment

    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        recorded = run_experiment(
            Experiment.from_json(experiment_json), Path(folder) / "run", report=False
        ).recorded
    rounds = [one["server"] for one in recorded.rounds if "accuracy" in (one.get("server") or {})]
    return {
        **line,
        "validation": [round(one["validation/accuracy"], 4) for one in rounds],
        "test": [round(one["accuracy"], 4) for one in rounds],
        "seconds": round(time.monotonic() - began, 1),
    }


def run_ours(options: argparse.Namespace) -> None:
    """Run those of our cells that were asked for and have no result."""
    model = options.model
    overrides = [
        f"task.model={model}",
        f"task.data-dir={options.data}",
        "checkpoint.every=0",
        f"sweep.seeds={list(range(1, options.seeds + 1))}",
    ]
    known = {key_of(line) for line in results()}
    due = []
    for cell in Sweep.load(ROOT / "experiments" / "byzfl.toml", overrides).distinct:
        rule, partition, attack, f = cell.labels[:4]
        line = {
            "framework": OURS,
            "model": model,
            "rule": rule,
            "gamma": str(float(partition.removeprefix("gamma "))),
            "attack": attack.partition(" ")[0],
            "f": int(f.removeprefix("f=")),
            "seed": cell.experiment.seed,
        }
        wanted = rule in options.rules and line["gamma"] in options.gammas
        if wanted and key_of(line) not in known:
            due.append((cell.experiment.to_json(), line))
    print(f"{OURS}: {len(due)} runs", flush=True)
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(run, *one) for one in due]):
            add(done.result())


def run_theirs(options: argparse.Namespace) -> None:
    """Run what was asked for of byzfl's benchmark, and write what has no line yet."""
    folder = RUNS / THEIRS
    asked = {
        "folder": str(folder),
        "data": options.data,
        "model": MODELS[options.model],
        "seeds": options.seeds,
        "jobs": options.jobs,
        "aggregators": [name for name, rule in RULES.items() if rule in options.rules],
        "gammas": [float(gamma) for gamma in options.gammas],
    }
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [sys.executable, "-m", "benchmarks.byzfl_parts.in_byzfl", json.dumps(asked)],
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
    )
    known = {key_of(line) for line in results()}
    for line in lines_of(folder / "results", options.model, options.seeds):
        if key_of(line) not in known:
            add(line)


def lines_of(folder: Path, model: str, seeds: int) -> Iterator[Line]:
    """Yield byzfl's runs from the files that it has written."""
    for place in sorted(path for path in folder.iterdir() if (path / "config.json").exists()):
        config = json.loads((place / "config.json").read_text())
        if config["model"]["name"] != MODELS[model]:
            continue
        benchmark = config["benchmark_config"]
        for seed in range(seeds):
            end = f"tr_seed_{seed}_dd_seed_0.txt"
            if not (place / f"train_time_{end}").exists():
                continue
            accuracies = {
                name: [float(text) for text in (place / f"{prefix}_{end}").read_text().split(",")]
                for name, prefix in (("validation", "val_accuracy"), ("test", "test_accuracy"))
            }
            yield {
                "framework": THEIRS,
                "model": model,
                "rule": RULES[config["aggregator"]["name"]],
                "gamma": str(benchmark["data_distribution"]["distribution_parameter"]),
                "attack": ATTACKS[config["attack"]["name"]],
                "f": benchmark["f"],
                "seed": seed + 1,
                **{name: [round(one, 4) for one in curve] for name, curve in accuracies.items()},
                "seconds": round(float((place / f"train_time_{end}").read_text()), 1),
            }


def heat_map(
    lines: Sequence[Line], framework: str, rule: str, attacks: Sequence[str] = (*ATTACKS.values(),)
) -> Map:
    """Return byzfl's heat map of a rule: test accuracies at the step that validation chooses.

    That step is the one with the best mean over the seeds; the value is the mean over the seeds, of
    the attack for which it is worst. A cell in which an attack has not been run is left out.
    """
    runs: dict[tuple[int, str, str], list[Line]] = defaultdict(list)
    for line in lines:
        if (line["framework"], line["rule"]) == (framework, rule):
            runs[line["f"], line["gamma"], line["attack"]].append(line)
    values = {}
    for condition, seeds in runs.items():
        validation = [
            fmean(step) for step in zip(*(one["validation"] for one in seeds), strict=True)
        ]
        best = validation.index(max(validation))
        values[condition] = fmean(one["test"][best] for one in seeds)
    return {
        (f, gamma): min(values[f, gamma, attack] for attack in attacks)
        for f in COUNTS
        for gamma in GAMMAS
        if all((f, gamma, attack) in values for attack in attacks)
    }


def maps_of(lines: Sequence[Line]) -> dict[str, dict[str, Map]]:
    """Return title -> framework -> heat map, of those that have a cell.

    These are each rule's under the worst attack, then under the sign flip alone, and that of the
    better rule in each cell.
    """
    maps = {
        rule: {name: heat_map(lines, name, rule) for name in (THEIRS, OURS)}
        for rule in RULES.values()
    }
    first, second = maps.values()
    best = {
        name: {
            cell: max(first[name][cell], second[name][cell])
            for cell in first[name].keys() & second[name].keys()
        }
        for name in (THEIRS, OURS)
    }
    flipped = {
        f"{rule}, sign flip": {n: heat_map(lines, n, rule, ["ipm"]) for n in (THEIRS, OURS)}
        for rule in RULES.values()
    }
    return {
        name: pair for name, pair in {**maps, **flipped, BEST: best}.items() if any(pair.values())
    }


def table(title: str, maps: Mapping[str, Map]) -> str:
    """Return both heat maps of a rule in Markdown, byzfl's first in each cell."""

    def cell(f: int, gamma: str) -> str:
        texts = [
            f"{maps[name][f, gamma]:.3f}" if (f, gamma) in maps[name] else "not run"
            for name in (THEIRS, OURS)
        ]
        return " / ".join(texts)

    rows = [f"| {title} | " + " | ".join(f"gamma {gamma}" for gamma in GAMMAS) + " |"]
    rows.append("|---" * (len(GAMMAS) + 1) + "|")
    rows += [
        f"| f = {f} | " + " | ".join(cell(f, gamma) for gamma in GAMMAS) + " |" for f in COUNTS
    ]
    return "\n".join(rows)


def draw(maps: Mapping[str, Mapping[str, Map]], path: Path) -> None:
    """Draw byzfl's heat maps in one row and ours below, as byzfl's page has them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * len(maps), 5.6), layout="constrained")
    axes = figure.subplots(2, len(maps), squeeze=False)
    for column, (rule, of_rule) in enumerate(maps.items()):
        for row, (framework, values) in enumerate(of_rule.items()):
            ax = axes[row][column]
            cells = [[values.get((f, gamma), float("nan")) for gamma in GAMMAS] for f in COUNTS]
            ax.set_facecolor("#eceff2")
            ax.imshow(cells, cmap="viridis", vmin=0, vmax=1, aspect="auto")
            ax.set_xticks(range(len(GAMMAS)), GAMMAS)
            ax.set_yticks(range(len(COUNTS)), [str(f) for f in COUNTS])
            ax.set_title(f"{framework}: {rule}", fontsize=8)
            ax.set_xlabel("gamma", fontsize=8)
            ax.set_ylabel("f", fontsize=8)
            for y, line in enumerate(cells):
                for x, value in enumerate(line):
                    colour = "black" if value > 0.6 else "white"
                    text = f"{value:.2f}" if value == value else ""
                    ax.text(x, y, text, ha="center", va="center", color=colour)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)


def same_runs(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Return a row for each run of byzfl's that was run here, too, seed by seed."""
    ours = {key_of(line)[1:]: line for line in lines if line["framework"] == OURS}
    pairs = [
        (line, ours[key_of(line)[1:]])
        for line in lines
        if line["framework"] == THEIRS and key_of(line)[1:] in ours
    ]
    return [
        {
            **{key: line[key] for key in ("rule", "attack", "gamma", "f", "seed")},
            THEIRS: best_test(line),
            OURS: best_test(own),
            "difference": best_test(own) - best_test(line),
            "speed-up": line["seconds"] / own["seconds"],
        }
        for line, own in sorted(pairs, key=lambda pair: key_of(pair[0]))
    ]


def best_test(line: Line) -> float:
    """Return the test accuracy at the step that validates best."""
    curve = line["validation"]
    return float(line["test"][curve.index(max(curve))])


def write_page(lines: Sequence[Line], maps: Mapping[str, Mapping[str, Map]]) -> None:
    """Write the tables of the page anew, and draw the picture beside them."""
    rows = [
        f"| {row['rule']} | {row['attack']} | {row['gamma']} | {row['f']} "
        f"| {row[THEIRS]:.3f} | {row[OURS]:.3f} | {row['difference']:+.3f} |"
        for row in same_runs(lines)
    ]
    head = ["| rule | attack | gamma | f | byzfl | hqde-fl | difference |", "|---" * 7 + "|"]
    tables = [table(rule, of_rule) for rule, of_rule in maps.items()]
    bodies = {"runs": "\n".join([*head, *rows]), "maps": "\n\n".join(tables)}
    write_between_marks(PAGE, bodies)
    draw(maps, ROOT / "docs" / "pictures" / "byzfl.png")


def rows_of(maps: Mapping[str, Mapping[str, Map]]) -> list[dict[str, Any]]:
    """Return a row for each cell that both have run."""
    return [
        {
            "rule": rule,
            "f": f,
            "gamma": gamma,
            THEIRS: theirs,
            OURS: of_rule[OURS][f, gamma],
            "difference": of_rule[OURS][f, gamma] - theirs,
        }
        for rule, of_rule in maps.items()
        for (f, gamma), theirs in sorted(of_rule[THEIRS].items())
        if (f, gamma) in of_rule[OURS]
    ]


def main() -> int:
    """Run what is due, print the table, write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--quick", action="store_true", help="run nothing")
    parser.add_argument("--page", action="store_true", help="write docs/byzfl.md, run nothing")
    parser.add_argument("--data", default=os.environ.get("HQDE_FL_DATA"), help="MNIST's folder")
    parser.add_argument("--model", choices=list(MODELS), default="byzfl-mlp")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds")
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time")
    parser.add_argument("--only", choices=(OURS, THEIRS), help="run one of the two")
    names = list(RULES.values())
    parser.add_argument("--rules", nargs="+", choices=names, default=names, help="these rules")
    parser.add_argument("--gammas", nargs="+", choices=GAMMAS, default=GAMMAS, help="these gammas")
    options = parser.parse_args()
    if not (options.quick or options.page):
        if options.data is None:
            parser.error("--data is needed: the folder of MNIST's four files")
        for name, start in ((OURS, run_ours), (THEIRS, run_theirs)):
            if options.only in (None, name):
                start(options)
    lines = [line for line in results() if line["model"] == options.model]
    maps = maps_of(lines)
    if options.page:
        write_page(lines, maps)
    rows = rows_of(maps)
    for row in rows:
        print(
            f"{row['rule']:<36}f = {row['f']}  gamma {row['gamma']:<5}"
            f"{row[THEIRS]:8.3f}{row[OURS]:8.3f}{row['difference']:+8.3f}"
        )
    checks = []
    runs = same_runs(lines)
    if runs:
        near = fmean(abs(row["difference"]) <= TOLERANCE for row in runs)
        checks.append(check(f"runs within {TOLERANCE} of byzfl's, of {len(runs)}", near, SHARE))
        ratio = median(row["speed-up"] for row in runs)
        checks.append(check("byzfl's seconds over ours, median of the same runs", ratio, 1))
    if rows:
        near = fmean(abs(row["difference"]) <= TOLERANCE for row in rows)
        claim = f"cells within {TOLERANCE} of byzfl's, of {len(rows)}"
        checks.append(check(claim, near, SHARE))
        worse = fmean(row["difference"] >= -TOLERANCE for row in rows)
        checks.append(check(f"cells not more than {TOLERANCE} below byzfl's", worse, SHARE))
    return conclude(rows, checks, options.json, machine())


if __name__ == "__main__":
    sys.exit(main())
