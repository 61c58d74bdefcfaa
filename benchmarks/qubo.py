"""Solvers of QUBO: how good, how fast, and what the members that they choose are worth.

* ``exact``: problems of at most 14 items against all rows of ``dimod.ExactSolver``.
* ``large``: 30 of 300 items, and larger ones, against the tabu search of ``dwave-samplers``. Our
  time is the least of three runs, in CPU seconds, which are wall seconds where a core is free.
* ``members``: members of an ensemble trained on digits (ten clients, Dirichlet(0.3), each member on
  a few clients a round), chosen by examples that are held out of the test set, against random
  members and against all.

    python benchmarks/qubo.py --json qubo.json [--quick] [--part exact ...]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from functools import partial
from itertools import combinations
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import dimod  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from scipy import stats  # noqa: E402

from benchmarks.learning.data import CLIENTS, setting  # noqa: E402
from benchmarks.learning.rules import DIRICHLET  # noqa: E402
from benchmarks.reporting import check, conclude, machine  # noqa: E402
from hqde_fl.clients.app import ensemble_app  # noqa: E402
from hqde_fl.clients.batch_iteration import iterate_batches  # noqa: E402
from hqde_fl.clients.initial_state import initial_state  # noqa: E402
from hqde_fl.protocol.members import split_members  # noqa: E402
from hqde_fl.protocol.records import from_record, to_record  # noqa: E402
from hqde_fl.seeding import Seeds  # noqa: E402
from hqde_fl.selection import Ensemble  # noqa: E402
from hqde_fl.selection.member_choice import choose_members  # noqa: E402
from hqde_fl.selection.qubo_problem import SubsetProblem  # noqa: E402
from hqde_fl.selection.subset_solver import solve_subset  # noqa: E402
from hqde_fl.simulations.engines.inline import InlineGrid  # noqa: E402
from hqde_fl.strategies.hqde import HQDEStrategy  # noqa: E402
from hqde_fl.strategies.settings import Participation  # noqa: E402

Row = dict[str, Any]

KINDS = ("clients", "directions", "glass")
"""Kinds of random problems, see ``problem_of``."""

MEMBERS, VOTERS, HELD_OUT = 10, 5, 100
REPEATS = 3
MARGIN = -0.005
"""Least allowed lower end of the interval of chosen minus random members' accuracy."""


def problem_of(kind: str, items: int, size: int, rng: np.random.Generator) -> SubsetProblem:
    """Return a random problem.

    ``clients`` has HQDE's coefficients with uniform quality, cost and diversity; in ``directions``
    the diversity is 1 - cosine of random directions in 8 dimensions; ``glass`` has normal values of
    both signs, which is the hardest.
    """
    linear = 10 * rng.random(items) - 5 * rng.random(items)
    pairs = 2 * rng.random((items, items))
    if kind == "directions":
        rows = rng.normal(size=(items, 8))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        pairs = 2 - 2 * rows @ rows.T
    if kind == "glass":
        linear, pairs = 3 * rng.normal(size=items), rng.normal(size=(items, items))
    pairs = np.triu(pairs, 1)
    return SubsetProblem(linear, pairs + pairs.T, size)


def exact_best(problem: SubsetProblem) -> float:
    """Return the best objective among the rows of the right size of ``dimod.ExactSolver``."""
    matrix = -problem.pairs / 2
    np.fill_diagonal(matrix, -problem.linear)
    rows = dimod.ExactSolver().sample(dimod.BinaryQuadraticModel(matrix, "BINARY")).record
    right = rows.sample.sum(axis=1) == problem.size
    return -float(rows.energy[right].min())


def exact(quick: bool) -> tuple[list[Row], list[Row]]:
    """Solve small problems, and compare with all their subsets."""
    rng, count = np.random.default_rng(0), 50 if quick else 200
    best, right_size, from_greedy, seconds = 0, 0, 0, 0.0
    for number in range(count):
        items = int(rng.integers(2, 15))
        size = int(rng.integers(1, items + 1))
        problem = problem_of(KINDS[number % 3], items, size, rng)
        started = time.perf_counter()
        subset = solve_subset(problem, rng)
        seconds += time.perf_counter() - started
        best += abs(subset.value - exact_best(problem)) <= 1e-9 * (1 + abs(subset.value))
        right_size += len(set(subset.chosen)) == size
        greedy = solve_subset(problem, rng, "greedy").value
        from_greedy += greedy >= subset.value - 1e-9
    row = {
        "part": "exact",
        "problems": count,
        "best": best,
        "exactly k": right_size,
        "greedy as good": from_greedy,
        "seconds each": seconds / count,
    }
    print("\n" + ", ".join(f"{key}: {value}" for key, value in row.items()))
    return [row], [
        check("n <= 14: share of problems with the best k-subset", best / count, 1.0),
        check("n <= 14: share of problems with exactly k", right_size / count, 1.0),
    ]


