"""Sketches of updates by which a rule remembers every client, at a thousand numbers each.

A count sketch adds each number, with a random sign, to one of ``SKETCH_SIZE`` sums. It is linear,
and inner products of sketches are those of the updates, give or take sqrt(2 / SKETCH_SIZE) of the
product of the lengths, in the mean over the seeds. Updates that are no longer than a sketch are
their own sketch. Signs and places depend on the run's seed and the column alone.

Tiles do not know where their columns stand. So a rule adds one row below the updates, which holds
every column's place and sign, and the tiles bring it along.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hqde_fl.rules.results import State
from hqde_fl.seeding import Seeds

SKETCH_SIZE = 1024
"""Numbers in a sketch: an inner product is off by about 4 % of the product of the lengths."""


def places_row(size: int, seed: int) -> Tensor:
    """Return the row (d,) to add below updates: each column's place in a sketch + 1, signed."""
    if size <= SKETCH_SIZE:
        return torch.arange(1, size + 1, dtype=torch.float32)
    generator = Seeds(seed).torch("client sketches")
    drawn = torch.randint(2 * SKETCH_SIZE, (size,), generator=generator)
    return ((drawn // 2 + 1) * (drawn % 2 * 2 - 1)).to(torch.float32)


def sketch_tile(tile: Tensor) -> Tensor:
    """Return (SKETCH_SIZE + 1, n) sums of an (n + 1, c) tile, the last row of which is the places.

    Below a tile's sketches stands its number of columns.
    """
    values, places = tile[:-1], tile[-1]
    n, width = values.shape
    signed = torch.empty(width, n, dtype=torch.float64, device=tile.device)
    torch.mul(values.T, places.sign()[:, None], out=signed)
    sums = torch.zeros(SKETCH_SIZE + 1, n, dtype=torch.float64, device=tile.device)
    sums.index_add_(0, places.abs().long() - 1, signed)
    sums[-1] = width
    return sums


def sketches_of(score: Tensor) -> tuple[Tensor, int]:
    """Return the (n, k) sketches, k = min(d, SKETCH_SIZE), and d, of summed ``sketch_tile``s."""
    size = int(score[-1, 0])
    return score[: min(size, SKETCH_SIZE)].T.contiguous(), size


def remembered(state: State, size: int) -> Mapping[str, Any]:
    """Return a state that was made for updates of ``size`` numbers; an empty one if it was not.

    When the roles of a model's entries change, so do the columns, and sketches lose their meaning.
    """
    return state if state.get("size") == size else {}
