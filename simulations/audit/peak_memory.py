"""The growth of this process's memory, as the operating system measures it, and its bound.

The kernel keeps the largest resident size of a process (``VmHWM``), which Linux can reset. Unlike a
sampling thread it misses no peak, and unlike ``tracemalloc`` it includes the memory that C code
allocates: NumPy, PyTorch, protobuf, the JSON parser.
"""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress
from pathlib import Path
from typing import final

FACTOR = 4
"""Multiple of a reply's size by which it may raise the server's memory."""
ALLOWANCE = 16 << 20
"""Bytes by which a reply of any size may raise the server's memory in addition."""

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_RESET_PEAK = "5"


def memory_bound(received: int) -> int:
    """Return the bytes by which memory may grow while a reply of ``received`` bytes is read."""
    return FACTOR * received + ALLOWANCE


def freeze_heap() -> None:
    """Exclude all present objects from later garbage collections.

    Every measurement begins with a collection, which takes a tenth of a second once PyTorch is
    loaded. ``gc.unfreeze`` undoes this.
    """
    gc.collect()
    gc.freeze()


@final
class PeakMeter:
    """A meter of the peak growth of this process's resident memory, for repeated measurements.

    Before each measurement free memory is returned to the system, so that new allocations raise
    the resident size. Allocations in gaps that cannot be returned, a few MiB, are not measured.
    """

    def __init__(self) -> None:
        self._start: int | None = None

    def start(self) -> None:
        """Return free memory to the system and begin to measure the growth of memory."""
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
        """Return the largest growth of memory since ``start``, in bytes.

        None if ``start`` was not called before, or this platform cannot measure it: only Linux
        keeps a peak that can be reset.
        """
        before, self._start = self._start, None
        peak = None if before is None else _status("VmHWM")
        return None if before is None or peak is None else max(0, peak - before)


def _status(field: str) -> int | None:
    """Return a size from the kernel's status of this process, in bytes; None if absent."""
    for line in _STATUS.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) << 10
    return None
