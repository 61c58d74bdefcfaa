"""FedRDF: the densest value of every coordinate (Campos et al., 2025, arXiv:2402.10082).

The density of a coordinate's n values comes from its Fourier series: the harmonics' means over the
values, damped as by a Gaussian kernel. The value at which it is largest is the result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.rules.base import Rule
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.order_statistics import count_rows, sort_columns
from hqde_fl.rules.results import Decision, Measured, State


def densities(values: Tensor, harmonics: int, bandwidth: float) -> Tensor:
    """Return the estimated density at every value of an (n, c) sorted tile, up to scale and shift.

    Every column's range is mapped to the middle half of one period, so that its two ends are no
    neighbours.

    Parameters
    ----------
    values : Tensor
        (n, c), every column sorted.
    harmonics : int
        Terms of the Fourier series.
    bandwidth : float
        Standard deviation of the Gaussian kernel, in ranges of the column's values.
    """
    low = values[0] * 0.5  # halves, as a range may overflow
    width = values[-1] * 0.5 - low
    inverse = torch.where(width > 0, math.pi / width, 0.0)
    inverse = torch.where(inverse.isfinite(), inverse, 0.0)
    angle = (values * 0.5 - low) * inverse - math.pi / 2
    cos, sin = angle.cos(), angle.sin()
    twice = 2 * cos
    # the k-th harmonics from the two before, by the addition theorem
    before, now = (torch.ones_like(cos), torch.zeros_like(sin)), (cos, sin)
    density = torch.zeros_like(cos)
    for k in range(1, harmonics + 1):
        weight = math.exp(-0.5 * (math.pi * k * bandwidth) ** 2)
        for part in now:
            density.addcmul_(part, part.mean(dim=0), value=weight)
        if k < harmonics:
            after = tuple(twice * n - b for n, b in zip(now, before, strict=True))
            before, now = now, (after[0], after[1])
    return density


@dataclass(frozen=True)
class FedRDF(Rule):
    """Every coordinate's value of highest density, by the Fourier series of the clients' values.

    The kernel's bandwidth is a fraction of the range of the coordinate's values, which faulty
    clients can stretch. So it tolerates one faulty client of three or more: several can stretch it
    until honest and faulty values fall into one bandwidth, and then move the densest value
    anywhere. Of equal densities the lowest value counts. The paper's switch to the mean while a
    Kolmogorov-Smirnov test finds nothing is left out. O(n d) sines and ``harmonics`` products for
    each number, one sort of every coordinate, one read of the updates.

    Parameters
    ----------
    harmonics : int
        Terms of the Fourier series, >= 1.
    bandwidth : float
        Standard deviation of the kernel as a fraction of the range of the values, > 0.
    """

    harmonics: int = 8
    bandwidth: float = 0.1

    def __post_init__(self) -> None:
        if self.harmonics < 1:
            raise ConfigError(f"FedRDF needs harmonics >= 1, found {self.harmonics}")
        if not 0 < self.bandwidth < float("inf"):
            raise ConfigError(f"FedRDF needs a finite bandwidth > 0, found {self.bandwidth}")

    def minimum(self, faulty: int = 0) -> int:
        """Return 1: one update is enough."""
        return 1

    def breakdown(self, n: int) -> int:
        """Return 1 for four or more updates, else 0."""
        return int(n > 3)

    def decide(self, measured: Measured, cohort: Cohort, state: State) -> Decision:
        """Return an empty decision: ``combine`` looks at every coordinate by itself."""
        return Decision()

    def combine(self, tile: Tensor, decision: Decision) -> tuple[Tensor, Tensor | None]:
        """Return the densest values (c,) of a tile, and how often each row had them (1, n)."""
        values = sort_columns(tile)
        density = densities(values.contiguous(), self.harmonics, self.bandwidth)
        densest = values.gather(0, density.argmax(dim=0, keepdim=True))[0]
        return densest, count_rows(tile == densest, 1)[0]
