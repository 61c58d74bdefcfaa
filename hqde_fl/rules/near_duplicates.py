"""Updates that lie closer together than honest ones do: copies of one another, or nearly so.

Clients that train on different data never send the same update, and in many dimensions their
distances are all of one order. Clients that collude in an attack made for the cohort send one and
the same update, or what a codec makes of it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def twin_groups(squared: Tensor, closeness: float) -> list[list[int]]:
    """Who is whose twin: disjoint groups of rows, ordered by their first; most have one member.

    Two updates are twins if their distance is at most ``closeness`` times the typical one: the
    median over the clients of the distance to the nearer half of the others. Twins of twins are
    twins. Where half of the updates coincide nobody is a twin: that is agreement.

    Parameters
    ----------
    squared : Tensor
        (n, n) squared distances.
    closeness : float
        In [0, 1). 0 finds exact copies only.
    """
    n = squared.shape[0]
    distances = squared.sqrt()
    others = distances.sort(dim=1).values[:, n // 2]  # a row's first is itself
    typical = float(others.median())
    if n < 3 or typical == 0:
        return [[row] for row in range(n)]
    near = distances <= closeness * typical
    group = torch.arange(n)
    while True:  # everybody takes the least name among those near
        names = torch.where(near, group[None, :], n).min(dim=1).values
        if torch.equal(names, group):
            break
        group = names
    return [(group == name).nonzero().flatten().tolist() for name in group.unique().tolist()]


def twins(squared: Tensor, closeness: float) -> Tensor:
    """(n,) bool: who has a twin."""
    found = torch.zeros(squared.shape[0], dtype=torch.bool)
    for group in twin_groups(squared, closeness):
        if len(group) > 1:
            found[group] = True
    return found
