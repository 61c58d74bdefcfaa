"""Votes over members' predictions: their formulas as plain loops, and their properties."""

import math
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor

from hqde_fl.errors import ConfigError, UnknownNameError
from hqde_fl.prediction import (
    VOTES,
    AdaptiveVote,
    CircularVote,
    EnsemblePredictor,
    EntanglementVote,
    SoftVote,
    SuperpositionVote,
    Vote,
    disagreement,
    diversity,
)
from hqde_fl.seeding import Seeds

SOUND: dict[str, Vote] = {
    "soft-vote": SoftVote(),
    "superposition": SuperpositionVote(),
    "superposition by certainty": SuperpositionVote(confidence="certainty"),
    "raw superposition, renormalised": SuperpositionVote(amplitudes="raw", renormalised=True),
    "entanglement": EntanglementVote(),
    "voting": CircularVote(),
    "adaptive": AdaptiveVote(),
}


def draw(members: int = 5, examples: int = 20, classes: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    outputs = 2 * torch.randn(
        members, examples, classes, dtype=torch.float64, generator=generator
    ) + 2 * torch.randn(examples, classes, dtype=torch.float64, generator=generator)
    return outputs.softmax(dim=2)


def shannon(p: list[float]) -> float:
    return -sum(x * math.log(x) for x in p if x > 0)


@pytest.mark.parametrize("name", SOUND)
class TestEveryVote:
    def test_equal_members_come_back_unchanged(self, name: str) -> None:
        for members in (1, 2, 5, 30):
            one = draw(1, classes=3)
            found = SOUND[name].combine(one.expand(members, -1, -1))
            torch.testing.assert_close(found, one[0], rtol=1e-9, atol=1e-12)
        certain = torch.eye(3)[None].expand(4, -1, -1)
        torch.testing.assert_close(SOUND[name].combine(certain), torch.eye(3))

    def test_a_distribution_for_every_example(self, name: str) -> None:
        for classes in (1, 2, 10):
            found = SOUND[name].combine(draw(classes=classes))
            assert bool((found >= 0).all())
            torch.testing.assert_close(found.sum(dim=1), torch.ones(20, dtype=torch.float64))

    def test_the_order_of_the_members_does_not_matter(self, name: str) -> None:
        probabilities = draw()
        turned = SOUND[name].combine(probabilities[[4, 2, 0, 1, 3]])
        torch.testing.assert_close(turned, SOUND[name].combine(probabilities))

    def test_an_example_does_not_depend_on_the_batch(self, name: str) -> None:
        probabilities = draw()
        alone = SOUND[name].combine(probabilities[:, 7:8])
        torch.testing.assert_close(alone, SOUND[name].combine(probabilities)[7:8])

    def test_inputs_are_not_changed(self, name: str) -> None:
        probabilities = draw()
        copy = probabilities.clone()
        SOUND[name].combine(probabilities)
        assert torch.equal(probabilities, copy)

    def test_certain_members_that_contradict_each_other(self, name: str) -> None:
        split = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
        torch.testing.assert_close(SOUND[name].combine(split), torch.tensor([[0.5, 0.5]]))
        outvoted = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]], [[0.0, 1.0]]])
        assert int(SOUND[name].combine(outvoted).argmax()) == 0

    def test_the_predictor_takes_it(self, name: str) -> None:
        predictor = EnsemblePredictor(SOUND[name])
        assert pickle.loads(pickle.dumps(predictor)) == predictor
        for dtype in (torch.float16, torch.float32, torch.float64):
            found = predictor.predict(draw().to(dtype))
            assert found.label.shape == found.entropy.shape == found.mutual_information.shape
            assert found.probability.shape == (20, 4)
            assert bool(((found.entropy >= 0) & (found.entropy <= 1)).all())
            assert bool((found.mutual_information >= 0).all())


