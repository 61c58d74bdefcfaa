"""Solvers of the choice of k of n items, against enumeration and D-Wave's samplers."""

from __future__ import annotations

import sys
from itertools import combinations

import dimod
import numpy as np
import pytest

from hqde_fl.errors import ConfigError, RunError, UnknownNameError
from hqde_fl.selection.dimod_sampler import penalty_model
from hqde_fl.selection.greedy_subset import greedy_subset, resized
from hqde_fl.selection.qubo_problem import HQDE, SubsetProblem, Weights
from hqde_fl.selection.subset_solver import solve_subset
from hqde_fl.selection.swap_annealing import SwapAnnealing

KINDS = ("clients", "glass", "directions", "equal", "outlier")
SOLVERS = ("annealing", "greedy", "tabu", "simulated-annealing", "steepest-descent", "exact")


def problem_of(kind, items, size, seed):
    rng = np.random.default_rng(seed)
    linear = 10 * rng.random(items) - 5 * rng.random(items)
    pairs = 2 * rng.random((items, items))
    if kind == "glass":  # of both signs, which is hard
        linear, pairs = 3 * rng.normal(size=items), rng.normal(size=(items, items))
    if kind == "directions":
        rows = rng.normal(size=(items, 4))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        pairs = 2 - 2 * rows @ rows.T
    if kind == "equal":
        linear, pairs = np.ones(items), np.ones((items, items))
    if kind == "outlier":
        linear[0] = 1e6
    pairs = np.triu(pairs, 1)
    return SubsetProblem(linear, pairs + pairs.T, size)


def best_value(problem):
    subsets = combinations(range(problem.items), problem.size)
    return max(problem.value(subset) for subset in subsets)


def solved(problem, solver="annealing", seed=0, **options):
    return solve_subset(problem, np.random.default_rng(seed), solver, options)


def test_hqdes_objective_with_its_signs_put_right():
    quality, cost = np.array([0.9, 0.5, 0.7]), np.array([1.0, 0.2, 0.5])
    diversity = np.array([[0, 0.3, 0.6], [0.3, 0, 0.1], [0.6, 0.1, 0]])
    problem = SubsetProblem.of(quality, cost, diversity, 2, HQDE)
    assert problem.value([0, 2]) == pytest.approx(10 * 1.6 - 5 * 1.5 + 2 * 0.6)
    assert problem.value([0, 1, 2]) == pytest.approx(10 * 2.1 - 5 * 1.7 + 2 * 1.0)
    assert solved(problem).chosen == (0, 2)  # 9.7, above 9.6 and 8.7
    of_two = SubsetProblem.of(quality, cost, diversity, 2)
    assert of_two.value([0, 2]) == pytest.approx(10 * 1.6 - 5 * 1.5 + 2 * 2 * 0.6)


