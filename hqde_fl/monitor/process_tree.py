"""CPU time, memory and disk traffic of a process and all that it has started.

On Linux the files of ``/proc`` are read directly. A process is looked up only when it is new, so
that a reading costs little on a machine with many processes; one that has been a descendant stays
one when its parent ends. Elsewhere psutil is asked, for a list of processes that is renewed rarely.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

RENEWAL_SECONDS = 10.0
"""Time between two searches for new processes where a search is expensive."""


@dataclass(frozen=True, slots=True)
class ProcessUse:
    """Resources of one process.

    Parameters
    ----------
    cpu_seconds : float
        CPU time since its start.
    ended_seconds : float
        CPU time of its children that have ended, and of theirs.
    memory : int
        Bytes that it has resident, without shared pages.
    read, written : int or None
        Bytes that it read from and wrote to disks; None where that is not known.
    """

    cpu_seconds: float
    ended_seconds: float
    memory: int
    read: int | None
    written: int | None


@dataclass(frozen=True, slots=True)
class TreeUse:
    """Resources of a tree of processes.

    Parameters
    ----------
    processes : int
        Number of processes.
    cpu_seconds : float
        CPU time since the tree was first read.
    memory : int
        Bytes that the processes have resident, without shared pages.
    read, written : int or None
        Bytes read from and written to disks since the tree was first read; None where the system
        does not count them.
    driver_seconds, driver_memory : float or None, int or None
        CPU time since its start and memory of the one process that is looked at by itself.
    """

    processes: int
    cpu_seconds: float
    memory: int
    read: int | None
    written: int | None
    driver_seconds: float | None
    driver_memory: int | None


class ProcessTree(ABC):
    """A process with its descendants, or several of them.

    Parameters
    ----------
    root : int
        Id of the process at the root.
    driver : int, optional
        Id of a process of the tree that is looked at by itself.

    Attributes
    ----------
    pids : frozenset of int
        Ids of the processes when the tree was last read.
    """

    def __init__(self, root: int, driver: int | None = None) -> None:
        self._roots, self._driver = [root], driver
        self.pids: frozenset[int] = frozenset({root})
        self._cpu, self._read, self._written = _Counter(), _Counter(), _Counter()

    def add_root(self, root: int) -> None:
        """Measure another process and its descendants, too, from now on."""
        self._roots.append(root)
        for counter in (self._cpu, self._read, self._written):
            counter.skip()

    def use(self) -> TreeUse:
        """Return the resources of the tree at present."""
        uses = self._uses()
        self.pids = frozenset(uses)
        processes = uses.values()
        driver = None if self._driver is None else uses.get(self._driver)
        read, written = [use.read for use in processes], [use.written for use in processes]
        return TreeUse(
            processes=len(uses),
            cpu_seconds=self._cpu.total(
                sum(use.cpu_seconds + use.ended_seconds for use in processes)
            ),
            memory=sum(use.memory for use in processes),
            read=self._read.total_of(read),
            written=self._written.total_of(written),
            driver_seconds=None if driver is None else driver.cpu_seconds,
            driver_memory=None if driver is None else driver.memory,
        )

    @abstractmethod
    def _uses(self) -> dict[int, ProcessUse]:
        """Return process id -> resources, for all processes of the tree that are alive."""


class _Counter:
    """A sum over processes as a number that never falls, although processes end."""

    def __init__(self) -> None:
        self._base: float | None = None
        self._last = 0.0
        self._skips = False

    def skip(self) -> None:
        """Let the growth until the next call of ``total`` count as none."""
        self._skips = True

    def total(self, present: float) -> float:
        """Return the growth since the first call; ``present`` is the sum at present."""
        if self._base is None:
            self._base = present
        elif self._skips or present < self._last:  # a process came, or went, with its count
            self._base += present - self._last
        self._last, self._skips = present, False
        return present - self._base

    def total_of(self, counts: Sequence[int | None]) -> int | None:
        """Return the growth of a sum of counts; None if one of them is not known."""
        known = [count for count in counts if count is not None]
        return int(self.total(sum(known))) if len(known) == len(counts) else None


def process_tree(root: int | None = None, driver: int | None = None) -> ProcessTree:
    """Return the tree of a process, by default of this one; see ``ProcessTree``."""
    root = os.getpid() if root is None else root
    kind = LinuxProcessTree if os.path.exists("/proc/self/statm") else PortableProcessTree
    return kind(root, driver)


class LinuxProcessTree(ProcessTree):
    """A tree whose numbers are read from ``/proc``."""

    def __init__(self, root: int, driver: int | None = None) -> None:
        super().__init__(root, driver)
        self._known: set[str] = set()
        self._members = {str(root): root}
        self._tick, self._page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")

    def add_root(self, root: int) -> None:
        """Measure another process and its descendants, too, from now on."""
        super().add_root(root)
        self._members[str(root)] = root
        self._known = set()  # its descendants may be known as strangers

    def _uses(self) -> dict[int, ProcessUse]:
        present = {name for name in os.listdir("/proc") if name.isdigit()}
        self._members = {name: pid for name, pid in self._members.items() if name in present}
        self._adopt(present - self._known - self._members.keys())
        self._known = present
        uses = {}
        for name, pid in self._members.items():
            with suppress(OSError, ValueError, IndexError):  # it has ended meanwhile
                uses[pid] = self._read_process(name)
        return uses

    def _adopt(self, new: Iterable[str]) -> None:
        """Make those new processes members whose parent is one."""
        parents = {}
        for name in new:
            with suppress(OSError, ValueError, IndexError):
                parents[name] = _fields(name)[1].decode()
        while found := {n: int(n) for n, parent in parents.items() if parent in self._members}:
            self._members |= found
            parents = {name: p for name, p in parents.items() if name not in found}

    def _read_process(self, name: str) -> ProcessUse:
        user, system, ended_user, ended_system = map(int, _fields(name)[11:15])
        resident, shared = map(int, _content(f"/proc/{name}/statm").split()[1:3])
        read = written = None
        with suppress(OSError, ValueError, IndexError):  # not allowed in some containers
            lines = _content(f"/proc/{name}/io").split()
            read, written = int(lines[9]), int(lines[11])
        return ProcessUse(
            (user + system) / self._tick,
            (ended_user + ended_system) / self._tick,
            (resident - shared) * self._page,
            read,
            written,
        )


def _fields(name: str) -> list[bytes]:
    """Return the fields of ``/proc/PID/stat`` after the command, which may hold anything."""
    content = _content(f"/proc/{name}/stat")
    return content[content.rindex(b")") + 2 :].split()


def _content(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096)
    finally:
        os.close(descriptor)


class PortableProcessTree(ProcessTree):
    """A tree whose numbers psutil tells; new processes are found within ``RENEWAL_SECONDS``."""

    def __init__(self, root: int, driver: int | None = None) -> None:
        super().__init__(root, driver)
        import psutil

        self._psutil = psutil
        self._processes: list[psutil.Process] = []
        self._renewal = float("-inf")

    def _uses(self) -> dict[int, ProcessUse]:
        error = self._psutil.Error
        if time.monotonic() >= self._renewal:
            self._renewal = time.monotonic() + RENEWAL_SECONDS
            self._processes = []
            for pid in self._roots:
                with suppress(error):
                    root = self._psutil.Process(pid)
                    self._processes += [root, *root.children(recursive=True)]
        uses = {}
        for process in self._processes:
            with suppress(error), process.oneshot():
                times, disk = process.cpu_times(), None
                with suppress(error, AttributeError):  # macOS does not count it
                    disk = process.io_counters()
                uses[process.pid] = ProcessUse(
                    times.user + times.system,
                    times.children_user + times.children_system,
                    process.memory_info().rss,
                    None if disk is None else disk.read_bytes,
                    None if disk is None else disk.write_bytes,
                )
        return uses
