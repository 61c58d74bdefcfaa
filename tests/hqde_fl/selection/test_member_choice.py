"""Choice of the members of an ensemble that vote."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from hqde_fl.errors import ConfigError
from hqde_fl.prediction.differences import disagreement
from hqde_fl.selection.member_choice import ClassVotes, NumberVotes, choose_members


def predictions(members=7, examples=60, classes=4, seed=0):
    """Return probabilities of members of increasing accuracy, and the labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (examples,), generator=generator)
    scores = torch.randn(members, examples, classes, generator=generator)
    certainty = torch.linspace(0, 3, members)[:, None]
    scores[:, torch.arange(examples), labels] += certainty
    return scores.softmax(dim=2), labels


def choose(outputs, targets, k, seed=0, **options):
    return choose_members(outputs, targets, k, np.random.default_rng(seed), **options)


def test_classes_count_by_accuracy_and_disagreement():
    probabilities, labels = predictions()
    votes = ClassVotes()
    for part in (slice(0, 10), slice(10, 60)):
        votes.add(probabilities[:, part], labels[part])
    expected = (probabilities.argmax(dim=2) == labels).float().mean(dim=1)
    assert votes.accuracy == pytest.approx(expected.numpy())
    pair = disagreement(probabilities[[1, 4]])
    assert votes.disagreement[1, 4] == votes.disagreement[4, 1] == pytest.approx(pair)
    assert not votes.disagreement.diagonal().any()


@pytest.mark.parametrize("solver", ["annealing", "greedy", "tabu"])
def test_exactly_k_members_and_the_best_by_the_objective(solver):
    probabilities, labels = predictions()
    for k in range(1, 8):
        votes = ClassVotes()
        votes.add(probabilities, labels)
        subset = choose(probabilities, labels, k, solver=solver)
        assert len(set(subset.chosen)) == k
        problem = votes.problem(k)
        best = max(problem.value(chosen) for chosen in combinations(range(7), k))
        assert solver == "greedy" or subset.value == pytest.approx(best)
    assert choose(probabilities, labels, 2).chosen == (5, 6)


def test_members_of_equal_quality_are_chosen_for_their_differences():
    labels = torch.zeros(6, dtype=torch.long)
    wrong = {0: [0, 1], 1: [0, 1], 2: [2, 3], 3: [0, 1]}
    probabilities = torch.tensor([0.9, 0.1]).repeat(4, 6, 1)
    for member, examples in wrong.items():
        probabilities[member, examples] = torch.tensor([0.1, 0.9])
    assert all(2 in choose(probabilities, labels, 2, seed).chosen for seed in range(5))


def test_numbers_are_chosen_so_that_the_error_of_their_mean_is_least():
    generator = torch.Generator().manual_seed(3)
    targets = torch.randn(40, 2, generator=generator)
    noise = torch.randn(8, 40, 2, generator=generator) + torch.randn(8, 1, 1, generator=generator)
    outputs = targets + noise
    for k in (1, 3, 5):
        errors = {
            chosen: float((outputs[list(chosen)].mean(dim=0) - targets).square().mean())
            for chosen in combinations(range(8), k)
        }
        subset = choose(outputs, targets, k, classes=False)
        assert subset.chosen == min(errors, key=errors.get)
        assert -subset.value == pytest.approx(errors[subset.chosen], rel=1e-5)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_members_that_failed_do_not_vote(broken):
    probabilities, labels = predictions()
    probabilities[6] = broken
    assert 6 not in choose(probabilities, labels, 3).chosen
    outputs = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    outputs[1] = broken
    assert 1 not in choose(outputs, torch.zeros(10), 3, classes=False).chosen
    assert len(choose(outputs, torch.zeros(10), 4, classes=False).chosen) == 4


def test_batches_of_numbers_add_up():
    outputs = torch.randn(3, 9, 2, generator=torch.Generator().manual_seed(0))
    whole, parts = NumberVotes(), NumberVotes()
    whole.add(outputs, torch.zeros(9, 2))
    for part in (slice(0, 4), slice(4, 9)):
        parts.add(outputs[:, part], torch.zeros(9, 2)[part])
    assert parts.problem(2).linear == pytest.approx(whole.problem(2).linear)
    assert parts.problem(2).pairs == pytest.approx(whole.problem(2).pairs)


@pytest.mark.parametrize(
    ("outputs", "targets", "k", "classes", "message"),
    [
        ((3, 5, 2), (5,), 0, True, r"k must be in \[1, 3\], the number of members, found 0"),
        ((3, 5, 2), (5,), 4, True, "found 4"),
        ((3, 5), (5,), 2, True, r"outputs must be \(members, examples, classes\), found"),
        ((3, 5, 2), (4,), 2, True, r"labels must have shape \(5,\), found \(4,\)"),
        ((3, 5, 2), (5,), 2, False, r"targets must have shape \(5, 2\), found \(5,\)"),
        ((3, 0, 2), (0,), 2, True, "at least 1 example, found 0"),
    ],
)
def test_what_cannot_be_compared_is_refused(outputs, targets, k, classes, message):
    with pytest.raises(ConfigError, match=message):
        choose(torch.ones(outputs), torch.zeros(targets), k, classes=classes)
