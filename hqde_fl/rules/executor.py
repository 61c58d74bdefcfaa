"""Where the tiles are walked.

An executor has two verbs: ``reduce`` sums a function of the tile over all tiles, ``combine`` writes
a function of the tile into the result's columns. Every rule runs on every executor.

Tiles are summed in stripes of a fixed number of tiles, and the stripes in their order, whoever
computes them; linear algebra runs on one thread for each tile. So one thread and many give the same
bits, and the libraries' own threads do not fight with the tiles'.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from itertools import islice
from operator import add
from typing import Any, Protocol, TypeVar

import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.updates import TILE_BYTES, Columns, spans

Combined = tuple[Tensor, Tensor | None]
"""Columns of the result, and (1, n) counts of what each row contributed where they are counted."""

STRIPE = 8
"""Tiles that are summed before they meet the others."""

SMALL = 1 << 21
"""Numbers in all updates below which starting threads costs more than it saves."""


class Summable(Protocol):
    """What a pass over the tiles may return."""

    def __add__(self, other: Any, /) -> Any:
        """The sum of two tiles'."""
        ...


S = TypeVar("S", bound=Summable)
R = TypeVar("R")


class Executor(ABC):
    """Walks the tiles of some columns."""

    @abstractmethod
    def reduce(self, function: Callable[[Tensor], S], columns: Columns) -> S:
        """The sum of ``function(tile)`` over all tiles."""

    @abstractmethod
    def combine(self, function: Callable[[Tensor], Combined], columns: Columns) -> Combined:
        """``function(tile)``'s columns of all tiles side by side (d,), and its counts' sum."""


@dataclass(frozen=True)
class SerialExecutor(Executor):
    """One tile after the other, in this thread.

    Parameters
    ----------
    tile_bytes : int
        Bytes of one float64 tile.
    """

    tile_bytes: int = TILE_BYTES

    def reduce(self, function: Callable[[Tensor], S], columns: Columns) -> S:
        """The sum of ``function(tile)`` over all tiles."""
        return _reduce(function, columns, self.tile_bytes, 1, None)

    def combine(self, function: Callable[[Tensor], Combined], columns: Columns) -> Combined:
        """The (d,) result and its counts."""
        return _combine(function, columns, self.tile_bytes, 1, None)


@dataclass(frozen=True)
class ThreadedExecutor(Executor):
    """Stripes of tiles on several threads.

    Parameters
    ----------
    threads : int
        How many; 0 for as many as torch is set to use.
    tile_bytes : int
        Bytes of one float64 tile; each thread holds one at a time.
    """

    threads: int = 0
    tile_bytes: int = TILE_BYTES

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise ConfigError(f"ThreadedExecutor needs threads >= 0, found {self.threads}")

    def reduce(self, function: Callable[[Tensor], S], columns: Columns) -> S:
        """The sum of ``function(tile)`` over all tiles."""
        return _reduce(function, columns, self.tile_bytes, self._count, None)

    def combine(self, function: Callable[[Tensor], Combined], columns: Columns) -> Combined:
        """The (d,) result and its counts."""
        return _combine(function, columns, self.tile_bytes, self._count, None)

    @property
    def _count(self) -> int:
        return self.threads or one_library_thread.before()


@dataclass(frozen=True)
class TorchDevice(Executor):
    """Tiles moved to a torch device, one after the other; the same code runs there.

    Parameters
    ----------
    device : str
        ``"cuda"``, ``"cuda:1"``, ``"cpu"`` and so on.
    tile_bytes : int
        Bytes of one float64 tile: accelerators want larger ones than a cache does.
    """

    device: str = "cuda"
    tile_bytes: int = 1 << 26

    def reduce(self, function: Callable[[Tensor], S], columns: Columns) -> S:
        """The sum of ``function(tile)`` over all tiles."""
        return _reduce(function, columns, self.tile_bytes, 1, torch.device(self.device))

    def combine(self, function: Callable[[Tensor], Combined], columns: Columns) -> Combined:
        """The (d,) result, back where the updates live, and its counts."""
        return _combine(function, columns, self.tile_bytes, 1, torch.device(self.device))


def default_executor(columns: Columns) -> Executor:
    """Threads for many numbers, none for few; the bits are the same."""
    n, d = columns.shape
    return SerialExecutor() if n * d < SMALL else ThreadedExecutor()


def _reduce(
    function: Callable[[Tensor], S],
    columns: Columns,
    tile_bytes: int,
    threads: int,
    device: torch.device | None,
) -> S:
    def stripe(tiles: list[tuple[int, int]]) -> S:
        return reduce(add, (function(_fetch(columns, span, device)) for span in tiles))

    return reduce(add, _ordered(stripe, _stripes(columns, tile_bytes), threads))


def _combine(
    function: Callable[[Tensor], Combined],
    columns: Columns,
    tile_bytes: int,
    threads: int,
    device: torch.device | None,
) -> Combined:
    result = torch.empty(columns.shape[1], dtype=columns.dtype, device=columns.device)

    def stripe(tiles: list[tuple[int, int]]) -> Tensor | None:
        total: Tensor | None = None
        for span in tiles:
            piece, counted = function(_fetch(columns, span, device))
            result[slice(*span)] = piece
            if counted is not None:
                total = counted if total is None else total + counted
        return total

    counts = list(_ordered(stripe, _stripes(columns, tile_bytes), threads))
    counted = [count for count in counts if count is not None]
    return result, reduce(add, counted).cpu() if counted else None


def _fetch(columns: Columns, span: tuple[int, int], device: torch.device | None) -> Tensor:
    tile = columns.tile(*span)
    return tile if device is None else tile.to(device)


def _stripes(columns: Columns, tile_bytes: int) -> Iterator[list[tuple[int, int]]]:
    tiles = spans(columns, tile_bytes)
    while stripe := list(islice(tiles, STRIPE)):
        yield stripe


def _ordered(
    work: Callable[[list[tuple[int, int]]], R],
    stripes: Iterable[list[tuple[int, int]]],
    threads: int,
) -> Iterator[R]:
    """Results in the order of the stripes; few are ever waiting, so that memory stays bounded."""
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


class _OneThread:
    """BLAS and torch on one thread, until the last of those who asked for it leaves.

    The settings are the process's own: they are counted here so that walks that overlap in time do
    not put back each other's.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._libraries: ThreadpoolController | None = None
        self._threads = 0
        self._restore: Callable[[], None] = lambda: None

    def before(self) -> int:
        """Threads that torch is set to use when nobody limits it."""
        return self._threads if self._users else torch.get_num_threads()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._limit()
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._restore()

    def _limit(self) -> None:
        if self._libraries is None:  # looking them up takes milliseconds
            self._libraries = ThreadpoolController().select(user_api="blas")
        limited, self._threads = self._libraries.limit(limits=1), torch.get_num_threads()
        torch.set_num_threads(1)

        def restore() -> None:
            torch.set_num_threads(self._threads)
            limited.restore_original_limits()

        self._restore = restore


one_library_thread = _OneThread()
