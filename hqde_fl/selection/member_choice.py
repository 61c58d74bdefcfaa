"""Choice of the members of an ensemble that vote, by their predictions on held-out examples.

Two kinds of predictions are compared, whose examples may come in batches:

* classes (``ClassVotes``): quality is a member's accuracy, diversity of two members how often they
  predict different classes; they count as in HQDE, 10 to 2;
* numbers (``NumberVotes``): the squared error of the members' mean is the mean of their squared
  errors minus their spread (Krogh and Vedelsby, 1995), which is a quadratic problem exactly. So the
  members chosen are those whose mean is nearest to the targets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.selection.qubo_problem import Floats, SubsetProblem, Weights
from hqde_fl.selection.subset_solver import ANNEALING, Subset, solve_subset

MEMBER_WEIGHTS = Weights(cost=0.0)
"""Weights of accuracy and disagreement; members cost the same."""

FAILED = 1e6
"""Error of a member without finite predictions, relative to the greatest error of the others."""


@final
class ClassVotes:
    """Accuracy of members that predict classes, and disagreement of each pair."""

    def __init__(self) -> None:
        self._examples = 0
        self._correct = self._unequal = torch.zeros(0)

    def add(self, probabilities: Tensor, labels: Tensor) -> None:
        """Add members' class probabilities (m, n, c) and the true classes (n,) of a batch.

        A member whose probabilities are not finite for an example is wrong there, and agrees with
        all others.
        """
        _check_members(probabilities, labels, 3)
        if labels.shape != probabilities.shape[1:2]:
            raise ConfigError(
                f"labels must have shape ({probabilities.shape[1]},), found {tuple(labels.shape)}"
            )
        sound = probabilities.isfinite().all(dim=2)
        classes = probabilities.nan_to_num().argmax(dim=2)
        correct = ((classes == labels) & sound).double().sum(dim=1).cpu()
        unequal = torch.stack(
            [
                ((one != classes) & ok & sound).double().sum(dim=1)
                for one, ok in zip(classes, sound, strict=True)
            ]
        ).cpu()
        if self._examples:
            correct, unequal = self._correct + correct, self._unequal + unequal
        self._correct, self._unequal = correct, unequal
        self._examples += len(labels)

    @property
    def accuracy(self) -> Floats:
        """The accuracy of each member."""
        return np.asarray(self._correct / max(1, self._examples), dtype=np.float64)

    @property
    def disagreement(self) -> Floats:
        """The fraction of examples on which two members predict different classes, (m, m)."""
        return np.asarray(self._unequal / max(1, self._examples), dtype=np.float64)

    def problem(self, size: int, weights: Weights = MEMBER_WEIGHTS) -> SubsetProblem:
        """Return the choice of ``size`` members as a problem."""
        accuracy = self.accuracy
        return SubsetProblem.of(accuracy, 0 * accuracy, self.disagreement, size, weights)


@final
class NumberVotes:
    """Squared errors of members that predict numbers, and squared differences of each pair."""

    def __init__(self) -> None:
        self._numbers = 0
        self._errors = self._differences = torch.zeros(0)

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """Add members' outputs (m, n, ...) and the targets (n, ...) of a batch.

        A member whose outputs are not finite has failed: it is chosen only if there is no other.
        """
        _check_members(outputs, targets, 2)
        if targets.shape != outputs.shape[1:]:
            raise ConfigError(
                f"targets must have shape {tuple(outputs.shape[1:])}, found {tuple(targets.shape)}"
            )
        rows = outputs.flatten(1).double()
        errors = (rows - targets.flatten().double()).square().sum(dim=1).cpu()
        differences = torch.stack([(rows - row).square().sum(dim=1) for row in rows]).cpu()
        if self._numbers:
            errors, differences = self._errors + errors, self._differences + differences
        self._errors, self._differences = errors, differences
        self._numbers += targets.numel()

    def problem(self, size: int) -> SubsetProblem:
        """Return the choice of ``size`` members as a problem.

        The objective is minus the mean squared error of the mean of the members chosen.
        """
        errors = bounded_errors(np.asarray(self._errors / max(1, self._numbers), dtype=np.float64))
        pairs = np.asarray(self._differences / max(1, self._numbers), dtype=np.float64)
        pairs = np.where(np.isfinite(pairs), pairs, 0.0)
        k = max(1, size)
        return SubsetProblem(-errors / k, (pairs + pairs.T) / 2 / k**2, size)


def choose_members(
    outputs: Tensor,
    targets: Tensor,
    k: int,
    rng: np.random.Generator,
    *,
    classes: bool = True,
    solver: Any = ANNEALING,
    options: Mapping[str, Any] | None = None,
) -> Subset:
    """Return the k members of an ensemble that should vote.

    Parameters
    ----------
    outputs : Tensor
        The members' class probabilities (m, n, c) on held-out examples, or with ``classes=False``
        their outputs (m, n, ...).
    targets : Tensor
        The true classes (n,), or the targets (n, ...).
    k : int
        The number of members to choose, in [1, m].
    rng : np.random.Generator
        The source of random numbers.
    classes : bool, default=True
        The members predict classes, not numbers.
    solver, options
        As in ``solve_subset``.

    Returns
    -------
    Subset
        Exactly k members as ``chosen``, and what found them.
    """
    if not 1 <= k <= len(outputs):
        raise ConfigError(f"k must be in [1, {len(outputs)}], the number of members, found {k}")
    votes = ClassVotes() if classes else NumberVotes()
    votes.add(outputs, targets)
    return solve_subset(votes.problem(k), rng, solver, options)


def bounded_errors(errors: Floats) -> Floats:
    """Return errors with those that are not finite replaced by one far beyond the others."""
    finite = errors[np.isfinite(errors)]
    worst = FAILED * max(1.0, float(np.abs(finite).max(initial=0.0)))
    return np.where(np.isfinite(errors), errors, worst)


def _check_members(outputs: Tensor, targets: Tensor, dimensions: int) -> None:
    exact = dimensions == 3
    if outputs.ndim != 3 if exact else outputs.ndim < dimensions:
        form = "(members, examples, classes)" if exact else "(members, examples, ...)"
        raise ConfigError(f"outputs must be {form}, found shape {tuple(outputs.shape)}")
    if not targets.numel():
        raise ConfigError("members are judged by at least 1 example, found 0")
