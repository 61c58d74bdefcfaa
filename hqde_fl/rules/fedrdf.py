"""FedRDF: the densest value of every coordinate (Campos et al., 2025, arXiv:2402.10082).

The density of a coordinate's n values comes from their Fourier series, whose terms are damped as by
a Gaussian kernel. It is taken at the centres of ``CELLS`` cells of the values' range, as in the
density estimate by the fast Fourier transform (Silverman, 1982): so few terms are one product with
a small matrix.
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

CELLS = 64
"""Cells into which the range of a coordinate's values is divided."""


def kernel(harmonics: int, bandwidth: float) -> Tensor:
    """Return what a value in one cell adds to the density in another, (CELLS, CELLS) float64.

    The range is half of a period, so that its two ends are no neighbours.

    Parameters
    ----------
    harmonics : int
        Terms of the Fourier series.
    bandwidth : float
        Standard deviation of the Gaussian kernel, in ranges of the column's values.
    """
    cells = torch.arange(CELLS, dtype=torch.float64)
    phase = math.pi * (cells[:, None] - cells[None, :]) / CELLS
    total = torch.zeros(CELLS, CELLS, dtype=torch.float64)
    for k in range(1, harmonics + 1):
        total += math.exp(-0.5 * (math.pi * k * bandwidth) ** 2) * (k * phase).cos()
    return total


def densest(values: Tensor, smoothing: Tensor) -> Tensor:
    """Return the lower median (c,) of the values in the densest cell that has any.

    Parameters
    ----------
    values : Tensor
        (c, n), every row sorted.
    smoothing : Tensor
        The ``kernel``.
    """
    low = values[:, :1] * 0.5  # halves, as a range may overflow
    width = values[:, -1:] * 0.5 - low
    inverse = torch.where(width > 0, CELLS / width, 0.0)
    inverse = torch.where(inverse.isfinite(), inverse, 0.0)
    cells = (values * 0.5).sub_(low).mul_(inverse).clamp_(max=CELLS - 1).to(torch.int32)
    first = torch.arange(len(values), dtype=torch.int32, device=values.device)[:, None] * CELLS
    flat = (cells + first).flatten().bincount(minlength=len(values) * CELLS)
    counts = flat.view(-1, CELLS)
    density = counts.to(torch.float32) @ smoothing.to(values.device, torch.float32)
    # rounded, so that equal densities stay equal whatever the order of the sums
    density = (density * 256).round_().masked_fill_(counts == 0, -torch.inf)
    best = density.argmax(dim=1, keepdim=True)
    inside = counts.gather(1, best)
    before = counts.cumsum(dim=1).gather(1, best) - inside
    return values.gather(1, before + (inside - 1) // 2)[:, 0]


@dataclass(frozen=True)
class FedRDF(Rule):
    """Every coordinate's value of highest density, by the Fourier series of the clients' values.

    The kernel's bandwidth is a fraction of the range of the coordinate's values, which faulty
    clients can stretch. So it tolerates one faulty client of four or more: several can stretch it
    until honest and faulty values fall into one bandwidth, and then move the densest value
    anywhere. The density is taken at 64 cells of the range; of the values in the densest cell the
    lower median counts, of equal densities the lowest. The paper's switch to the mean while a
    Kolmogorov-Smirnov test finds nothing is left out. One sort of every coordinate, O(d n log n),
    O(64^2 d) for the densities, one read of the updates.

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
        values = sort_columns(tile).T.contiguous()
        result = densest(values, kernel(self.harmonics, self.bandwidth))
        return result, count_rows(tile == result, 1)[0]
