"""LASA: layer-wise filters of sparsified updates (Xu, Zhang and Hu, 2025, arXiv:2409.01435)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.rules.base import Rule
from hqde_fl.rules.clipping import shortening
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.magnitudes import count_magnitudes, magnitude_threshold
from hqde_fl.rules.results import Decision, Measured, State
from hqde_fl.rules.round_context import Need

CHUNK = 512
"""Columns that are looked at together, so that what is computed of them stays in the cache."""


def layer_spans(row: Tensor) -> Iterator[tuple[int, slice]]:
    """Yield each layer with its columns in a tile, at most ``CHUNK`` at a time.

    Parameters
    ----------
    row : Tensor
        (c,) each column's layer; the columns of a layer stand together.
    """
    layers, widths = row.long().unique_consecutive(return_counts=True)
    start = 0
    for layer, width in zip(layers.tolist(), widths.tolist(), strict=True):
        for first in range(start, start + width, CHUNK):
            yield layer, slice(first, min(first + CHUNK, start + width))
        start += width


def layer_statistics(tile: Tensor, thresholds: Tensor, layers: int) -> Tensor:
    """Return (3, layers, n) sums of squares, of signs and of non-zeros of a tile's large values.

    Parameters
    ----------
    tile : Tensor
        (n + 1, c) columns, the last row of which is each column's layer.
    thresholds : Tensor
        (n,) the least magnitude of a client's values that count.
    layers : int
        Number of layers.
    """
    values = tile[:-1]
    least = thresholds.to(values)[:, None]
    tiny = torch.finfo(values.dtype).tiny
    sums = torch.zeros(3, layers, len(values), dtype=torch.float64, device=tile.device)
    for layer, span in layer_spans(tile[-1]):
        part = values[:, span]
        large = part.abs() >= least
        kept = torch.where(large, part, 0)
        positive = (part >= least.clamp(min=tiny)).sum(dim=1)
        nonzero = (kept.abs() >= tiny).sum(dim=1)
        sums[0, layer] += torch.linalg.vector_norm(kept, dim=1, dtype=torch.float64) ** 2
        sums[1, layer] += 2 * positive - nonzero
        sums[2, layer] += nonzero
    return sums


def usual(values: Tensor, bound: float) -> Tensor:
    """Return which of (n,) numbers are within ``bound`` standard deviations of their median."""
    middle = values.quantile(0.5)
    deviation = values.std(correction=0)
    # rounding of equal numbers is no deviation
    if not deviation > 1e-9 * values.abs().max():
        return torch.ones_like(values, dtype=torch.bool)
    near: Tensor = (values - middle).abs() <= bound * deviation
    return near


@dataclass(frozen=True)
class LASA(Rule):
    """Mean, layer by layer, of the clipped updates whose layer has a usual length and usual signs.

    The fraction ``sparsity`` of smallest magnitudes of every update is left out of what follows.
    In each layer, clients are kept whose length, and whose fraction of positive signs, are within
    ``norm_bound`` and ``sign_bound`` standard deviations of the median; all, if nobody is. The
    layer of the result is the mean of theirs, not sparsified, each update shortened to the median
    length of all. Clients that are kept in no layer are filtered. The threshold of the magnitudes
    is right to their first five binary digits: up to 6 % smaller magnitudes count, too.

    It needs the layers of the model (``RoundContext.layers``). Tolerates f < n / 2 in that no
    update counts for more than the median length; that faulty layers look unusual is a heuristic.
    Any n. O(n d): three reads of the updates.

    Parameters
    ----------
    norm_bound : float
        The paper's lambda_m, > 0; it takes 1 for CIFAR and 2 otherwise.
    sign_bound : float
        The paper's lambda_d, > 0; it takes 1.
    sparsity : float
        Fraction of magnitudes to leave out, in [0, 1).
    """

    scored = True

    norm_bound: float = 2.0
    sign_bound: float = 1.0
    sparsity: float = 0.3

    def __post_init__(self) -> None:
        for name in ("norm_bound", "sign_bound"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"LASA needs {name} > 0, found {getattr(self, name)}")
        if not 0 <= self.sparsity < 1:
            raise ConfigError(f"LASA needs sparsity in [0, 1), found {self.sparsity}")

    @property
    def needs(self) -> frozenset[Need]:
        """The layers of the model."""
        return frozenset({"layers"})

    def minimum(self, faulty: int = 0) -> int:
        """Return 1: one update is enough."""
        return 1

    def breakdown(self, n: int) -> int:
        """Return the largest number below n / 2, for the length of the result."""
        return (n - 1) // 2

    def filters(self, n: int) -> bool:
        """Return True for three or more updates: of two, both are equally usual."""
        return n > 2

    def added_rows(self, cohort: Cohort, state: State, size: int) -> Sequence[Tensor]:
        """Return the row of each column's layer."""
        layers = torch.tensor(cohort.context.needed_layers(self, size))
        return (torch.arange(len(layers), dtype=torch.float32).repeat_interleave(layers),)

    def score(self, tile: Tensor) -> Tensor:
        """Return (n, 1 or more) squared lengths, and counts of magnitudes if any are left out."""
        values = tile[:-1]
        norms = torch.linalg.vector_norm(values, dim=1, keepdim=True, dtype=torch.float64)
        squares: Tensor = norms**2
        if self.sparsity == 0:
            return squares
        return torch.cat([squares, count_magnitudes(values).to(torch.float64)], dim=1)

    def second_score(
        self, measured: Measured, cohort: Cohort, state: State
    ) -> Callable[[Tensor], Tensor]:
        """Return the score of each layer, for the magnitudes that count."""
        assert measured.score is not None
        thresholds = torch.zeros(cohort.n, dtype=torch.float64)
        if self.sparsity > 0:
            thresholds = magnitude_threshold(measured.score[:, 1:], 1 - self.sparsity)
        layers = len(cohort.context.layers)
        return partial(layer_statistics, thresholds=thresholds, layers=layers)

    def decide(self, measured: Measured, cohort: Cohort, state: State) -> Decision:
        """Return as the plan each layer's weights of the updates, (layers, n)."""
        assert measured.score is not None
        assert measured.second is not None
        lengths = measured.score[:, 0].sqrt()
        squares, signs, nonzero = measured.second
        benign = torch.zeros(squares.shape, dtype=torch.bool)
        for layer in range(len(benign)):
            purity = signs[layer] / nonzero[layer].clamp(min=1)
            benign[layer] = usual(squares[layer].sqrt(), self.norm_bound) & usual(
                (1 + purity) / 2, self.sign_bound
            )
            if not benign[layer].any():
                benign[layer] = True
        weights = benign.double() / benign.sum(dim=1, keepdim=True)
        weights = weights * shortening(lengths, float(lengths.median()))
        kept = benign.sum(dim=1).tolist()
        return Decision(
            filtered=~benign.any(dim=0),
            diagnostics={"lasa-kept": kept},
            plan=weights,
        )

    def combine(self, tile: Tensor, decision: Decision) -> tuple[Tensor, Tensor | None]:
        """Return each column's sum by its layer's weights (c,), and the clients' counts (1, n)."""
        values, weights = tile[:-1], decision.plan.to(tile.device)
        result = torch.empty(values.shape[1], dtype=values.dtype, device=values.device)
        counts = torch.zeros(1, len(tile), dtype=torch.float64, device=tile.device)
        for layer, span in layer_spans(tile[-1]):
            result[span] = weights[layer].to(values) @ values[:, span]
            counts[0, :-1] += (span.stop - span.start) * weights[layer]
        return result, counts
