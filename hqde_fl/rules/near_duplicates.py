"""Find updates that lie closer together than honest ones do: copies of one another, or nearly so.

Clients that train on different data never send the same update, and in many dimensions their
distances are all of one order. Clients that collude in an attack made for the cohort send one and
the same update, up to the error of a codec.
"""

from __future__ import annotations

import torch
from torch import Tensor


def near_duplicate_groups(
    squared: Tensor, closeness: float, neighbour: float = 0.0
) -> list[list[int]]:
    """Return disjoint groups of rows that nearly coincide, ordered by their first row.

    Two updates are near duplicates if their distance is at most ``closeness`` times the typical
    one: the median over the updates of the distance to the (n // 2)-th nearest other one. Near
    duplicates of near duplicates belong to one group; most groups are a single row. If about half
    of the updates coincide, which is agreement, or n < 3, every row is a group of its own.

    Parameters
    ----------
    squared : Tensor
        (n, n) squared distances.
    closeness : float
        In [0, 1). 0 groups exact copies only.
    neighbour : float, default=0.0
        In [0, 1). Updates are near duplicates as well if their distance is at most this times the
        typical one to the nearest other update: the (n // 2)-th smallest (from 0) over the updates.
        It finds copies with noise.
    """
    n = squared.shape[0]
    distances = squared.sqrt()
    others = distances.sort(dim=1).values[:, n // 2]  # a row's first is itself
    typical = float(others.median())
    if n < 3 or typical == 0:
        return [[row] for row in range(n)]
    nearest = float(others_of(distances).sort().values[n // 2])
    near = distances <= max(closeness * typical, neighbour * nearest)
    group = torch.arange(n)
    while True:  # every row takes the least group number among the rows near it
        names = torch.where(near, group[None, :], n).min(dim=1).values
        if torch.equal(names, group):
            break
        group = names
    return [(group == name).nonzero().flatten().tolist() for name in group.unique().tolist()]


def others_of(distances: Tensor) -> Tensor:
    """Return the (n,) distance of each row to the nearest other one, given (n, n) distances."""
    return distances.clone().fill_diagonal_(torch.inf).min(dim=1).values


def has_near_duplicate(squared: Tensor, closeness: float) -> Tensor:
    """Return which updates have a near duplicate, (n,) bool, given (n, n) squared distances.

    That is another update no further away than ``closeness``, in [0, 1), times the typical
    distance: the median over the updates of the distance to the (n // 2)-th nearest other one. All
    False if n < 3, or if about half of the updates coincide.
    """
    duplicated = torch.zeros(squared.shape[0], dtype=torch.bool)
    for group in near_duplicate_groups(squared, closeness):
        if len(group) > 1:
            duplicated[group] = True
    return duplicated