def test_weights_of_the_mean_mean_the_same_for_every_size():
    diversity = 0.4 * (1 - np.eye(6))
    for size in (2, 3, 5):
        problem = SubsetProblem.of(np.zeros(6), np.zeros(6), diversity, size, Weights(1, 1, 1))
        assert problem.value(range(size)) / size == pytest.approx(0.4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_subset_of_small_problems(kind):
    for seed in range(1, 14, 2):
        items = 1 + seed
        for size in {0, 1, items // 2, items - 1, items}:
            problem = problem_of(kind, items, size, seed)
            subset = solved(problem, seed=seed)
            assert len(set(subset.chosen)) == size
            assert subset.chosen == tuple(sorted(subset.chosen))
            assert subset.value == pytest.approx(best_value(problem), abs=1e-9)
            assert subset.value == pytest.approx(problem.value(subset.chosen))


@pytest.mark.parametrize("kind", KINDS)
def test_no_state_of_the_penalty_model_is_below_the_best_subset(kind):
    for seed, (items, size) in enumerate([(8, 3), (9, 8), (7, 1), (6, 6)]):
        problem = problem_of(kind, items, size, seed)
        rows = dimod.ExactSolver().sample(penalty_model(problem)).record
        lowest = rows.sample[rows.energy.argmin()]
        assert lowest.sum() == size
        assert problem.value(np.flatnonzero(lowest)) == pytest.approx(best_value(problem))
        energies = {
            tuple(row): energy for row, energy in zip(rows.sample, rows.energy, strict=True)
        }
        right = [row for row in energies if sum(row) == size]
        offsets = [energies[row] + problem.value(np.flatnonzero(row)) for row in right]
        assert np.allclose(offsets, offsets[0])  # the energy is minus the objective


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_returns_exactly_k_and_is_never_worse_than_greedy(solver):
    for seed, (items, size) in enumerate([(9, 4), (12, 1), (6, 5)]):
        problem = problem_of("glass", items, size, seed)
        subset = solved(problem, solver)
        assert len(set(subset.chosen)) == size
        assert subset.value >= problem.value(greedy_subset(problem)) - 1e-9
        assert subset.solver in (solver, "greedy")
        assert subset == solved(problem, solver)


def test_a_large_problem_as_well_as_tabu_search():
    problem = problem_of("glass", 300, 30, seed=1)
    tabu = solved(problem, "tabu", timeout=100)
    subset = solved(problem)
    assert subset.value >= tabu.value - 1e-3 * abs(tabu.value)
    assert subset.solver == "annealing"


def test_large_problems_get_fewer_sweeps_but_a_subset_all_the_same():
    problem = problem_of("clients", 200, 150, seed=2)
    chosen = SwapAnnealing(chains=2, budget=1).solve(problem, np.random.default_rng(0))
    assert len(set(chosen)) == 150
    assert problem.value(chosen) > problem.value(range(150))


class Sloppy:
    """A sampler without a seed that ignores the size, as hardware may."""

    def __init__(self, ones=None):
        self.ones = ones

    def sample(self, model, **options):
        rows = np.zeros((2, model.num_variables), dtype=np.int8)
        rows[:, : self.ones] = 1
        return dimod.SampleSet.from_samples_bqm((rows, list(model.variables)[::-1]), model)


@pytest.mark.parametrize("ones", [0, 2, 7])
def test_another_size_is_repaired_and_said(ones):
    problem = SubsetProblem(np.arange(7.0), np.zeros((7, 7)), 4)
    subset = solved(problem, Sloppy(ones))
    assert subset.chosen == (3, 4, 5, 6)
    assert subset.repaired == (subset.solver == "Sloppy")
    assert len(resized(problem, range(ones))) == 4
    assert set(resized(problem, range(ones))) >= set(range(ones) if ones < 4 else ())


def test_greedy_wins_where_a_sampler_is_worse():
    problem = SubsetProblem(np.arange(8.0), np.zeros((8, 8)), 4)
    subset = solved(problem, Sloppy(4))
    assert (subset.solver, subset.chosen, subset.repaired) == ("greedy", (4, 5, 6, 7), False)


def test_equal_items_are_chosen_at_random():
    problem = problem_of("equal", 6, 2, 0)
    for solver in ("annealing", "greedy"):
        counts = np.zeros(6)
        for seed in range(40):
            counts[list(solved(problem, solver, seed).chosen)] += 1
        assert counts.min() >= 4  # 13 expected


def test_samplers_by_name_object_and_file(tmp_path):
    problem = problem_of("clients", 8, 3, 0)
    (tmp_path / "samplers.py").write_text(
        "import dimod\n\n\ndef hardware():\n    return dimod.ExactSolver()\n\n\n"
        "exact = dimod.ExactSolver()\nno_sampler = 3\n\n\ndef broken():\n    return 1 / 0\n"
    )
    best = best_value(problem)
    for name in ("hardware", "exact"):
        assert solved(problem, f"{tmp_path}/samplers.py:{name}").value == pytest.approx(best)
    assert solved(problem, "dimod:ExactSolver").value == pytest.approx(best)
    assert solved(problem, dimod.ExactSolver()).solver == "ExactSolver"
    for name, message in [("no_sampler", "must be a dimod sampler"), ("broken", "division")]:
        with pytest.raises(ConfigError, match=message):
            solved(problem, f"{tmp_path}/samplers.py:{name}")


def test_a_sampler_that_fails_is_named():
    class Broken(Sloppy):
        def sample(self, model, **options):
            raise OSError("no connection")

    with pytest.raises(RunError, match=r"solver Broken failed: .*no connection"):
        solved(problem_of("clients", 8, 3, 0), Broken())
    with pytest.raises(UnknownNameError, match="solver TabuSampler 'reads': did you mean 'num_re"):
        solved(problem_of("clients", 8, 3, 0), "tabu", reads=3)


def test_without_the_extra_the_error_names_it(monkeypatch):
    problem = problem_of("clients", 8, 3, 0)
    monkeypatch.setitem(sys.modules, "dwave.samplers", None)
    with pytest.raises(ConfigError, match=r"solver 'tabu' needs .*'hqde-fl\[quantum\]'"):
        solved(problem, "tabu")
    monkeypatch.setitem(sys.modules, "dimod", None)
    with pytest.raises(ConfigError, match=r"needs dimod: pip install 'hqde-fl\[quantum\]'"):
        penalty_model(problem)
    assert len(solved(problem).chosen) == 3


def test_items_that_are_settled_change_what_the_others_add():
    problem = problem_of("glass", 9, 4, 3)
    rest = problem.after([2, 5], [0, 1, 3, 4, 6, 7, 8])
    assert rest.size == 2
    whole = problem.value([2, 5, 3, 8])
    assert rest.value([2, 6]) == pytest.approx(whole - problem.value([2, 5]))


def test_given_arrays_are_left_alone():
    linear, pairs = np.ones(3), np.ones((3, 3))
    SubsetProblem(linear, pairs, 2)
    assert pairs.trace() == 3


@pytest.mark.parametrize(
    ("linear", "pairs", "size", "message"),
    [
        (np.ones(3), np.ones((3, 2)), 1, "n x n pair values, found shapes"),
        (np.ones(3), np.full((3, 3), np.nan), 1, "finite values"),
        (np.ones(2), np.array([[0, 1], [2, 0]]), 1, "symmetric"),
        (np.ones(2), np.ones((2, 2)), 3, r"size must be in \[0, 2\], .* found 3"),
    ],
)
def test_impossible_problems_are_refused(linear, pairs, size, message):
    with pytest.raises(ConfigError, match=message):
        SubsetProblem(linear, pairs, size)


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="cost must be a finite weight >= 0, found -1"):
        Weights(cost=-1)
    with pytest.raises(ConfigError, match="pairs must be 'mean' or 'sum'"):
        Weights(pairs="all")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"SwapAnnealing\.chains must be >= 1, found 0"):
        SwapAnnealing(chains=0)
    with pytest.raises(UnknownNameError, match="did you mean 'tabu'"):
        solved(problem_of("clients", 8, 3, 0), "tabuu")


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "solver Odd must return a dimod.SampleSet, found None"),
        (dimod.SampleSet.from_samples([], "BINARY", []), "solver Odd returned no sample"),
        (
            dimod.SampleSet.from_samples([{0: 1, 1: 1}], "BINARY", [0.0]),
            "solver Odd must return a value for each of 8 variables, found none for 2",
        ),
    ],
)
def test_a_sampler_that_returns_no_subset_is_named(returned, message):
    class Odd(Sloppy):
        def sample(self, model, **options):
            return returned

    with pytest.raises(RunError, match=f"^{message}$"):
        solved(problem_of("clients", 8, 3, 0), Odd())


@pytest.mark.parametrize("solver", ["exact", dimod.ExactSolver()], ids=["name", "object"])
def test_the_exact_solver_has_a_largest_problem(solver):
    assert len(solved(problem_of("clients", 12, 3, 0), solver).chosen) == 3
    with pytest.raises(ConfigError, match=r"all subsets of at most 20 items, found 21$"):
        solved(problem_of("clients", 21, 3, 0), solver)