class TestSuperposition:
    def test_raw_amplitudes_are_the_original(self) -> None:
        probabilities = draw(4)
        scores = (0.9, 0.3, 0.6, 0.6)
        amplitudes = [math.sqrt(math.exp(s) / sum(math.exp(t) for t in scores)) for s in scores]
        expected = torch.zeros(20, 4, dtype=torch.float64)
        for amplitude, prediction in zip(amplitudes, probabilities, strict=True):
            expected += amplitude * prediction
        vote = SuperpositionVote(1.0, scores=scores, amplitudes="raw")
        torch.testing.assert_close(vote.combine(probabilities), expected)
        noise = Seeds(3).torch("superposition", 20, 4)
        noisy = SuperpositionVote(1.0, scores=scores, amplitudes="raw", noise_scale=0.1, seed=3)
        drawn = torch.randn(20, 4, generator=noise)
        torch.testing.assert_close(noisy.combine(probabilities), expected + 0.1 * drawn.double())

    def test_raw_amplitudes_blow_up_with_the_number_of_members(self) -> None:
        one = draw(1)
        vote = SuperpositionVote(1.0, scores=(1.0,) * 100, amplitudes="raw")
        torch.testing.assert_close(vote.combine(one.expand(100, -1, -1)), 10 * one[0])

    def test_born_weights_are_the_formula(self) -> None:
        probabilities = draw(4, examples=3)
        found = SuperpositionVote(0.5).combine(probabilities)
        sure = SuperpositionVote(0.5, confidence="certainty").combine(probabilities)
        for example in range(3):
            p = probabilities[:, example].tolist()
            agreed = [
                sum(
                    sum(math.sqrt(a * b) for a, b in zip(p[i], p[j], strict=True))
                    for j in range(4)
                    if j != i
                )
                / 3
                for i in range(4)
            ]
            certain = [1 - shannon(p[i]) / math.log(4) for i in range(4)]
            for confidence, result in ((agreed, found), (certain, sure)):
                raw = np.exp(np.array(confidence) / 0.5)
                np.testing.assert_allclose(result[example], (raw / raw.sum()) @ np.array(p))

    def test_a_noisy_sum_renormalised_is_a_distribution(self) -> None:
        vote = SuperpositionVote(amplitudes="raw", renormalised=True, noise_scale=1.0)
        found = vote.combine(draw())
        assert float(found.min()) >= 0
        torch.testing.assert_close(found.sum(dim=1), torch.ones(20, dtype=torch.float64))

    def test_a_tiny_temperature_leaves_the_most_confident(self) -> None:
        probabilities = draw(3).float()
        found = SuperpositionVote(1e-40, scores=(0.1, 0.3, 0.2)).combine(probabilities)
        torch.testing.assert_close(found, probabilities[1])

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"noise_scale": 0.1}, "need amplitudes = 'raw'"),
            ({"renormalised": True}, "need amplitudes = 'raw'"),
            ({"amplitudes": "raw", "noise_scale": math.inf}, "finite noise_scale >= 0, found inf"),
            ({"scores": (1.0, math.nan)}, "finite scores"),
        ],
        ids=["noise", "renormalised", "infinite", "nan"],
    )
    def test_options_without_effect_or_out_of_range_are_refused(
        self, options: dict[str, object], message: str
    ) -> None:
        with pytest.raises(ConfigError, match=message):
            SuperpositionVote(**options)

    def test_scores_of_another_ensemble(self) -> None:
        with pytest.raises(ConfigError, match="one score for each of 5 members, found 2"):
            SuperpositionVote(scores=(1.0, 2.0)).combine(draw())


