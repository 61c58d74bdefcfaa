"""Count the tasks that run outside this process: clients' calls, shards and nodes of a tree.

Counting costs a dictionary's entry for each kind of task and host; who wants the counts takes them.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass(frozen=True)
class TaskCount:
    """The tasks of one kind that ran on one host.

    Parameters
    ----------
    kind : str
        What they did, for instance ``"train"`` or ``"tree node"``.
    host : str
        Id of the cluster's node on which they ran; empty if it is not known.
    tasks : int
        Tasks that ran to their end.
    seconds : float
        Their seconds, added up.
    bytes : int
        Bytes that they were given, or that clients replied with.
    reruns : int
        Tasks that were run again because their worker died.
    """

    kind: str
    host: str
    tasks: int = 0
    seconds: float = 0.0
    bytes: int = 0
    reruns: int = 0

    def __add__(self, other: TaskCount) -> TaskCount:
        return TaskCount(
            self.kind,
            self.host,
            self.tasks + other.tasks,
            self.seconds + other.seconds,
            self.bytes + other.bytes,
            self.reruns + other.reruns,
        )


class TaskCounters:
    """Adds tasks up by kind and host, from any thread, until they are taken."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], TaskCount] = {}
        self._lock = threading.Lock()

    def add(self, count: TaskCount) -> None:
        """Add tasks to those of the same kind and host."""
        key = count.kind, count.host
        with self._lock:
            before = self._counts.get(key)
            self._counts[key] = count if before is None else before + count

    def take(self) -> list[TaskCount]:
        """Return what was counted since the last call, by kind and host, and begin again."""
        with self._lock:
            counts, self._counts = self._counts, {}
        return [counts[key] for key in sorted(counts)]


TASKS = TaskCounters()
"""The tasks that this process had others run."""
