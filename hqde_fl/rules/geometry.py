"""Distances and inner products of n updates, and of whatever is affine in them.

The updates and the origin are n + 1 points. Their Gram matrix is held *relative to a pivot* among
them: a difference of two rows loses nothing to the part that they share, and unlike a mean a row
cannot be dragged away by an outlier. ``gram`` measures it.

A linear step Y = W X has the affine coordinates [W, 1 - W 1] over rows and origin, so the geometry
of Y is a small matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MIN_CERTAIN_RATIO = 1e-3
"""A squared distance above this fraction of the summed squared distances to the pivot is certain.

A sum of c products is off by at most c 2^-53 of the product of the norms when it is added up one by
one. BLAS adds blocks of some hundreds, and tiles and stripes are added on top of that: a few
thousand 2^-53, which is below 1e-9 of such a distance.
"""

ROUNDING_RATIO = 1e-14
"""A squared distance is rounding error if below this fraction of the squares it is taken from."""


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
    def from_gram(cls, gram: Tensor, pivot: int) -> Geometry:
        """Return the geometry that an (n, n) ``relative_gram`` gives without a second measurement.

        Its distances are right to a fraction of those to the pivot.
        """
        points = add_origin(gram, pivot)
        return cls(points, distances_from_gram(points))

    @property
    def n(self) -> int:
        """The number of updates."""
        return self.gram.shape[0] - 1

    def leading(self, n: int) -> Geometry:
        """Return the geometry of the first n updates."""
        points = torch.tensor([*range(n), self.n])
        pairs = (points[:, None], points[None, :])
        return Geometry(self.gram[pairs], self.squared[pairs], self.unit)

    def squared_distances(self) -> Tensor:
        """Return (n, n) squared distances between the updates, in squared units; zero diagonal."""
        return self.squared[:-1, :-1]

    def norms(self) -> Tensor:
        """Return the (n,) lengths of the updates, in units."""
        return self.squared[-1, :-1].sqrt()

    def products(self) -> Tensor:
        """Return (n, n) inner products of the updates themselves, in squared units.

        An inner product follows from three squared lengths, or from inner products relative to the
        pivot. The first forgets a short update beside a long one, the second a pair that is far
        from the pivot; each entry is taken from the one that loses less.
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
        """Return (n, n) inner products of the updates minus ``weights @ updates``, squared units.

        Parameters
        ----------
        weights : Tensor
            (n,) float64.
        """
        target = _affine(weights[None, :])[0]
        inner = self.gram @ target
        about = self.gram - inner[:, None] - inner[None, :] + target @ inner
        return about[:-1, :-1]

    def squared_distances_to(self, weights: Tensor) -> Tensor:
        """Return (n,) squared distances of the updates to ``weights @ updates``, squared units.

        Parameters
        ----------
        weights : Tensor
            (n,) float64.
        """
        target = _affine(weights[None, :])[0]
        inner = self.gram @ target
        size = self.gram.diagonal() + target @ inner
        squared = size - 2 * inner
        return torch.where(squared > ROUNDING_RATIO * size, squared, 0)[:-1]

    def coinciding_majority(self) -> Tensor | None:
        """Return which updates coincide in one point, (n,) bool; None unless more than half do."""
        same = self.squared_distances() == 0
        largest = same[int(same.sum(dim=1).argmax())]
        return largest if 2 * int(largest.sum()) > self.n else None

    def mixed(self, mixing: Tensor) -> Geometry:
        """Return the geometry of ``mixing @ updates`` without reading the updates.

        Parameters
        ----------
        mixing : Tensor
            (m, n) float64.
        """
        origin = torch.zeros(1, self.n, dtype=torch.float64)
        points = _affine(torch.cat([mixing, origin]))
        pivot = medoid(distances_from_gram(points @ self.gram @ points.T)[:-1, :-1])
        basis = points - points[pivot]
        gram = basis @ self.gram @ basis.T
        gram[pivot], gram[:, pivot] = 0, 0
        squared = distances_from_gram(gram)
        uncertain = uncertain_pairs(squared, gram).triu().nonzero()
        for pairs in uncertain.split(1 << 12):
            apart = points[pairs[:, 0]] - points[pairs[:, 1]]
            exact = ((apart @ self.gram) * apart).sum(dim=1).clamp(min=0)
            squared[pairs[:, 0], pairs[:, 1]] = exact
            squared[pairs[:, 1], pairs[:, 0]] = exact
        return Geometry(gram, squared, self.unit)


def medoid(squared: Tensor) -> int:
    """Return the index of the row of (n, n) squared distances that has the least median."""
    return int(squared.median(dim=1).values.argmin())


def add_origin(gram: Tensor, pivot: int) -> Tensor:
    """Return the Gram matrix of rows and origin, (n + 1, n + 1), relative to the pivot.

    Relative to the pivot the origin is minus the pivot's row, and the pivot itself is zero.

    Parameters
    ----------
    gram : Tensor
        (n, n) ``relative_gram``: the pivot's place holds its own row.
    pivot : int
        The pivot's row.
    """
    n = gram.shape[0]
    points = torch.zeros(n + 1, n + 1, dtype=torch.float64)
    points[:-1, :-1] = gram
    points[-1, :-1] = points[:-1, -1] = -gram[pivot]
    points[-1, -1] = gram[pivot, pivot]
    points[pivot], points[:, pivot] = 0, 0
    return points


def distances_from_gram(gram: Tensor) -> Tensor:
    """Return the symmetric (n, n) squared distances that a Gram matrix of n points implies."""
    norms = gram.diagonal()
    squared = (norms[:, None] + norms[None, :] - 2 * gram).clamp(min=0)
    squared = (squared + squared.T) / 2
    return squared.fill_diagonal_(0)


def uncertain_pairs(squared: Tensor, gram: Tensor) -> Tensor:
    """Return which pairs of points, (n, n) bool, are too close for ``gram`` to give a distance."""
    norms = gram.diagonal()
    uncertain = squared < MIN_CERTAIN_RATIO * (norms[:, None] + norms[None, :])
    return uncertain.fill_diagonal_(False)


def _affine(weights: Tensor) -> Tensor:
    """Return weights (m, n) over the rows, completed by the origin's so that they sum to one."""
    return torch.cat([weights, 1 - weights.sum(dim=1, keepdim=True)], dim=1)
