"""Choice of a subset by any sampler of D-Wave's ``dimod``, quantum hardware included.

A sampler knows no fixed size. Its problem, a binary quadratic model, therefore has a penalty on
every other size, large enough that the best subset of all has the right one. A sampler that returns
another size nevertheless, as heuristics and hardware do, has its subset repaired.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hqde_fl.code_origin import failure_text
from hqde_fl.errors import ConfigError, HQDEError, RunError, UnknownNameError
from hqde_fl.own_modules import import_attribute, is_own
from hqde_fl.selection.greedy_subset import resized
from hqde_fl.selection.qubo_problem import SubsetProblem

SAMPLERS: Mapping[str, str] = {
    "exact": "dimod:ExactSolver",
    "simulated-annealing": "dwave.samplers:SimulatedAnnealingSampler",
    "steepest-descent": "dwave.samplers:SteepestDescentSampler",
    "tabu": "dwave.samplers:TabuSampler",
}
"""Names of samplers that come with the extra ``quantum``."""

MAX_ROWS = 1000
"""Most of a sampler's rows that are looked at, the best first."""

MAX_EXACT = 20
"""Most items of which dimod's ``ExactSolver`` tries all subsets; 20 more take a million times the
memory."""


def check_solver(name: str, solver: Any, built_in: tuple[str, ...]) -> None:
    """Raise ``ConfigError`` unless a solver is a known name, one of the user's own or a sampler."""
    if isinstance(solver, str):
        if not is_own(solver) and solver not in (*built_in, *SAMPLERS):
            raise UnknownNameError(name, solver, (*built_in, *SAMPLERS))
    elif not callable(solver) and not _is_sampler(solver):
        raise ConfigError(f"{name} must be a name or a dimod sampler, found {solver!r:.80}")


def solver_name(solver: Any) -> str:
    """Return the name of a solver that is no string: its own, or that of its class."""
    return str(getattr(solver, "__name__", type(solver).__name__))


def find_sampler(solver: Any) -> Any:
    """Return the sampler that a name stands for; a sampler is returned as it is.

    Parameters
    ----------
    solver : str, dimod.Sampler or callable
        A name in ``SAMPLERS``, or ``module:attribute`` or ``file.py:attribute``; or what such a
        name stands for: a sampler, or a class or function that returns one without arguments.

    Raises
    ------
    ConfigError
        If there is no such sampler, or the extra ``quantum`` is not installed.
    """
    found, name = solver, repr(solver) if isinstance(solver, str) else solver_name(solver)
    if isinstance(solver, str) and solver in SAMPLERS:
        module, _, attribute = SAMPLERS[solver].partition(":")
        try:
            found = getattr(import_module(module), attribute)
        except ModuleNotFoundError as error:
            raise _extra_missing(f"solver {name}", error) from error
    elif isinstance(solver, str):
        found = import_attribute("solver", solver)
    if isinstance(found, type) or (callable(found) and not _is_sampler(found)):
        try:
            found = found()
        except Exception as error:
            raise ConfigError(f"solver {name} raised {failure_text(error)}") from error
    if not _is_sampler(found):
        raise ConfigError(f"solver {name} must be a dimod sampler, found {found!r:.80}")
    return found


def _is_sampler(value: Any) -> bool:
    return callable(getattr(value, "sample", None))


def penalty_model(problem: SubsetProblem) -> Any:
    """Return a ``dimod.BinaryQuadraticModel`` whose lowest state is the best subset.

    Its energy is minus the objective, plus a penalty times the square of the difference from the
    size. The objective of a subset of the right size does not change, except by a constant, if
    every item counts the same more or less; that is used to keep the penalty small, because
    hardware has few digits. An item more or less changes the objective by less than the penalty,
    whatever the others are, so no subset of another size has a lower energy.
    """
    try:
        import dimod
    except ModuleNotFoundError as error:
        raise _extra_missing("a sampler", error) from error
    pairs, size = problem.pairs, problem.size
    most = float((problem.linear + pairs.clip(min=0).sum(axis=1)).max())
    least = float((problem.linear + pairs.clip(max=0).sum(axis=1)).min())
    middle, penalty = (most + least) / 2, 0.51 * (most - least) + 1e-9
    quadratic = penalty - pairs / 2  # each pair stands there twice
    np.fill_diagonal(quadratic, middle - problem.linear + penalty * (1 - 2 * size))
    return dimod.BinaryQuadraticModel(quadratic, "BINARY")


def sample_subset(
    problem: SubsetProblem, solver: Any, options: Mapping[str, Any], rng: np.random.Generator
) -> tuple[list[int], bool]:
    """Return the best subset that a sampler found, and True if its size had to be repaired.

    Parameters
    ----------
    problem : SubsetProblem
        The problem.
    solver : str or dimod.Sampler
        See ``find_sampler``.
    options : Mapping[str, Any]
        Arguments for its method ``sample``. A sampler that takes a seed gets one from ``rng``.
    rng : np.random.Generator
        The source of the seed.

    Raises
    ------
    ConfigError
        If the sampler says that it knows no such option, or would try too many subsets.
    RunError
        If the sampler fails, or returns no subset.
    """
    sampler = find_sampler(solver)
    arguments = {key.replace("-", "_"): value for key, value in options.items()}
    known = getattr(sampler, "parameters", None) or ()
    for key in arguments:
        if known and key not in known:  # dimod's samplers only warn
            raise UnknownNameError(f"option of solver {type(sampler).__name__}", key, known)
    if "seed" in known:
        arguments.setdefault("seed", int(rng.integers(2**31)))
    model, name = penalty_model(problem), type(sampler).__name__
    if name == "ExactSolver" and problem.items > MAX_EXACT:
        raise ConfigError(
            f"solver {name} tries all subsets of at most {MAX_EXACT} items, found {problem.items}"
        )
    try:
        rows = _rows(sampler.sample(model, **arguments), problem.items)
    except HQDEError as error:
        raise RunError(f"solver {name} {error}") from error
    except Exception as error:
        raise RunError(f"solver {name} failed: {failure_text(error)}") from error
    if not len(rows):
        raise RunError(f"solver {name} returned no sample")
    subsets: list[list[int]] = [np.flatnonzero(row).tolist() for row in rows]
    exact = [subset for subset in subsets if len(subset) == problem.size]
    if exact:
        return max(exact, key=lambda subset: problem.value(subset)), False
    repaired = [resized(problem, subset) for subset in subsets]
    return max(repaired, key=lambda subset: problem.value(subset)), True


def _rows(samples: Any, items: int) -> NDArray[np.bool_]:
    """Return a sample set's best rows as booleans, with the items in their order."""
    if not (hasattr(samples, "change_vartype") and hasattr(samples, "truncate")):
        raise RunError(f"must return a dimod.SampleSet, found {samples!r:.80}")
    best = samples.change_vartype("BINARY", inplace=False).truncate(MAX_ROWS)
    variables = list(best.variables)
    if not len(best):
        return np.zeros((0, items), dtype=bool)
    if missing := sorted(set(range(items)).difference(variables)):
        raise RunError(
            f"must return a value for each of {items} variables, found none for {missing[0]}"
        )
    columns = [variables.index(item) for item in range(items)]
    return np.asarray(best.record.sample)[:, columns] > 0


def _extra_missing(what: str, error: ModuleNotFoundError) -> ConfigError:
    return ConfigError(f"{what} needs {error.name}: pip install 'hqde-fl[quantum]'")
