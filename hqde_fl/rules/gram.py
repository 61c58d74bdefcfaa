"""Measure the geometry of n updates: their Gram matrix in float64, precise at any scale.

The Gram matrix is taken *relative to a pivot*, an update close to many others (chosen on a sample
of the columns). Distances that this leaves uncertain (see ``geometry``) belong to points much
closer to each other than to the pivot: usually none, or a few colluding rows. These are measured
again relative to a pivot of their own, until every distance is certain.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from hqde_fl.rules.executor import Executor, default_executor
from hqde_fl.rules.geometry import (
    Geometry,
    add_origin,
    distances_from_gram,
    medoid,
    uncertain_pairs,
)
from hqde_fl.rules.library_threads import one_library_thread
from hqde_fl.updates import Columns

MAX_REMEASUREMENTS = 16
"""Passes over the updates that measure uncertain distances again, at most."""

SAMPLED_PLACES = 16
"""Places at which columns are sampled to choose the pivot."""

SAMPLED_WIDTH = 32
"""Columns sampled at each place."""

RESCALING_UNIT = 2.0**500
"""Updates whose squares leave float64's range are measured in units of this power of two."""


def measure_geometry(columns: Columns, executor: Executor | None = None) -> Geometry:
    """Return the geometry of n updates.

    Parameters
    ----------
    columns : Columns
        (n, d) updates.
    executor : Executor, optional
        Reads the tiles; ``default_executor`` if not given.
    """
    executor = executor or default_executor(columns)
    with one_library_thread():
        pivot = choose_pivot(columns)
        gram = executor.reduce(partial(relative_gram, pivot=pivot, unit=1.0), columns).cpu()
        return complete_geometry(gram, columns, pivot, executor)


def complete_geometry(gram: Tensor, columns: Columns, pivot: int, executor: Executor) -> Geometry:
    """Return the geometry of updates, with uncertain distances measured again.

    Parameters
    ----------
    gram : Tensor
        (n, n) float64 ``relative_gram`` of all columns, in unit 1.
    columns : Columns
        (n, d) the updates.
    pivot : int
        The pivot of ``gram``.
    executor : Executor
        Reads the tiles of uncertain rows.
    """
    size, unit = float(gram.diagonal().max()), 1.0
    if columns.dtype == torch.float64 and not 1e-280 < size < 1e280:
        unit = 1 / RESCALING_UNIT if size < 1 else RESCALING_UNIT
        gram = executor.reduce(partial(relative_gram, pivot=pivot, unit=unit), columns).cpu()
    points = add_origin(gram, pivot)
    squared = distances_from_gram(points)
    uncertain = uncertain_pairs(squared, points)
    origin = columns.shape[0]
    for _ in range(MAX_REMEASUREMENTS):
        clusters = _clusters(uncertain, squared)
        if not clusters:
            break
        rows = sorted({i for cluster in clusters for i in cluster} - {origin})
        position = {row: k for k, row in enumerate(rows)} | {origin: -1}
        local = [[position[i] for i in cluster] for cluster in clusters]
        grams = executor.reduce(
            partial(cluster_grams, clusters=local, unit=unit), columns.select(rows)
        ).cpu()
        for cluster in clusters:
            k = len(cluster)
            block, grams = grams[: k**2].view(k, k), grams[k**2 :]
            index = torch.tensor(cluster)
            pairs = (index[:, None], index[None, :])
            measured = distances_from_gram(block)
            squared[pairs] = torch.where(uncertain[pairs], measured, squared[pairs])
            uncertain[pairs] &= uncertain_pairs(measured, block)
    return Geometry(points, squared, unit)


def relative_gram(tile: Tensor, pivot: int, unit: float) -> Tensor:
    """Return (n, n) inner products of an (n, c) tile's rows minus the pivot's row.

    The pivot's own row enters as it is; all rows are divided by ``unit`` first.
    """
    wide = tile.to(torch.float64)
    if wide is tile:
        wide = tile.clone()
    if unit != 1:
        wide /= unit
    base = wide[pivot].clone()
    wide -= base
    wide[pivot] = base
    return inner_products(wide)


def cluster_grams(tile: Tensor, clusters: Sequence[Sequence[int]], unit: float) -> Tensor:
    """Return inner products of each cluster's rows minus its first row, flattened into one vector.

    Row -1 is the origin; all rows are divided by ``unit`` first.
    """
    wide = torch.cat([tile.to(torch.float64), tile.new_zeros(1, tile.shape[1])]) / unit
    grams = []
    for cluster in clusters:
        rows = wide[list(cluster)]
        grams.append(inner_products(rows - rows[0].clone()).flatten())
    return torch.cat(grams)


def inner_products(rows: Tensor) -> Tensor:
    """Return ``rows @ rows.T``; NumPy knows that it is symmetric and halves the work."""
    if rows.device.type != "cpu":
        return rows @ rows.T
    array = rows.numpy()
    with np.errstate(over="ignore", invalid="ignore"):  # the caller sees it, and measures again
        return torch.from_numpy(array @ array.T)


def sampled_spans(d: int) -> list[tuple[int, int]]:
    """Return the column ranges of updates of d numbers that ``choose_pivot`` reads."""
    if d <= SAMPLED_PLACES * SAMPLED_WIDTH:
        return [(0, d)]
    last = d - SAMPLED_WIDTH
    starts = [round(k * last / (SAMPLED_PLACES - 1)) for k in range(SAMPLED_PLACES)]
    return [(start, start + SAMPLED_WIDTH) for start in starts]


def choose_pivot(columns: Columns) -> int:
    """Return the index of a row close to half of the others in some columns; 0 for n < 3."""
    n, d = columns.shape
    if n < 3:
        return 0
    sample = torch.cat([columns.tile(*span) for span in sampled_spans(d)], dim=1)
    wide = sample.to("cpu", torch.float64)
    centred = wide - wide.median(dim=0).values
    scale = float(centred.abs().median())
    # a row beyond the bound is no pivot, and its square must not overflow
    bounded = (centred / (scale or 1.0)).clamp(-1e100, 1e100)
    return medoid(distances_from_gram(inner_products(bounded)))


def _clusters(uncertain: Tensor, squared: Tensor) -> list[list[int]]:
    """Return groups of point indices linked by uncertain distances, each with its pivot first."""
    left = set(uncertain.any(dim=1).nonzero().flatten().tolist())
    neighbours = {i: set(uncertain[i].nonzero().flatten().tolist()) for i in left}
    clusters = []
    while left:
        front = {min(left)}
        cluster: set[int] = set()
        while front:
            cluster |= front
            front = set().union(*(neighbours[i] for i in front)) - cluster
        left -= cluster
        points = sorted(cluster)
        pivot = points[medoid(squared[points][:, points])]
        clusters.append([pivot, *(i for i in points if i != pivot)])
    return clusters