def large(quick: bool) -> tuple[list[Row], list[Row]]:
    """Solve large problems, and compare with tabu search."""
    rows, gaps, times, right = [], [], [], []
    print(
        f"\n{'kind':12s}{'n':>6s}{'k':>5s}{'ours':>11s}{'greedy':>11s}{'tabu':>11s}"
        f"{'CPU s':>9s}{'wall s':>9s}"
    )
    shapes = [(300, 30)] * (1 if quick else 5)
    for number, (items, size) in enumerate(
        [*shapes, *([] if quick else [(1000, 50), (2000, 100)])]
    ):
        for kind in KINDS:
            problem = problem_of(kind, items, size, np.random.default_rng(number))
            turns = []
            for _ in range(REPEATS):
                started, cpu = time.perf_counter(), time.process_time()
                subset = solve_subset(problem, np.random.default_rng(0))
                turns.append((time.process_time() - cpu, time.perf_counter() - started))
            cpu, seconds = map(min, zip(*turns, strict=True))
            greedy = solve_subset(problem, np.random.default_rng(0), "greedy").value
            limit = {"timeout": 1000 if quick else 5000}
            tabu = solve_subset(problem, np.random.default_rng(0), "tabu", limit)
            row: Row = {"part": "large", "kind": kind, "n": items, "k": size}
            row |= {"ours": subset.value, "cpu-seconds": cpu, "seconds": seconds}
            row |= {"greedy": greedy, "tabu": tabu.value}
            rows.append(row)
            right += [len(set(subset.chosen)) == size, len(set(tabu.chosen)) == size]
            if items == 300:
                gaps.append((tabu.value - subset.value) / abs(tabu.value))
                times.append(cpu)
            cells = f"{subset.value:11.3f}{greedy:11.3f}{tabu.value:11.3f}{cpu:9.2f}{seconds:9.2f}"
            print(f"{kind:12s}{items:6d}{size:5d}{cells}", flush=True)
    return rows, [
        check("n = 300, k = 30: behind tabu search at most", max(gaps), 1e-3, upper=True),
        check("n = 300, k = 30: CPU seconds", max(times), 1.0, upper=True, strict=True),
        check("large problems: share with exactly k", float(np.mean(right)), 1.0),
    ]


def trained_members(seed: int, rounds: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the probabilities (members, examples, 10) of trained members on the test set."""
    where = setting("digits", DIRICHLET, seed, rounds)
    app = ensemble_app(where.task, members=MEMBERS, training=where.training, seed=seed)
    strategy = HQDEStrategy(
        participation=Participation(
            fraction_evaluate=0.0, min_available_nodes=CLIENTS, identify=True
        ),
        ensemble=Ensemble(MEMBERS, "random", members_per_client=2),
        seed=seed,
    )
    start = to_record(initial_state(where.task, MEMBERS, Seeds(seed)))
    result = strategy.start(InlineGrid(app, CLIENTS, {}, seed), start, rounds)
    votes, labels = [], torch.zeros(0)
    for state in split_members(from_record(result.arrays), MEMBERS):
        model = where.task.model()
        model.load_state_dict(state)
        model.eval()
        batches = list(iterate_batches(where.task.test(), 500, model))
        with torch.no_grad():
            votes.append(torch.cat([model(batch.inputs).softmax(dim=1) for batch in batches]))
        labels = torch.cat([batch.targets for batch in batches])
    return torch.stack(votes), labels


def vote_accuracy(votes: torch.Tensor, labels: torch.Tensor, chosen: Iterable[int]) -> float:
    """Return the accuracy of some members' soft vote."""
    predicted = votes[list(chosen)].mean(dim=0).argmax(dim=1)
    return float((predicted == labels).double().mean())


def members(quick: bool) -> tuple[list[Row], list[Row]]:
    """Choose members by held-out examples, and compare their vote with random ones'."""
    rows, differences = [], []
    print(f"\n{'seed':>4s}{'chosen':>9s}{'random':>9s}{'all':>9s}{'best alone':>12s}")
    for seed in range(10):
        votes, labels = trained_members(seed, 10 if quick else 20)
        order = np.random.default_rng(seed).permutation(len(labels))
        held_out, test = order[:HELD_OUT], order[HELD_OUT:]

        accuracy = partial(vote_accuracy, votes[:, test], labels[test])
        rng = np.random.default_rng(seed)
        subset = choose_members(votes[:, held_out], labels[held_out], VOTERS, rng)
        drawn = [accuracy(chosen) for chosen in combinations(range(MEMBERS), VOTERS)]
        row: Row = {"part": "members", "seed": seed, "chosen": accuracy(subset.chosen)}
        row |= {"random": float(np.mean(drawn)), "all": accuracy(range(MEMBERS))}
        row["best alone"] = max(accuracy([member]) for member in range(MEMBERS))
        rows.append(row)
        differences.append(row["chosen"] - row["random"])
        cells = (
            f"{row['chosen']:9.4f}{row['random']:9.4f}{row['all']:9.4f}{row['best alone']:12.4f}"
        )
        print(f"{seed:4d}{cells}", flush=True)
    mean, error = float(np.mean(differences)), float(stats.sem(differences))
    low, high = stats.t.interval(0.95, len(differences) - 1, loc=mean, scale=error)
    print(f"chosen - random: {mean:+.4f} [{low:+.4f}, {high:+.4f}]")
    claim = f"{VOTERS} of {MEMBERS} members: chosen - random accuracy, lower end of 95 %"
    return rows, [check(claim, float(low), MARGIN, strict=True)]


PARTS = {"exact": exact, "large": large, "members": members}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write machine, rows and checks to this file")
    parser.add_argument("--quick", action="store_true", help="fewer problems and rounds")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this; may be repeated")
    options = parser.parse_args()
    about = machine()
    getLogger("flwr").setLevel(ERROR)
    print(", ".join(f"{key}: {value}" for key, value in about.items()))
    rows: list[Row] = []
    checks: list[Row] = []
    for part in options.part or PARTS:
        new_rows, new_checks = PARTS[part](options.quick)
        rows, checks = rows + new_rows, checks + new_checks
    return conclude(rows, checks, options.json, about)


if __name__ == "__main__":
    sys.exit(main())
