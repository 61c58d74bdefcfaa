"""Reduce and combine columns tile by tile, to the same bits on any number of threads.

Tiles are summed in stripes of a fixed number of tiles, and the stripes in their order, on whichever
thread each was computed; linear algebra runs on one thread for each tile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import reduce
from itertools import islice
from operator import add
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from hqde_fl.rules.library_threads import one_library_thread
from hqde_fl.updates import Columns, spans

Combined = tuple[Tensor, Tensor | None]
"""Columns of the result, and (1, n) counts of how much each row counted, if these are asked for."""

TILES_PER_STRIPE = 8
"""Tiles that are summed with each other before they meet those of other stripes."""

Span = tuple[int, int]
"""First column of a tile, and the column after its last."""


class Summable(Protocol):
    """Anything that a function of a tile may return to be summed over the tiles."""

    def __add__(self, other: Any, /) -> Any:
        """Return the sum of two tiles' results."""
        ...


S = TypeVar("S", bound=Summable)
R = TypeVar("R")


def reduce_tiles(
    function: Callable[[Tensor], S],
    columns: Columns,
    tile_bytes: int,
    threads: int = 1,
    device: torch.device | None = None,
) -> S:
    """Return the sum of ``function(tile)`` over all tiles.

    Parameters
    ----------
    function : Callable[[Tensor], S]
        Maps an (n, c) tile to something that can be added.
    columns : Columns
        (n, d).
    tile_bytes : int
        Bytes of one float64 tile.
    threads : int, default=1
        Threads that work on stripes of tiles.
    device : torch.device, optional
        Tiles are moved to it first.
    """

    def stripe_sum(spans: list[Span]) -> S:
        return _total(function(_load(columns, span, device)) for span in spans)

    return _total(_in_order(stripe_sum, _stripes(columns, tile_bytes), threads))


def combine_tiles(
    function: Callable[[Tensor], Combined],
    columns: Columns,
    tile_bytes: int,
    threads: int = 1,
    device: torch.device | None = None,
) -> Combined:
    """Return the result (d,) joined from every tile's columns, and the sum of the counts or None.

    Parameters
    ----------
    function : Callable[[Tensor], Combined]
        Maps an (n, c) tile to c numbers, and to (1, n) counts or None.
    columns : Columns
        (n, d).
    tile_bytes : int
        Bytes of one float64 tile.
    threads : int, default=1
        Threads that work on stripes of tiles.
    device : torch.device, optional
        Tiles are moved to it first; the result lies where the columns do.
    """
    result = torch.empty(columns.shape[1], dtype=columns.dtype, device=columns.device)

    def stripe_counts(spans: list[Span]) -> Tensor | None:
        total: Tensor | None = None
        for span in spans:
            result[slice(*span)], counts = function(_load(columns, span, device))
            if counts is not None:
                total = counts if total is None else total + counts
        return total

    stripes = list(_in_order(stripe_counts, _stripes(columns, tile_bytes), threads))
    counted = [counts for counts in stripes if counts is not None]
    return result, reduce(add, counted).cpu() if counted else None


def _total(values: Iterator[S]) -> S:
    """Return the sum of one value or more; no value of these is written to.

    From the second on they are added in the sum's memory: new memory for each costs as much again.
    """
    total = next(values)
    for number, value in enumerate(values):
        if number:
            total += value
        else:
            total = total + value
    return total


def _load(columns: Columns, span: Span, device: torch.device | None) -> Tensor:
    tile = columns.tile(*span)
    return tile if device is None else tile.to(device)


def _stripes(columns: Columns, tile_bytes: int) -> Iterator[list[Span]]:
    tiles = spans(columns, tile_bytes)
    while stripe := list(islice(tiles, TILES_PER_STRIPE)):
        yield stripe


def _in_order(
    work: Callable[[list[Span]], R], stripes: Iterable[list[Span]], threads: int
) -> Iterator[R]:
    """Yield ``work(stripe)`` in the order of the stripes; few results wait, which bounds memory."""
    with one_library_thread():
        if threads == 1:
            yield from map(work, stripes)
            return
        with ThreadPoolExecutor(threads) as pool:
            waiting: deque[Future[R]] = deque()
            for stripe in stripes:
                waiting.append(pool.submit(work, stripe))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