class TestEntanglement:
    def test_random_coupling_is_the_original(self) -> None:
        probabilities = draw(4)
        drawn = Seeds(2).numpy("entanglement", 4).standard_normal((4, 4))
        states = probabilities.flatten(1).numpy()
        diagonal = []
        for i in range(4):
            total = 0.0
            for j in range(4):
                norms = np.linalg.norm(states[i]) * np.linalg.norm(states[j])
                coupling = (drawn[i, j] + drawn[j, i]) / 2 * 0.1 if i != j else 1.0
                total += float(states[i] @ states[j]) / norms * coupling
            diagonal.append(total)
        weights = np.exp(diagonal) / np.exp(diagonal).sum()
        expected = sum(w * p for w, p in zip(weights, probabilities.numpy(), strict=True))
        found = EntanglementVote(coupling="random", seed=2).combine(probabilities)
        np.testing.assert_allclose(found, expected, rtol=1e-9)

    def test_weights_are_the_mean_overlaps(self) -> None:
        probabilities = draw(4, examples=3)
        found = EntanglementVote().combine(probabilities)
        for example in range(3):
            p = probabilities[:, example].numpy()
            claims = np.array(
                [sum(np.sqrt(p[i] * p[j]).sum() for j in range(4) if j != i) for i in range(4)]
            )
            np.testing.assert_allclose(found[example], claims / claims.sum() @ p, rtol=1e-9)

    def test_a_member_without_overlap_has_no_weight(self) -> None:
        probabilities = torch.tensor([[[0.6, 0.4, 0.0]], [[0.8, 0.2, 0.0]], [[0.0, 0.0, 1.0]]])
        assert float(EntanglementVote().combine(probabilities)[0, 2]) == 0


class TestCircularVote:
    def test_is_its_formula(self) -> None:
        probabilities = draw(3, examples=4)
        for weights in ((), (1.0, 2.0, 0.5)):
            found = CircularVote(weights).combine(probabilities)
            for example in range(4):
                angles = []
                for k in range(4):
                    p = probabilities[:, example, k].tolist()
                    total = sum(
                        w * np.exp(1j * math.pi * x)
                        for w, x in zip(weights or (1, 1, 1), p, strict=True)
                    )
                    angles.append(float(np.angle(total)) / math.pi)
                np.testing.assert_allclose(found[example], np.array(angles) / sum(angles))

    def test_near_predictions_are_averaged_and_sure_ones_outvoted(self) -> None:
        near = torch.tensor([[[0.50, 0.50]], [[0.54, 0.46]], [[0.52, 0.48]]])
        torch.testing.assert_close(
            CircularVote().combine(near), near.mean(dim=0), rtol=0, atol=1e-4
        )
        sure = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]], [[0.0, 1.0]]])
        torch.testing.assert_close(CircularVote().combine(sure), torch.tensor([[1.0, 0.0]]))

    def test_two_classes_sum_to_one_before_they_are_scaled(self) -> None:
        probabilities = draw(5, classes=2)
        phases = torch.exp(1j * math.pi * probabilities).sum(dim=0).angle() / math.pi
        torch.testing.assert_close(CircularVote().combine(probabilities), phases)

    def test_impossible_weights(self) -> None:
        for weights in ((0.0, 0.0), (1.0, -1.0), (math.nan, 1.0)):
            with pytest.raises(ConfigError, match="weights >= 0 that are not all 0"):
                CircularVote(weights)
        with pytest.raises(ConfigError, match="one weight for each of 5 members, found 1"):
            CircularVote((1.0,)).combine(draw())


def test_adaptive_chooses_for_every_example() -> None:
    probabilities = draw(examples=200, classes=3)
    found = AdaptiveVote().combine(probabilities)
    mean = probabilities.mean(dim=0)
    seen = set()
    for example in range(200):
        uncertainty = shannon(mean[example].tolist()) / math.log(3)
        name = "high" if uncertainty > 0.5 else "medium" if uncertainty > 0.2 else "low"
        vote = {"high": EntanglementVote(), "medium": SuperpositionVote(), "low": CircularVote()}
        expected = vote[name].combine(probabilities[:, example : example + 1])[0]
        torch.testing.assert_close(found[example], expected)
        seen.add(name)
    assert seen == {"high", "medium", "low"}


