"""The base of votes, which turn the members' class probabilities into one distribution."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Vote(ABC):
    """Combines the predictions of an ensemble's members; a final frozen dataclass.

    Unless a vote says otherwise, its result for one example does not depend on the others in the
    batch, members that predict the same come back unchanged, and the result sums to one.
    """

    @abstractmethod
    def combine(self, probabilities: Tensor) -> Tensor:
        """Return one distribution (n, c) from the probabilities (m, n, c) of m members."""


def weighted_sum(weights: Tensor, probabilities: Tensor) -> Tensor:
    """Return the sum (n, c) of members' probabilities (m, n, c) with weights (m, n)."""
    return (weights.unsqueeze(2) * probabilities).sum(dim=0)


def overlaps(probabilities: Tensor) -> Tensor:
    """Return (n, m, m) overlaps <psi_i|psi_j> of the states psi = sqrt(p), with a zero diagonal.

    1 for equal distributions, 0 for those that share no class. The overlap of two states is the
    Bhattacharyya coefficient of their distributions, and its square their fidelity.
    """
    states = probabilities.clamp(min=0).sqrt().transpose(0, 1)
    products = states @ states.transpose(1, 2)
    return products - torch.diag_embed(products.diagonal(dim1=1, dim2=2))


def normalised_entropy(probability: Tensor) -> Tensor:
    """Return the Shannon entropy along the last dimension over its maximum log c, in [0, 1]."""
    classes = probability.shape[-1]
    if classes < 2:
        return torch.zeros_like(probability[..., 0])
    entropy: Tensor = torch.special.entr(probability).sum(dim=-1) / math.log(classes)
    return entropy.clamp(0, 1)
