"""Scores of classifiers and of ensembles, from predictions that come in batches."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from hqde_fl.prediction.calibration import calibration_error_of, mean_negative_log
from hqde_fl.prediction.differences import MemberDifferences


@final
class ClassifierScores:
    """Accuracy, negative log likelihood and calibration error of class probabilities.

    Of each place, three numbers are kept.
    """

    def __init__(self) -> None:
        self._confidence: list[Tensor] = []
        self._correct: list[Tensor] = []
        self._chosen: list[Tensor] = []

    def add(self, probability: Tensor, labels: Tensor) -> None:
        """Add probabilities (n, c) of classes and the true classes (n,)."""
        confidence, predicted = probability.max(dim=1)
        self._confidence.append(confidence)
        self._correct.append(predicted == labels)
        self._chosen.append(probability.gather(1, labels[:, None])[:, 0])

    @property
    def values(self) -> dict[str, float]:
        """The scores ``accuracy``, ``nll`` and ``ece`` (15 bins) of all that was added."""
        correct = torch.cat(self._correct)
        return {
            "accuracy": float(correct.to(torch.float64).mean()),
            "nll": mean_negative_log(torch.cat(self._chosen)),
            "ece": calibration_error_of(torch.cat(self._confidence), correct),
        }


@final
class EnsembleScores:
    """Scores of an ensemble's predictions and the mean scores of its single members.

    Parameters
    ----------
    members : int
        Number of members.
    """

    def __init__(self, members: int) -> None:
        self._ensemble = ClassifierScores()
        self._members = [ClassifierScores() for _ in range(members)]
        self._differences = MemberDifferences()

    def add(self, votes: Tensor, probability: Tensor, labels: Tensor) -> None:
        """Add a batch.

        Parameters
        ----------
        votes : Tensor
            (m, n, c) class probabilities of m members.
        probability : Tensor
            (n, c) the ensemble's.
        labels : Tensor
            (n,) true classes.
        """
        self._ensemble.add(probability, labels)
        for scores, vote in zip(self._members, votes, strict=True):
            scores.add(vote, labels)
        self._differences.add(votes)

    @property
    def values(self) -> dict[str, float]:
        """The ensemble's ``accuracy``, ``nll`` and ``ece``, and those of its members.

        The mean of each over the members is ``member-accuracy`` and so on; ``diversity`` and
        ``disagreement`` are those of the members.
        """
        scores = dict(self._ensemble.values)
        members = [member.values for member in self._members]
        for name in tuple(scores):
            scores[f"member-{name}"] = sum(member[name] for member in members) / len(members)
        return scores | {
            "diversity": self._differences.diversity,
            "disagreement": self._differences.disagreement,
        }
