"""Work on the parts of a long vector on all of this process's threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from functools import cache
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray

T = TypeVar("T")

MIN_SHARED = 1 << 19
"""With fewer numbers, waking threads costs more than it saves."""

TILE = 1 << 18
"""Numbers that a thread works on at a time: few enough for caches, enough to be left alone."""

_here = threading.local()


def threads() -> int:
    """Return the number of threads that this thread may use: as many as torch is set to use."""
    return 1 if getattr(_here, "alone", False) else torch.get_num_threads()


@contextmanager
def alone() -> Iterator[None]:
    """Let this thread work by itself, because others are busy with vectors of their own."""
    before, _here.alone = getattr(_here, "alone", False), True
    try:
        yield
    finally:
        _here.alone = before


def each(work: Callable[[T], object], parts: Iterable[T], size: int) -> None:
    """Call ``work`` on every part of a vector of ``size`` numbers, in any order.

    The parts must not depend on each other: then the result is the same on any number of threads.
    What ``work`` raises is raised here. NumPy's error state is that of the caller.
    """
    count = threads() if size >= MIN_SHARED else 1
    if count == 1:
        for part in parts:
            work(part)
        return
    waiting = iter(list(parts))  # each thread takes the next one: next() of a list is atomic

    def work_off() -> None:
        for part in waiting:
            work(part)

    helpers = [_pool(count - 1).submit(copy_context().run, work_off) for _ in range(count - 1)]
    try:
        work_off()
    finally:
        waiting = iter(())  # after an error nobody starts another part
        for helper in helpers:
            if not helper.cancel():  # one that has not begun is not needed any more
                helper.result()


def tiles(size: int) -> list[slice]:
    """Return the spans of a vector that fit into a core's second-level cache."""
    return [slice(start, min(start + TILE, size)) for start in range(0, size, TILE)]


def extremes(values: NDArray[Any]) -> tuple[Any, Any]:
    """Return the least and the largest of at least one number."""
    low: list[Any] = []
    high: list[Any] = []

    def look(span: slice) -> None:
        low.append(values[span].min())
        high.append(values[span].max())

    each(look, tiles(values.size), values.size)
    return min(low).item(), max(high).item()


@cache
def _pool(helpers: int) -> ThreadPoolExecutor:
    """Return threads that stay, since starting one costs as much as a million numbers."""
    return ThreadPoolExecutor(helpers, "codec")


os.register_at_fork(after_in_child=_pool.cache_clear)  # the threads are the parent's
