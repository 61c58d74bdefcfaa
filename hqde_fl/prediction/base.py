"""What turns the members' class probabilities into one distribution."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Vote(ABC):
    """Combines the predictions of an ensemble's members; a final frozen dataclass.

    Unless it says otherwise, what it makes of one example does not depend on the others in the
    batch, members that predict the same come back unchanged, and the result sums to one.
    """

    @abstractmethod
    def combine(self, probabilities: Tensor) -> Tensor:
        """(m, n, c) probabilities of m members for n examples and c classes -> (n, c)."""


def weighted(weights: Tensor, probabilities: Tensor) -> Tensor:
    """Members' probabilities (m, n, c) summed with their weights (m, n) -> (n, c)."""
    return (weights.unsqueeze(2) * probabilities).sum(dim=0)


def overlaps(probabilities: Tensor) -> Tensor:
    """(n, m, m) overlaps <psi_i|psi_j> of the states psi = sqrt(p), with a zero diagonal.

    1 for equal distributions, 0 for those that share no class. The overlap of two states is the
    Bhattacharyya coefficient of their distributions, and its square their fidelity.
    """
    states = probabilities.clamp(min=0).sqrt().transpose(0, 1)
    found = states @ states.transpose(1, 2)
    return found - torch.diag_embed(found.diagonal(dim1=1, dim2=2))


def normalised_entropy(probability: Tensor) -> Tensor:
    """Shannon entropy along the last dimension over its largest value, log c: in [0, 1]."""
    classes = probability.shape[-1]
    if classes < 2:
        return torch.zeros_like(probability[..., 0])
    entropy: Tensor = torch.special.entr(probability).sum(dim=-1) / math.log(classes)
    return entropy.clamp(0, 1)
