"""Bring updates to one length without overflow: the factors by which each is multiplied."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_STRETCH = 2.0**80
"""An update that would have to be stretched by more counts as zero, which has no direction."""


def stretching(lengths: Tensor, target: float) -> Tensor:
    """Return the factors (n,) that bring updates of these lengths to a target length.

    0 for an update that is zero, or so short that its direction is lost (``MAX_STRETCH``).
    """
    factors = torch.where(lengths > 0, target / lengths, 0.0)
    return torch.where(factors <= MAX_STRETCH, factors, 0.0)
