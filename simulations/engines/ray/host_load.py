"""The load of the machine that a worker runs on."""

from __future__ import annotations

import psutil


def host_load() -> float:
    """Return the mean number of processes that ran or waited in the last minute, per CPU.

    It is in [0, 1]: 1 if there was one for every CPU, or more.
    """
    return min(1.0, psutil.getloadavg()[0] / (psutil.cpu_count() or 1))
