"""Clients in batches to workers, and their outcomes back as they finish.

A batch is as large as what its clients were measured to cost allows: many tiny clients share one
call, a heavy one has a call of its own. When a worker dies, the clients of its batch run again,
each alone, so that only the one that kills its worker is held to account; from then on that client
always runs alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from hqde_fl.simulations.engines.ray.packing import Packed
from hqde_fl.simulations.engines.ray.pool import Pool, Slot
from hqde_fl.simulations.engines.ray.resources import Share
from hqde_fl.simulations.engines.ray.worker import Done, Job

BATCH_SECONDS = 0.1
"""A batch should take about so long."""
BATCH_BYTES = 32 << 20
"""And its replies should not be larger than this together."""


@dataclass(frozen=True, eq=False)
class Task:
    """One client to run.

    Parameters
    ----------
    key : str
        Names it among the others: the message's id.
    job : Job
        What the worker is told.
    content : ObjectRef
        The packed content, shared by all that have the same.
    share : Share
        What it is given.
    """

    key: str
    job: Job
    content: Any
    share: Share


@dataclass(frozen=True, eq=False)
class Batch:
    """Tasks that one worker runs in one call."""

    slot: Slot
    tasks: Sequence[Task]
    states: Sequence[Any]


@dataclass
class Counters:
    """What happened underneath the rounds.

    Parameters
    ----------
    deaths : int
        Workers that died.
    reruns : int
        Clients that were run again because another one's worker died under them.
    lost_states : int
        Clients whose state was gone when they needed it.
    cancelled : int
        Clients that were cancelled at the deadline.
    """

    deaths: int = 0
    reruns: int = 0
    lost_states: int = 0
    cancelled: int = 0


@dataclass(eq=False)
class Dispatcher:
    """Runs tasks on a pool.

    Parameters
    ----------
    pool : Pool
        The workers.
    app_key : str
        Names the app to the workers.
    app : Sequence[Any]
        A reference to the app, its run config and run id; and the driver's import path.
    states : dict[int, ObjectRef]
        Node -> what its client remembers.
    changed : set[int]
        Nodes are added to it as their clients have run.
    """

    pool: Pool
    app_key: str
    app: Sequence[Any]
    states: dict[int, Any] = field(default_factory=dict)
    changed: set[int] = field(default_factory=set)
    counters: Counters = field(default_factory=Counters)
    _queues: dict[tuple[Share, Any], deque[Task]] = field(default_factory=dict)
    _alone: deque[Task] = field(default_factory=deque)
    _running: dict[Any, Batch] = field(default_factory=dict)
    _suspects: set[int] = field(default_factory=set)
    _seconds: float = 0.0
    _bytes: float = 0.0

    def submit(self, tasks: Iterable[Task]) -> None:
        """Queue tasks."""
        for task in tasks:
            if task.job.node in self._suspects:
                self._alone.append(task)
            else:
                self._queues.setdefault((task.share, task.content), deque()).append(task)

    @property
    def unfinished(self) -> int:
        """Tasks queued or running."""
        queued = len(self._alone) + sum(map(len, self._queues.values()))
        return queued + sum(len(batch.tasks) for batch in self._running.values())

    @property
    def waiting(self) -> bool:
        """Whether anything is under way that ``step`` could wait for."""
        return bool(self._running) or any(slot.boot is not None for slot in self.pool.slots)

    def step(self, timeout: float | None) -> list[tuple[Task, Done]]:
        """Start what can be started, wait for something to finish, and return what has.

        Parameters
        ----------
        timeout : float or None
            Seconds to wait at most.
        """
        self._grow()
        self._assign()
        boots = {slot.boot: slot for slot in self.pool.slots if slot.boot is not None}
        waiting = [*self._running, *boots]
        if not waiting:
            self.pool.refresh()
            return []
        ready, _ = ray.wait(waiting, num_returns=1, timeout=timeout, fetch_local=False)
        if ready:
            ready, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0, fetch_local=False)
        outcomes: list[tuple[Task, Done]] = []
        for reference in ready:
            if reference in boots:
                self.pool.booted(boots[reference])
            else:
                outcomes += self._collect(reference, self._running.pop(reference))
        self._assign()  # before the caller takes its time over the outcomes
        return outcomes

    def cancel(self) -> None:
        """Drop what is queued and end the workers that are busy."""
        self.counters.cancelled += self.unfinished
        self._queues.clear()
        self._alone.clear()
        for batch in self._running.values():
            self.pool.bury(batch.slot)
        self._running.clear()

    def _grow(self) -> None:
        wanted: dict[Share, int] = {}
        for (share, _), queue in self._queues.items():
            wanted[share] = wanted.get(share, 0) + len(queue)
        for task in self._alone:
            wanted[task.share] = wanted.get(task.share, 0) + 1
        for batch in self._running.values():
            wanted[batch.slot.share] = wanted.get(batch.slot.share, 0) + 1
        if any(n > sum(s.share == share for s in self.pool.slots) for share, n in wanted.items()):
            self.pool.grow(wanted)

    def _assign(self) -> None:
        for slot in [s for s in self.pool.slots if s.boot is None and not s.busy]:
            tasks = self._next(slot.share)
            if tasks:
                self._start(slot, tasks)

    def _next(self, share: Share) -> list[Task]:
        """The next batch for a worker with this share."""
        workers = sum(slot.share == share for slot in self.pool.slots)
        for (wanted, content), queue in self._queues.items():
            if wanted == share:
                batch = [queue.popleft() for _ in range(self._size(len(queue), workers))]
                if not queue:
                    del self._queues[wanted, content]
                return batch
        for task in self._alone:
            if task.share == share:
                self._alone.remove(task)
                return [task]
        return []

    def _size(self, queued: int, workers: int) -> int:
        """One until a client has been measured; never so many that a worker runs dry."""
        if self._seconds == 0:
            return 1
        size = min(BATCH_SECONDS / self._seconds, BATCH_BYTES / max(self._bytes, 1.0))
        return max(1, min(int(size), -(-queued // (2 * workers))))

    def _start(self, slot: Slot, tasks: Sequence[Task]) -> None:
        slot.busy = True
        jobs = [task.job for task in tasks]
        run = slot.actor.run.options(num_returns=1 + len(tasks))
        outcomes, *states = run.remote(self.app_key, self.app, tasks[0].content, jobs)
        self._running[outcomes] = Batch(slot, tasks, states)

    def _collect(self, reference: Any, batch: Batch) -> list[tuple[Task, Done]]:
        try:
            outcomes: list[Done] = ray.get(reference)
        except RayTaskError as error:  # not the client: the worker could not even begin
            batch.slot.busy = False
            return [(task, _failed(f"the worker failed: {error.cause}")) for task in batch.tasks]
        except RayError as error:
            return self._died(batch, str(error).strip().splitlines()[0])
        batch.slot.busy = False
        for task, done, state in zip(batch.tasks, outcomes, batch.states, strict=True):
            self.changed.add(task.job.node)
            if done.error is None:  # a client that raised keeps the state it had
                self.states.pop(task.job.node, None)
                if done.stateful:
                    self.states[task.job.node] = state
            self.counters.lost_states += done.lost
        self._measure(outcomes)
        return list(zip(batch.tasks, outcomes, strict=True))

    def _died(self, batch: Batch, reason: str) -> list[tuple[Task, Done]]:
        self.counters.deaths += 1
        self.pool.bury(batch.slot)
        self.pool.refresh()
        if len(batch.tasks) > 1:
            self.counters.reruns += len(batch.tasks)
            self._alone.extend(batch.tasks)
            return []
        self._suspects.add(batch.tasks[0].job.node)
        return [(batch.tasks[0], _failed(f"the client's process died: {reason}"))]

    def _measure(self, outcomes: Sequence[Done]) -> None:
        """Keep a running mean of what a client costs."""
        seconds = sum(done.seconds for done in outcomes) / len(outcomes)
        size = sum(_bytes(done.reply) for done in outcomes) / len(outcomes)
        keep = 0.5 if self._seconds else 0.0
        self._seconds = keep * self._seconds + (1 - keep) * max(seconds, 1e-5)
        self._bytes = keep * self._bytes + (1 - keep) * size


def _failed(reason: str) -> Done:
    return Done(reply=None, error=reason, stateful=False, lost=False, seconds=0.0)


def _bytes(packed: Packed | None) -> int:
    arrays = [items for _, kind, items in packed or () if kind == "arrays"]
    return sum(memoryview(data).nbytes for items in arrays for *_, data in items)
