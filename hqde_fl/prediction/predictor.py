"""An ensemble's prediction, with its uncertainty and the diversity of its members."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from hqde_fl.prediction.adaptive import AdaptiveVote
from hqde_fl.prediction.base import Vote, normalised_entropy
from hqde_fl.prediction.entanglement import EntanglementVote
from hqde_fl.prediction.soft_vote import SoftVote
from hqde_fl.prediction.superposition import SuperpositionVote
from hqde_fl.prediction.voting import CircularVote
from hqde_fl.registry import Registry

VOTES: Registry[Vote] = Registry(
    "vote",
    Vote,  # type: ignore[type-abstract]
    {
        "adaptive": AdaptiveVote,
        "entanglement": EntanglementVote,
        "soft-vote": SoftVote,
        "superposition": SuperpositionVote,
        "voting": CircularVote,
    },
)


@dataclass(frozen=True, eq=False)
class Prediction:
    """The prediction of an ensemble of m members for n examples of c classes.

    Parameters
    ----------
    label : Tensor
        (n,) the most probable class.
    probability : Tensor
        (n, c) the members' combined distribution.
    entropy : Tensor
        (n,) its normalised entropy, in [0, 1]: the total uncertainty.
    mutual_information : Tensor
        (n,) entropy of the members' mean distribution minus the mean of their entropies, in [0, 1]
        like ``entropy``: the part of the uncertainty that is disagreement between the members.
    diversity : float
        Mean of 1 - |correlation| over pairs of members; 0 for a single one.
    disagreement : float
        Fraction of the examples on which two members predict different classes, mean over pairs.
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

    def predict(self, probabilities: Tensor) -> Prediction:
        """Return the prediction from members' probabilities.

        Parameters
        ----------
        probabilities : Tensor
            (m, n, c): finite, none negative, the last dimension summing to one.

        Raises
        ------
        ValueError
            If they are anything else.
        """
        _check(probabilities)
        wide = probabilities.to(torch.promote_types(probabilities.dtype, torch.float32))
        combined = self.vote.combine(wide)
        distribution = combined.clamp(min=0)
        distribution = distribution / distribution.sum(dim=1, keepdim=True)
        mean_entropy = normalised_entropy(wide.mean(dim=0))
        return Prediction(
            label=combined.argmax(dim=1),
            probability=combined,
            entropy=normalised_entropy(distribution),
            mutual_information=(mean_entropy - normalised_entropy(wide).mean(dim=0)).clamp(min=0),
            diversity=diversity(wide),
            disagreement=disagreement(wide),
        )

    def predict_outputs(self, outputs: Tensor) -> Prediction:
        """Return the prediction from members' raw outputs (m, n, c), before the softmax."""
        return self.predict(outputs.to(torch.float32).softmax(dim=2))


def diversity(probabilities: Tensor) -> float:
    """Return the mean over pairs of members of 1 - |correlation of their predictions|, as in HQDE.

    0 for a single member. A member whose predictions are all one number has correlation 1 with a
    member that predicts the same number, and 0 with all others.
    """
    members = probabilities.shape[0]
    if members < 2:
        return 0.0
    rows = probabilities.flatten(1).to("cpu", torch.float64)
    constant = rows.amax(dim=1) == rows.amin(dim=1)
    correlation = torch.corrcoef(rows).abs()
    correlation[constant] = correlation[:, constant] = 0
    same = constant[:, None] & constant[None, :] & (rows[:, :1] == rows[:, 0])
    correlation = torch.where(same, 1, correlation.clamp(max=1))
    one, other = torch.triu_indices(members, members, offset=1)
    return float((1 - correlation[one, other]).mean())


def disagreement(probabilities: Tensor) -> float:
    """Return the fraction of examples on which two members' labels differ, mean over pairs.

    0 for a single member.
    """
    members = probabilities.shape[0]
    if members < 2:
        return 0.0
    labels = probabilities.argmax(dim=2)
    one, other = torch.triu_indices(members, members, offset=1)
    return float((labels[one] != labels[other]).to(torch.float64).mean())


def _check(probabilities: Tensor) -> None:
    if probabilities.ndim != 3 or 0 in probabilities.shape:
        raise ValueError(
            "predict needs (members, examples, classes) probabilities, at least one of each, "
            f"found shape {tuple(probabilities.shape)}"
        )
    total = probabilities.sum(dim=2, dtype=torch.float32)
    if not bool(probabilities.isfinite().all()) or bool((probabilities < 0).any()):
        raise ValueError("predict needs probabilities that are finite and not negative")
    if not bool(((total - 1).abs() < 1e-2).all()):
        worst = float(total.flatten()[(total - 1).abs().argmax()])
        raise ValueError(f"predict needs probabilities that sum to one, found a sum of {worst:.4g}")
