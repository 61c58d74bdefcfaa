"""An ensemble's prediction, with its uncertainty and the diversity of its members."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from hqde_fl import catalogue
from hqde_fl.prediction.base import Vote, normalised_entropy
from hqde_fl.prediction.differences import MemberDifferences
from hqde_fl.registry import Registry

VOTES: Registry[Vote] = catalogue.VOTES


@dataclass(frozen=True, eq=False)
class Prediction:
    """The prediction of an ensemble of m members for n examples of c classes.

    An example may have several places, such as words or pixels, each with a class of its own: the
    dimensions ``...``, which are none in plain classification.

    Parameters
    ----------
    label : Tensor
        (n, ...) the most probable class.
    probability : Tensor
        (n, ..., c) the members' combined distribution, or with the classes on another axis if the
        members' probabilities had them there.
    entropy : Tensor
        (n, ...) its normalised entropy, in [0, 1]: the total uncertainty.
    mutual_information : Tensor
        (n, ...) entropy of the members' mean distribution minus the mean of their entropies, in
        [0, 1] like ``entropy``: the part of the uncertainty that is disagreement between members.
    diversity : float
        Mean of 1 - |correlation| over pairs of members; 0 for a single one.
    disagreement : float
        Fraction of the places on which two members predict different classes, mean over pairs.
    """

    label: Tensor
    probability: Tensor
    entropy: Tensor
    mutual_information: Tensor
    diversity: float
    disagreement: float


@final
@dataclass(frozen=True)
class EnsemblePredictor:
    """Combines the members' predictions by a vote.

    Parameters
    ----------
    combine : Vote, str or Mapping
        A vote, its name in ``VOTES``, or a table with its name and parameters.
    """

    combine: Vote | str | Mapping[str, Any] = "soft-vote"

    def __post_init__(self) -> None:
        if not isinstance(self.combine, Vote):
            object.__setattr__(self, "combine", VOTES.build(self.combine))

    @property
    def vote(self) -> Vote:
        """The vote that ``combine`` describes."""
        assert isinstance(self.combine, Vote)
        return self.combine

    def predict(self, probabilities: Tensor, class_axis: int = -1) -> Prediction:
        """Return the prediction from members' probabilities.

        Parameters
        ----------
        probabilities : Tensor
            (m, n, ..., c): finite, none negative, summing to one over the classes.
        class_axis : int, default=-1
            The dimension of ``probabilities`` with the classes: 2 for (m, n, c, ...).

        Raises
        ------
        ValueError
            If they are anything else.
        """
        _check(probabilities, class_axis)
        classes_last = probabilities.movedim(class_axis, -1)
        places = classes_last.flatten(1, -2)
        wide = places.to(torch.promote_types(places.dtype, torch.float32))
        combined = self.vote.combine(wide)
        distribution = combined.clamp(min=0)
        distribution = distribution / distribution.sum(dim=1, keepdim=True)
        mean_entropy = normalised_entropy(wide.mean(dim=0))
        disagreement = (mean_entropy - normalised_entropy(wide).mean(dim=0)).clamp(min=0)
        differences = MemberDifferences()
        differences.add(wide)
        shape = classes_last.shape[1:-1]
        axis = class_axis % probabilities.ndim - 1
        return Prediction(
            label=combined.argmax(dim=1).reshape(shape),
            probability=combined.reshape(classes_last.shape[1:]).movedim(-1, axis),
            entropy=normalised_entropy(distribution).reshape(shape),
            mutual_information=disagreement.reshape(shape),
            diversity=differences.diversity,
            disagreement=differences.disagreement,
        )

    def predict_outputs(self, outputs: Tensor, class_axis: int = -1) -> Prediction:
        """Return the prediction from members' raw outputs (m, n, ..., c), before the softmax.

        ``class_axis`` is the dimension of ``outputs`` with the classes, by default the last one.
        """
        return self.predict(outputs.to(torch.float32).softmax(dim=class_axis), class_axis)


def _check(probabilities: Tensor, class_axis: int) -> None:
    if probabilities.ndim < 3 or 0 in probabilities.shape:
        raise ValueError(
            "predict needs (members, examples, classes) probabilities, at least one of each, "
            f"found shape {tuple(probabilities.shape)}"
        )
    if not -probabilities.ndim <= class_axis < probabilities.ndim or (
        class_axis % probabilities.ndim < 2
    ):
        raise ValueError(
            f"predict needs a class_axis after members and examples, found {class_axis} for shape "
            f"{tuple(probabilities.shape)}"
        )
    total = probabilities.sum(dim=class_axis, dtype=torch.float32)
    if not bool(probabilities.isfinite().all()) or bool((probabilities < 0).any()):
        raise ValueError("predict needs probabilities that are finite and not negative")
    if not bool(((total - 1).abs() < 1e-2).all()):
        worst = float(total.flatten()[(total - 1).abs().argmax()])
        raise ValueError(f"predict needs probabilities that sum to one, found a sum of {worst:.4g}")