class TestPredictor:
    def test_uncertainty_is_its_formula(self) -> None:
        probabilities = draw(3, examples=5)
        found = EnsemblePredictor().predict(probabilities)
        for example in range(5):
            p = probabilities[:, example].tolist()
            mean = [sum(row[k] for row in p) / 3 for k in range(4)]
            total = shannon(mean) / math.log(4)
            within = sum(shannon(row) for row in p) / 3 / math.log(4)
            assert float(found.entropy[example]) == pytest.approx(total)
            assert float(found.mutual_information[example]) == pytest.approx(total - within)
            assert int(found.label[example]) == mean.index(max(mean))

    def test_diversity_is_the_original_metric(self) -> None:
        probabilities = draw(4)
        rows = probabilities.flatten(1).numpy()
        labels = probabilities.argmax(dim=2).numpy()
        apart, differ = [], []
        for i in range(4):
            for j in range(i + 1, 4):
                apart.append(1 - abs(np.corrcoef(rows[i], rows[j])[0, 1]))
                differ.append((labels[i] != labels[j]).mean())
        found = EnsemblePredictor().predict(probabilities)
        assert found.diversity == pytest.approx(np.mean(apart))
        assert found.disagreement == pytest.approx(np.mean(differ))

    def test_diversity_of_members_that_agree(self) -> None:
        even = torch.full((3, 4, 2), 0.5)
        assert diversity(even) == disagreement(even) == 0
        assert diversity(draw(1)) == disagreement(draw(1)) == 0
        same = draw(1).expand(3, -1, -1)
        assert diversity(same) == pytest.approx(0, abs=1e-9)
        assert diversity(torch.cat([draw(1, classes=2), torch.full((1, 20, 2), 0.5)])) == 1

    def test_outputs_are_softmaxed(self) -> None:
        outputs = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
        found = EnsemblePredictor().predict_outputs(outputs)
        torch.testing.assert_close(found.probability, outputs.softmax(dim=2).mean(dim=0))

    def test_votes_by_name(self) -> None:
        assert EnsemblePredictor("voting").vote == CircularVote()
        table = {"name": "superposition", "scores": [1, 2], "amplitudes": "raw"}
        assert EnsemblePredictor(table).vote == SuperpositionVote(
            scores=(1.0, 2.0), amplitudes="raw"
        )
        nested = {"name": "adaptive", "voting": {"name": "voting", "weights": [1.0, 2.0]}}
        assert EnsemblePredictor(nested).vote == AdaptiveVote(voting=CircularVote((1.0, 2.0)))
        assert set(VOTES) == {"adaptive", "entanglement", "soft-vote", "superposition", "voting"}
        with pytest.raises(UnknownNameError, match="soft-vote"):
            EnsemblePredictor("soft-votes")

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            (torch.ones(3, 2), "at least one of each, found shape"),
            (torch.ones(0, 3, 2) / 2, "at least one of each"),
            (torch.tensor([[[math.nan, 1.0]]]), "finite and not negative"),
            (torch.tensor([[[-0.5, 1.5]]]), "finite and not negative"),
            (torch.tensor([[[0.5, 0.9]]]), "a sum of 1.4"),
        ],
    )
    def test_probabilities_that_are_no_distribution_are_refused(
        self, wrong: Tensor, message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            EnsemblePredictor().predict(wrong)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SuperpositionVote(temperature=0), "temperature > 0, found 0"),
        (lambda: SuperpositionVote(noise_scale=-1), "noise_scale >= 0, found -1"),
        (lambda: SuperpositionVote(amplitudes="x"), "amplitudes among born, raw: 'x'"),
        (lambda: SuperpositionVote(confidence="x"), "confidence among agreement, certainty: 'x'"),
        (lambda: EntanglementVote(coupling="x"), "coupling among measured, random: 'x'"),
        (lambda: EntanglementVote(strength=-1), "strength >= 0, found -1"),
        (lambda: AdaptiveVote(low=0.6), "0 <= low <= high <= 1, found low=0.6, high=0.5"),
    ],
)
def test_impossible_parameters(make: object, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        make()  # type: ignore[operator]
    assert message in str(error.value)
