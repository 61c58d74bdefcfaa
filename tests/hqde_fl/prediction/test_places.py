"""Predictions for examples with many places, such as words or pixels, and scores in batches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hqde_fl.prediction import (
    VOTES,
    ClassifierScores,
    EnsemblePredictor,
    EnsembleScores,
    MemberDifferences,
    calibration_error,
    disagreement,
    diversity,
    negative_log_likelihood,
)


def draw(*shape: int) -> Tensor:
    """Return members' probabilities with the classes on the last axis."""
    generator = torch.Generator().manual_seed(0)
    return (2 * torch.randn(*shape, dtype=torch.float64, generator=generator)).softmax(dim=-1)


@pytest.mark.parametrize("name", VOTES)
@pytest.mark.parametrize("axis", [2, 3, -2, -1])
def test_every_place_is_predicted_as_an_example_of_its_own(name: str, axis: int) -> None:
    probabilities = draw(3, 4, 5, 2, 6)  # members, examples, two axes of places, classes
    moved = probabilities.movedim(-1, axis)
    found = EnsemblePredictor(name).predict(moved, axis)
    assert found.probability.shape == moved.shape[1:]
    assert found.label.shape == found.entropy.shape == (4, 5, 2)
    classes_last = found.probability.movedim(axis if axis < 0 else axis - 1, -1)
    for i in range(4):
        for j in range(5):
            for k in range(2):
                alone = EnsemblePredictor(name).predict(probabilities[:, i, j, k][:, None])
                torch.testing.assert_close(classes_last[i, j, k], alone.probability[0])
                torch.testing.assert_close(found.entropy[i, j, k], alone.entropy[0])
                torch.testing.assert_close(
                    found.mutual_information[i, j, k], alone.mutual_information[0]
                )
                assert found.label[i, j, k] == alone.label[0]
    flat = probabilities.flatten(1, -2)
    assert found.diversity == pytest.approx(diversity(flat))
    assert found.disagreement == disagreement(flat)


def test_outputs_are_softmaxed_along_the_class_axis() -> None:
    outputs = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    found = EnsemblePredictor().predict_outputs(outputs, 2)
    torch.testing.assert_close(found.probability, outputs.softmax(dim=2).mean(dim=0))


@pytest.mark.parametrize("axis", [0, 1, 4, -5, -3])
def test_the_class_axis_comes_after_members_and_examples(axis: int) -> None:
    with pytest.raises(ValueError, match=f"class_axis after members and examples, found {axis}"):
        EnsemblePredictor().predict(draw(2, 3, 4, 5), axis)


def test_scores_in_batches_are_those_of_all() -> None:
    votes = draw(4, 30, 3)
    labels = torch.randint(3, (30,), generator=torch.Generator().manual_seed(1))
    probability = votes.mean(dim=0)
    ensemble, single, differences = EnsembleScores(4), ClassifierScores(), MemberDifferences()
    for start, end in ((0, 7), (7, 8), (8, 30)):
        part = slice(start, end)
        ensemble.add(votes[:, part], probability[part], labels[part])
        single.add(probability[part], labels[part])
        differences.add(votes[:, part])
    values = ensemble.values
    expected = {
        "accuracy": float((probability.argmax(dim=1) == labels).double().mean()),
        "nll": negative_log_likelihood(probability, labels),
        "ece": calibration_error(probability, labels),
    }
    assert single.values == expected
    assert {name: values[name] for name in expected} == expected
    members = [negative_log_likelihood(member, labels) for member in votes]
    assert values["member-nll"] == pytest.approx(sum(members) / 4)
    assert values["diversity"] == differences.diversity == pytest.approx(diversity(votes))
    assert values["disagreement"] == differences.disagreement == disagreement(votes)


def test_diversity_of_nearly_even_predictions_keeps_its_digits() -> None:
    """Members of an untrained network differ from 1 / c in the seventh digit only."""
    noise = draw(3, 50, 4) - 0.25
    probabilities = 0.25 + 1e-7 * noise
    expected = torch.corrcoef(noise.flatten(1)).abs()
    one, other = torch.triu_indices(3, 3, offset=1)
    assert diversity(probabilities) == pytest.approx(
        float((1 - expected[one, other]).mean()), rel=1e-6
    )
