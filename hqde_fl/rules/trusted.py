"""Trust: clients are trusted if trusted clients agree with them."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_STEPS = 100
"""Steps to the fixed point of trust, at most; it need not be exact."""

MAX_CHANGE = 1e-10
"""Change of trust in one step at which the iteration ends."""

TIE_RATIO = 1e-9
"""Support minus opposition below this fraction of the largest agreement is rounding error."""


def trust(agreement: Tensor) -> Tensor:
    """Return the trust t (m,) >= 0, proportional to max(0, A t), with maximum 1.

    All zero if no vote has support from the others.

    Parameters
    ----------
    agreement : Tensor
        (m, m) float64, A.
    """
    t = torch.ones(agreement.shape[0], dtype=torch.float64)
    if abs(float((agreement @ t).max())) <= TIE_RATIO * float(agreement.abs().max()):
        # No client is supported more than opposed, some as much: start from their support.
        t = agreement.clamp(min=0).sum(dim=1)
        t = t / t.max().clamp(min=torch.finfo(t.dtype).tiny)
    for _ in range(MAX_STEPS):
        support = (agreement @ t).clamp(min=0)
        largest = float(support.max())
        if largest == 0:
            return torch.zeros_like(t)
        change = support / largest - t
        if float(change.abs().max()) < MAX_CHANGE:
            break
        t = t + change / 2  # a whole step may oscillate for ever
    return support / largest


def saturated_agreement(cosines: Tensor, saturation: float) -> Tensor:
    """Return cosines (m, m) over a quantile of theirs, in [-1, 1]; zero diagonal.

    If the quantile is not positive, the cosines are not divided.

    Parameters
    ----------
    cosines : Tensor
        (m, m) cosines between clients.
    saturation : float
        The quantile of the cosines beyond which more agreement gains nothing; in (0, 1].
    """
    m = cosines.shape[0]
    apart = ~torch.eye(m, dtype=torch.bool)
    typical = float(cosines[apart].quantile(saturation)) if m > 1 else 0.0
    agreement = (cosines / typical).clamp(-1, 1) if typical > 0 else cosines
    return agreement.clone().fill_diagonal_(0)
