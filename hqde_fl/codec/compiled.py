"""Whether numba, the extra ``fast``, is there to compile the kernels ``*_kernel.py``.

Each kernel computes the same bits as NumPy or constriction do without numba. The modules of kernels
import numba and are themselves imported only where ``worthwhile`` says so.
"""

from __future__ import annotations

import importlib.util
from functools import cache

MIN_COMPILED = 1 << 14
"""With fewer numbers loading numba costs more than it saves."""


@cache
def has_numba() -> bool:
    """Return whether numba is installed."""
    return importlib.util.find_spec("numba") is not None


def worthwhile(size: int) -> bool:
    """Return whether a compiled kernel should work on a vector of ``size`` numbers."""
    return size >= MIN_COMPILED and has_numba()
