"""Distances and inner products of n updates, precise at any scale.

The updates and the origin are n + 1 points. Their Gram matrix is taken in float64 *relative to a
pivot*, an update close to many others (found on a sample of the columns): a difference of two rows
loses nothing to the part that they share, and unlike a mean a row cannot be dragged away by an
outlier. A distance between two points that are much closer to each other than to the pivot is not
certain yet; those points are measured again relative to a pivot of their own, until every distance
is certain. Usually nothing, or a few colluding rows, needs that second look.

Whatever is affine in the points is answered from here: a linear step Y = W X has the affine
coordinates [W, 1 - W 1] over rows and origin, and the geometry of Y is a small matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hqde_fl.updates import Columns

if TYPE_CHECKING:
    from hqde_fl.rules.executor import Executor

CERTAIN = 1e-3
"""A squared distance above this fraction of the summed squared distances to the pivot is certain.

A sum of c products is off by at most c 2^-53 of the product of the norms when it is added up one by
one. BLAS adds blocks of some hundreds, and tiles and stripes are added on top of that: a few
thousand 2^-53, which is below 1e-9 of such a distance.
"""

NOISE = 1e-14
"""A squared distance below this fraction of what it is a difference of is no more than rounding."""

LOOKS = 16
"""Most times that uncertain distances are measured again."""

SAMPLE = 16
"""Places at which columns are sampled, ``WIDTH`` at each, to find the first pivot."""

WIDTH = 32

STEP = 2.0**500
"""Updates whose squares leave float64's range are measured in units of this power of two."""


def relative_gram(tile: Tensor, pivot: int, unit: float) -> Tensor:
    """(n, n) inner products of the rows minus the pivot's, and of the pivot's row itself."""
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
    """Inner products of each cluster's rows minus its first row, all matrices in one vector.

    Row -1 is the origin.
    """
    wide = torch.cat([tile.to(torch.float64), tile.new_zeros(1, tile.shape[1])]) / unit
    grams = []
    for cluster in clusters:
        rows = wide[list(cluster)]
        grams.append(inner_products(rows - rows[0].clone()).flatten())
    return torch.cat(grams)


def inner_products(rows: Tensor) -> Tensor:
    """``rows @ rows.T``; NumPy knows that it is symmetric and halves the work."""
    if rows.device.type != "cpu":
        return rows @ rows.T
    array = rows.numpy()
    with np.errstate(over="ignore", invalid="ignore"):  # seen in the result, and measured anew
        return torch.from_numpy(array @ array.T)


@dataclass(frozen=True, eq=False)
class Geometry:
    """Inner products and distances of n updates and the origin, the last of n + 1 points.

    Parameters
    ----------
    gram : Tensor
        (n + 1, n + 1) float64 inner products of the points relative to a pivot among them, in
        squared units.
    squared : Tensor
        (n + 1, n + 1) float64 squared distances between the points, in squared units.
    unit : float
        Lengths here are the updates' divided by this.
    """

    gram: Tensor
    squared: Tensor
    unit: float = 1.0

    @classmethod
    def measure(
        cls, gram: Tensor, columns: Columns, pivot: int, unit: float, executor: Executor
    ) -> Geometry:
        """Complete the first pass's ``relative_gram`` by the looks that it needs."""
        size = float(gram.diagonal().max())
        if unit == 1 and columns.dtype == torch.float64 and not 1e-280 < size < 1e280:
            unit = 1 / STEP if size < 1 else STEP
            first = partial(relative_gram, pivot=pivot, unit=unit)
            gram = executor.reduce(first, columns).cpu()
        points = _with_origin(gram, pivot)
        squared = _squared(points)
        uncertain = _uncertain(squared, points)
        for _ in range(LOOKS):
            clusters = _clusters(uncertain, squared)
            if not clusters:
                break
            rows = sorted({i for cluster in clusters for i in cluster} - {columns.shape[0]})
            place = {row: k for k, row in enumerate(rows)} | {columns.shape[0]: -1}
            local = [[place[i] for i in cluster] for cluster in clusters]
            look = partial(cluster_grams, clusters=local, unit=unit)
            found = executor.reduce(look, columns.select(rows)).cpu()
            for cluster in clusters:
                size_ = len(cluster)
                block, found = found[: size_**2].view(size_, size_), found[size_**2 :]
                index = torch.tensor(cluster)
                pairs = (index[:, None], index[None, :])
                closer = torch.where(uncertain[pairs], _squared(block), squared[pairs])
                squared[pairs] = closer
                uncertain[pairs] &= _uncertain(_squared(block), block)
        return cls(points, squared, unit)

    @classmethod
    def of(cls, gram: Tensor, pivot: int) -> Geometry:
        """What ``relative_gram`` alone says, right to a fraction of the distances to the pivot."""
        points = _with_origin(gram, pivot)
        return cls(points, _squared(points))

    @property
    def n(self) -> int:
        """Number of updates."""
        return self.gram.shape[0] - 1

    def leading(self, n: int) -> Geometry:
        """The geometry of the first n updates."""
        points = torch.tensor([*range(n), self.n])
        pairs = (points[:, None], points[None, :])
        return Geometry(self.gram[pairs], self.squared[pairs], self.unit)

    def squared_distances(self) -> Tensor:
        """(n, n) squared Euclidean distances in squared units; exact zeros on the diagonal."""
        return self.squared[:-1, :-1]

    def norms(self) -> Tensor:
        """(n,) lengths of the updates, in units."""
        return self.squared[-1, :-1].sqrt()

    def products(self) -> Tensor:
        """(n, n) inner products of the updates themselves, in squared units.

        An inner product follows from three squared lengths, or from inner products relative to the
        pivot. The first forgets a short update beside a long one, the second a pair that is far
        from the pivot; each entry is taken from where it loses less.
        """
        rows, origin = self.gram[:-1, :-1], self.gram[-1, :-1]
        relative = rows - origin[:, None] - origin[None, :] + self.gram[-1, -1]
        reach = rows.diagonal().clamp(min=0).sqrt() + float(self.gram[-1, -1].clamp(min=0).sqrt())
        lengths = self.squared[-1, :-1]
        summed = lengths[:, None] + lengths[None, :]
        polar = (summed - self.squared_distances()) / 2
        better = reach[:, None] * reach[None, :] < summed + self.squared_distances()
        return torch.where(better, relative, polar)

    def about(self, weights: Tensor) -> Tensor:
        """(n, n) inner products of the updates minus ``weights @ updates``, in squared units."""
        target = _affine(weights[None, :])[0]
        inner = self.gram @ target
        about = self.gram - inner[:, None] - inner[None, :] + target @ inner
        return about[:-1, :-1]

    def squared_distances_to(self, weights: Tensor) -> Tensor:
        """(n,) squared distances of each update to ``weights @ updates``, in squared units."""
        target = _affine(weights[None, :])[0]
        inner = self.gram @ target
        size = self.gram.diagonal() + target @ inner
        squared = size - 2 * inner
        return torch.where(squared > NOISE * size, squared, 0)[:-1]

    def coinciding_majority(self) -> Tensor | None:
        """(n,) bool: the updates that are one and the same point, if they are more than half."""
        same = self.squared_distances() == 0
        largest = same[int(same.sum(dim=1).argmax())]
        return largest if 2 * int(largest.sum()) > self.n else None

    def mixed(self, mixing: Tensor) -> Geometry:
        """The geometry of ``mixing @ updates``, (m, n) float64, without touching the updates."""
        origin = torch.zeros(1, self.n, dtype=torch.float64)
        points = _affine(torch.cat([mixing, origin]))
        rough = points @ self.gram @ points.T
        pivot = medoid(_squared(rough)[:-1, :-1])
        basis = points - points[pivot]
        gram = basis @ self.gram @ basis.T
        gram[pivot], gram[:, pivot] = 0, 0
        squared = _squared(gram)
        pairs = _uncertain(squared, gram).triu().nonzero()
        for some in pairs.split(1 << 12):
            apart = points[some[:, 0]] - points[some[:, 1]]
            exact = ((apart @ self.gram) * apart).sum(dim=1).clamp(min=0)
            squared[some[:, 0], some[:, 1]] = exact
            squared[some[:, 1], some[:, 0]] = exact
        return Geometry(gram, squared, self.unit)


