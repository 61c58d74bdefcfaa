"""Samples of what a run uses: its process tree, the host around it, and the GPUs."""

from __future__ import annotations

import os
import shutil
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hqde_fl.monitor.gpus import Gpus
from hqde_fl.monitor.process_tree import TreeUse, process_tree
from hqde_fl.monitor.schema import Host, ResourceSample

BUSY = ("user", "nice", "system", "irq", "softirq", "steal")
"""The parts of a host's CPU time in which it works."""


@dataclass(frozen=True, slots=True)
class _Counters:
    """Counters that only grow, at one time (``mark``, of a monotonic clock)."""

    mark: float
    tree: TreeUse
    host_cpu: float
    received: int
    sent: int
    loopback: int


class Sampler:
    """Measures the resources of a process tree and of its host, when it is asked.

    To make one takes a while, as it imports psutil and looks for GPUs: that belongs into the thread
    that takes the samples.

    Parameters
    ----------
    root : int, optional
        Id of the process at the root of the tree; by default this one.
    directory : Path, optional
        Where free space on a disk is measured; not measured if not given.
    driver : int, optional
        Id of a process of the tree that is sampled by itself too, as ``driver-...``.
    """

    def __init__(
        self, root: int | None = None, directory: Path | None = None, driver: int | None = None
    ) -> None:
        import psutil

        self._psutil = psutil
        self.host = socket.gethostname()
        self._directory = directory
        self._tree = process_tree(root, driver)
        self._gpus = Gpus()
        self._spent = 0.0
        self._last = self._count()

    def add_root(self, root: int) -> None:
        """Measure another process and its descendants, too, from now on."""
        self._tree.add_root(root)

    def describe_host(self) -> Host:
        """Return the host's record."""
        memory = int(self._psutil.virtual_memory().total)
        return Host(time.time(), self.host, os.cpu_count() or 1, memory, self._gpus.names)

    def sample(self) -> ResourceSample:
        """Return what was used since the last call, or since this was made."""
        began = time.thread_time()
        before, now = self._last, self._count()
        self._last = now
        seconds = max(now.mark - before.mark, 1e-6)

        def rate(later: float | None, earlier: float | None) -> float | None:
            if later is None or earlier is None:
                return None
            return max(later - earlier, 0.0) / seconds

        tree, memory = now.tree, self._psutil.virtual_memory()
        values: dict[str, Any] = {
            "processes": tree.processes,
            "cpu": rate(tree.cpu_seconds, before.tree.cpu_seconds),
            "cpu_seconds": tree.cpu_seconds,
            "memory": tree.memory,
            "read": rate(tree.read, before.tree.read),
            "written": rate(tree.written, before.tree.written),
            "driver_cpu": rate(tree.driver_seconds, before.tree.driver_seconds),
            "driver_memory": tree.driver_memory,
            "host_cpu": rate(now.host_cpu, before.host_cpu),
            "host_memory": int(memory.total - memory.available),
            "load": _load(),
            "received": rate(now.received, before.received),
            "sent": rate(now.sent, before.sent),
            "loopback": rate(now.loopback, before.loopback),
            "disk_free": self._free(),
            "gpus": self._gpus.use(self._tree.pids),
        }
        self._spent += time.thread_time() - began
        return ResourceSample(
            time.time(), self.host, seconds, monitor_seconds=self._spent, **values
        )

    def close(self) -> None:
        """Let go of the GPUs."""
        self._gpus.close()

    def _count(self) -> _Counters:
        times = self._psutil.cpu_times()
        received = sent = loopback = 0
        for name, nic in self._psutil.net_io_counters(pernic=True).items():
            if name == "lo" or name.startswith(("lo0", "Loopback")):
                loopback += nic.bytes_recv
            else:
                received, sent = received + nic.bytes_recv, sent + nic.bytes_sent
        busy = sum(getattr(times, part, 0.0) for part in BUSY)
        tree = self._tree.use()
        return _Counters(time.monotonic(), tree, busy, received, sent, loopback)

    def _free(self) -> int | None:
        if self._directory is None:
            return None
        try:
            return shutil.disk_usage(self._directory).free
        except OSError:
            return None


def _load() -> float | None:
    with suppress(OSError, AttributeError):  # not on Windows
        return os.getloadavg()[0]
    return None
