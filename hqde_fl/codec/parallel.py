"""Work on the parts of a long vector on all of this process's threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")

MIN_SHARED = 1 << 20
"""With fewer numbers, starting threads costs more than it saves."""


def each(work: Callable[[T], object], parts: Iterable[T], size: int) -> None:
    """Call ``work`` on every part of a vector of ``size`` numbers, in any order.

    The parts must not depend on each other: then the result is the same on any number of threads,
    of which there are as many as torch is set to use.
    """
    threads = torch.get_num_threads() if size >= MIN_SHARED else 1
    if threads == 1:
        for part in parts:
            work(part)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, parts):
            pass
