"""Measures of the differences between the predictions of an ensemble's members."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor


@final
class MemberDifferences:
    """Diversity and disagreement of members over predictions that come in batches."""

    def __init__(self) -> None:
        self._members = self._places = self._numbers = 0
        self._sums = self._products = self._low = self._high = self._unequal = torch.zeros(0)

    def add(self, probabilities: Tensor) -> None:
        """Add members' probabilities (m, n, c), the same m in every batch."""
        members, places, classes = probabilities.shape
        # Around 1 / c, the mean of all numbers, so that no digits are lost in the products.
        rows = probabilities.flatten(1).to("cpu", torch.float64) - 1 / classes
        labels = probabilities.argmax(dim=2).cpu()
        one, other = torch.triu_indices(members, members, offset=1)
        unequal = (labels[one] != labels[other]).sum(dim=1)
        low, high = rows.amin(dim=1), rows.amax(dim=1)
        if not self._places:
            self._sums, self._products, self._unequal = rows.sum(dim=1), rows @ rows.T, unequal
            self._low, self._high = low, high
        else:
            self._sums = self._sums + rows.sum(dim=1)
            self._products = self._products + rows @ rows.T
            self._unequal = self._unequal + unequal
            self._low, self._high = self._low.minimum(low), self._high.maximum(high)
        self._members, self._places = members, self._places + places
        self._numbers += places * classes

    @property
    def diversity(self) -> float:
        """The mean over pairs of members of 1 - |correlation of their predictions|, as in HQDE.

        0 for a single member. A member whose predictions are all one number has correlation 1 with
        a member that predicts the same number, and 0 with all others.
        """
        if self._members < 2:
            return 0.0
        means = self._sums / self._numbers
        covariance = self._products / self._numbers - means[:, None] * means
        deviations = covariance.diagonal().clamp(min=0).sqrt()
        correlation = (covariance / (deviations[:, None] * deviations)).abs().clamp(max=1)
        constant = self._low == self._high
        correlation[constant] = correlation[:, constant] = 0
        same = constant[:, None] & constant & (self._low[:, None] == self._low)
        correlation = torch.where(same, 1, correlation)
        one, other = torch.triu_indices(self._members, self._members, offset=1)
        return float((1 - correlation[one, other]).mean())

    @property
    def disagreement(self) -> float:
        """The fraction of examples on which two members' labels differ, mean over pairs.

        0 for a single member.
        """
        if self._members < 2:
            return 0.0
        return float(self._unequal.sum()) / (len(self._unequal) * self._places)


def diversity(probabilities: Tensor) -> float:
    """Return the diversity of members' probabilities (m, n, c), see ``MemberDifferences``."""
    return _differences(probabilities).diversity


def disagreement(probabilities: Tensor) -> float:
    """Return the disagreement of members' probabilities (m, n, c), see ``MemberDifferences``."""
    return _differences(probabilities).disagreement


def _differences(probabilities: Tensor) -> MemberDifferences:
    differences = MemberDifferences()
    differences.add(probabilities)
    return differences