def choose_pivot(columns: Columns) -> int:
    """A row that is close to half of the others, judged by a sample of the columns."""
    n, d = columns.shape
    if n < 3:
        return 0
    if d <= SAMPLE * WIDTH:
        sample = columns.tile(0, d)
    else:
        starts = [round(k * (d - WIDTH) / (SAMPLE - 1)) for k in range(SAMPLE)]
        sample = torch.cat([columns.tile(start, start + WIDTH) for start in starts], dim=1)
    wide = sample.to("cpu", torch.float64)
    middle = wide.median(dim=0).values
    scale = float((wide - middle).abs().median())
    near = (wide - middle) / (scale or 1.0)
    near = near.clamp(-1e100, 1e100)  # whatever is that far is no pivot
    return medoid(_squared(inner_products(near)))


def medoid(squared: Tensor) -> int:
    """The point with the least median squared distance to all."""
    return int(squared.median(dim=1).values.argmin())


def _affine(weights: Tensor) -> Tensor:
    """Weights over the rows, completed by the origin's so that they sum to one."""
    return torch.cat([weights, 1 - weights.sum(dim=1, keepdim=True)], dim=1)


def _with_origin(gram: Tensor, pivot: int) -> Tensor:
    """Points' inner products from the rows', where the pivot's place holds its own row.

    Relative to the pivot, the origin is minus that row and the pivot itself is zero.
    """
    n = gram.shape[0]
    points = torch.zeros(n + 1, n + 1, dtype=torch.float64)
    points[:-1, :-1] = gram
    points[-1, :-1] = points[:-1, -1] = -gram[pivot]
    points[-1, -1] = gram[pivot, pivot]
    points[pivot], points[:, pivot] = 0, 0
    return points


def _squared(gram: Tensor) -> Tensor:
    norms = gram.diagonal()
    squared = (norms[:, None] + norms[None, :] - 2 * gram).clamp(min=0)
    squared = (squared + squared.T) / 2
    return squared.fill_diagonal_(0)


def _uncertain(squared: Tensor, gram: Tensor) -> Tensor:
    norms = gram.diagonal()
    doubtful = squared < CERTAIN * (norms[:, None] + norms[None, :])
    return doubtful.fill_diagonal_(False)


def _clusters(uncertain: Tensor, squared: Tensor) -> list[list[int]]:
    """Groups of points whose distances need another look, each with its pivot first."""
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
        members = sorted(cluster)
        pivot = members[medoid(squared[members][:, members])]
        clusters.append([pivot, *(i for i in members if i != pivot)])
    return clusters
