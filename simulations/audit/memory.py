"""How far this process's memory rises above where it was: the operating system's own measurement.

The kernel keeps the highest resident size of a process (``VmHWM``), and Linux can be told to begin
anew. Unlike a sampling thread it misses no peak, and unlike ``tracemalloc`` it sees what C code
allocates: NumPy, PyTorch, protobuf, the JSON parser.
"""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress
from pathlib import Path
from typing import final

FACTOR = 4
"""A client's reply may raise the server's memory by this many times the bytes received for it."""
ALLOWANCE = 16 << 20
"""Bytes by which it may raise the memory beyond that."""

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_RESET_PEAK = "5"


def memory_bound(received: int) -> int:
    """Return the bytes by which memory may grow while a reply of ``received`` bytes is read."""
    return FACTOR * received + ALLOWANCE


def settle() -> None:
    """Leave what is in memory now out of later garbage collections.

    Every measurement begins with a collection, which takes a tenth of a second where PyTorch is
    loaded. ``gc.unfreeze`` takes it back.
    """
    gc.collect()
    gc.freeze()


@final
class PeakMeter:
    """Measure the peak growth of this process's resident memory, again and again.

    Before each measurement memory that is free is given back, so that what is allocated next
    raises the resident size. What fits into gaps that cannot be given back is not seen: a few MiB.
    """

    def __init__(self) -> None:
        self._start: int | None = None

    def start(self) -> None:
        """Begin a measurement."""
        gc.collect()
        with suppress(OSError, AttributeError):  # only glibc has it
            ctypes.CDLL(None).malloc_trim(0)
        try:
            _CLEAR.write_text(_RESET_PEAK)
        except OSError:  # another platform, or a container without that file
            self._start = None
            return
        self._start = _status("VmHWM")  # which is the resident size now

    def stop(self) -> int | None:
        """Return by how many bytes memory had grown at most since ``start``.

        None if this platform cannot say: only Linux keeps a peak that can be reset.
        """
        before, self._start = self._start, None
        peak = None if before is None else _status("VmHWM")
        return None if before is None or peak is None else max(0, peak - before)


def _status(field: str) -> int | None:
    """Return a size that the kernel tells of this process, in bytes."""
    for line in _STATUS.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) << 10
    return None
