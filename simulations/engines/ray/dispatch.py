"""Send clients to workers in batches, and collect their outcomes as they finish.

The size of a batch follows from the measured cost of a client: many small clients share one Ray
call, a large one has its own. When a worker dies, the clients of its batch run again, each alone.
Only a client under which two workers die in a row, each while it runs alone, gets an error; from
then on it always runs alone, and one more death is enough. A worker that goes with its machine
counts against nobody.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from logging import WARNING
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from hqde_fl.monitor.task_counters import TASKS, TaskCount
from hqde_fl.protocol.flower_internals import log
from hqde_fl.protocol.reply_block import BlockRow
from hqde_fl.simulations.engines.ray.packing import Packed, pack, unpack
from hqde_fl.simulations.engines.ray.pool import Pool, Slot, living_nodes
from hqde_fl.simulations.engines.ray.resources import Allocation
from hqde_fl.simulations.engines.ray.worker import CohortOutcome, Job, Outcome

BATCH_SECONDS = 0.1
"""Intended duration of a batch."""
MIN_BATCH_SECONDS = 0.03
"""Duration below which a batch is not made for the workers to finish at one time: a call costs a
few milliseconds of all processes together."""
MIN_SHARE = 8
"""A worker's part of a round's clients below which it gets smaller batches all the same: a client
that hangs or dies stops or repeats all of its batch."""
BATCH_BYTES = 32 << 20
"""Intended size of all replies of a batch together."""
PATIENCE = 30.0
"""Seconds without any running batch after which a warning says what the workers wait for."""
KILLS = 2
"""Workers that must have died under a client alone, on machines that live, until it is at fault."""


@dataclass(frozen=True, eq=False)
class ClientCall:
    """A message to one client, to be run by a worker.

    Parameters
    ----------
    key : str
        The id of the message.
    job : Job
        The client and the metadata of the message.
    content : ObjectRef
        The packed content; one object for all messages with the same content.
    allocation : Allocation
        The resources that the client gets.
    sent : float
        Unix time of the message.
    """

    key: str
    job: Job
    content: Any
    allocation: Allocation
    sent: float = 0.0


@dataclass(frozen=True, eq=False)
class CallBatch:
    """Client calls that one worker runs in one Ray call, and references to the new states.

    ``states`` is empty if they are in the outcomes.
    """

    slot: Slot
    calls: Sequence[ClientCall]
    states: Sequence[Any]


@dataclass
class Counters:
    """Numbers of incidents during a run.

    Parameters
    ----------
    deaths : int
        Workers that died.
    reruns : int
        Clients that ran again because their worker died, in a batch or for the first time alone.
    lost_states : int
        Clients whose state could not be fetched when they were to run.
    cancelled : int
        Clients that were queued or running when a round was cancelled, as at its deadline.
    """

    deaths: int = 0
    reruns: int = 0
    lost_states: int = 0
    cancelled: int = 0


@dataclass(eq=False)
class Dispatcher:
    """Runs client calls on the workers of a pool.

    Parameters
    ----------
    pool : Pool
        The workers.
    app_key : str
        The name by which workers cache the app.
    app : Sequence[Any]
        A reference to the ``worker.App``, and the driver's import path.
    states : dict[int, ObjectRef]
        Node id -> packed state of its client. The dispatcher replaces the entry of a client that
        has run without an error, and removes it if the client has no state any more.
    changed : set[int]
        Ids of the nodes whose clients have run; the dispatcher adds to it.
    counters : Counters
        Incidents; the dispatcher counts them.
    """

    pool: Pool
    app_key: str
    app: Sequence[Any]
    states: dict[int, Any] = field(default_factory=dict)
    changed: set[int] = field(default_factory=set)
    counters: Counters = field(default_factory=Counters)
    _queues: dict[tuple[Allocation, Any], deque[ClientCall]] = field(default_factory=dict)
    _alone: deque[ClientCall] = field(default_factory=deque)
    _running: dict[Any, CallBatch] = field(default_factory=dict)
    _kills: Counter[int] = field(default_factory=Counter)
    _told: bool = False
    _seconds: float = 0.0
    _bytes: float = 0.0
    _submitted: int = 0

    def submit(self, calls: Iterable[ClientCall]) -> None:
        """Queue client calls, which ``step`` will run."""
        calls = list(calls)
        self._submitted = len(calls)
        for call in calls:
            if self._kills[call.job.node] >= KILLS:
                self._alone.append(call)
            else:
                self._queues.setdefault((call.allocation, call.content), deque()).append(call)

    @property
    def unfinished(self) -> int:
        """The number of calls that are queued or running."""
        queued = len(self._alone) + sum(map(len, self._queues.values()))
        return queued + sum(len(batch.calls) for batch in self._running.values())

    @property
    def waiting(self) -> bool:
        """True if a batch is running or a worker starting, so that ``step`` can wait for it."""
        return bool(self._running) or any(slot.boot is not None for slot in self.pool.slots)

    def step(self, timeout: float | None) -> list[tuple[ClientCall, Outcome]]:
        """Start workers and batches, wait until one finishes, and return the finished calls.

        Each call comes with its outcome. The list is empty after the timeout, if only the start of
        a worker has finished, or if there is nothing to wait for.

        Parameters
        ----------
        timeout : float or None
            Maximum number of seconds to wait; None for no limit.
        """
        self._grow()
        self._assign()
        boots = {slot.boot: slot for slot in self.pool.slots if slot.boot is not None}
        waiting = [*self._running, *boots]
        if not waiting:
            self.pool.refresh()
            self._grow()
            if not self.waiting:
                self._say_why()
            return []
        if not self._running and not self._told:  # others may hold what the cluster has
            timeout = PATIENCE if timeout is None else min(timeout, PATIENCE)
        ready, _ = ray.wait(waiting, num_returns=1, timeout=timeout, fetch_local=False)
        if not ready and timeout == PATIENCE:
            self._say_why()
        elif ready:
            ready, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0, fetch_local=False)
        outcomes: list[tuple[ClientCall, Outcome]] = []
        for reference in ready:
            if reference in boots:
                self.pool.mark_started(boots[reference])
            else:
                outcomes += self._collect(reference, self._running.pop(reference))
        self._assign()  # before the caller takes its time over the outcomes
        return outcomes

    def cancel(self) -> None:
        """Drop the queued calls, end the busy workers, and count all their calls as cancelled."""
        self.counters.cancelled += self.unfinished
        self._queues.clear()
        self._alone.clear()
        for batch in self._running.values():
            self.pool.end_worker(batch.slot)
        self._running.clear()

    def _grow(self) -> None:
        """Start workers, if they fit, until there is one for each queued call and running batch."""
        wanted: dict[Allocation, int] = {}
        for (allocation, _), queue in self._queues.items():
            wanted[allocation] = wanted.get(allocation, 0) + len(queue)
        for call in self._alone:
            wanted[call.allocation] = wanted.get(call.allocation, 0) + 1
        for batch in self._running.values():
            wanted[batch.slot.allocation] = wanted.get(batch.slot.allocation, 0) + 1
        if any(count > self.pool.count(allocation) for allocation, count in wanted.items()):
            self.pool.grow(wanted)

    def _say_why(self) -> None:
        """Warn that clients wait for a worker, with what one asks for and what there is.

        It is said once in a run: a slow machine may let every round wait.
        """
        calls = [*self._alone, *(call for queue in self._queues.values() for call in queue)]
        if calls and not self._told:
            self._told = True
            room = self.pool.room(calls[0].allocation)
            log(WARNING, "%d clients wait for a worker: %s", len(calls), room)

    def _assign(self) -> None:
        """Start a batch on every idle worker for whose allocation calls are queued.

        Those on the machines that were least busy come first.
        """
        idle = [slot for slot in self.pool.slots if slot.boot is None and not slot.busy]
        for slot in sorted(idle, key=lambda slot: slot.load):
            if calls := self._next_batch(slot.allocation):
                self._start(slot, calls)

    def _next_batch(self, allocation: Allocation) -> list[ClientCall]:
        """Take the next calls for a worker with this allocation out of the queues; [] if none."""
        workers = self.pool.count(allocation)
        for (wanted, content), queue in self._queues.items():
            if wanted == allocation:
                batch = [queue.popleft() for _ in range(self._batch_size(len(queue), workers))]
                if not queue:
                    del self._queues[wanted, content]
                return batch
        for call in self._alone:
            if call.allocation == allocation:
                self._alone.remove(call)
                return [call]
        return []

    def _batch_size(self, queued: int, workers: int) -> int:
        """Return the number of calls in the next batch, >= 1.

        It follows from the mean seconds and bytes of a client (1 until these have been measured),
        and is at most half of a worker's part of the ``queued`` calls, unless that is too little
        work for a call.
        """
        if self._seconds == 0:
            return 1
        size = min(BATCH_SECONDS / self._seconds, BATCH_BYTES / max(self._bytes, 1.0))
        share = -(-queued // workers)
        # at most half of a worker's part of the queue, so that all workers finish at about one time
        part = -(-share // 2)
        if self._submitted >= MIN_SHARE * workers:
            part = max(part, min(share, round(MIN_BATCH_SECONDS / self._seconds)))
        return max(1, min(int(size), part))

    def _start(self, slot: Slot, calls: Sequence[ClientCall]) -> None:
        slot.busy = True
        jobs, has_states = [call.job for call in calls], bool(self.states)
        run = slot.actor.run.options(num_returns=1 + len(calls) * has_states)
        returned = run.remote(self.app_key, self.app, calls[0].content, jobs, has_states)
        outcomes, *states = returned if has_states else [returned]
        self._running[outcomes] = CallBatch(slot, calls, states)

    def _collect(self, reference: Any, batch: CallBatch) -> list[tuple[ClientCall, Outcome]]:
        """Return the calls of a finished batch with their outcomes, and keep the new states.

        If the worker died, several calls are queued again and the list is empty; a single call is
        returned with an error.
        """
        try:
            returned: list[Outcome] | CohortOutcome = ray.get(reference)
        except RayTaskError as error:  # not the client: the worker could not even begin
            batch.slot.busy = False
            return [(call, _failed(f"the worker failed: {error.cause}")) for call in batch.calls]
        except RayError as error:
            return self._handle_death(batch, str(error).strip().splitlines()[0])
        batch.slot.busy = False
        if self._kills and self._kills[batch.calls[0].job.node] < KILLS:
            del self._kills[batch.calls[0].job.node]
        outcomes = returned.outcomes() if isinstance(returned, CohortOutcome) else returned
        for place, (call, outcome) in enumerate(zip(batch.calls, outcomes, strict=True)):
            self.changed.add(call.job.node)
            if outcome.error is None:  # a client that raised keeps the state it had
                self.states.pop(call.job.node, None)
                if outcome.stateful:
                    if not batch.states:  # the first states of this app came with the outcomes
                        self.states[call.job.node] = ray.put(pack(unpack(outcome.state or ())))
                    else:
                        self.states[call.job.node] = batch.states[place]
            self.counters.lost_states += outcome.lost
        self._measure(outcomes)
        kinds = [call.job.metadata[1].partition(".")[0] for call in batch.calls]
        for kind in dict.fromkeys(kinds):
            own = [one for one, its in zip(outcomes, kinds, strict=True) if its == kind]
            seconds, size = sum(one.seconds for one in own), sum(_bytes(one.reply) for one in own)
            TASKS.add(TaskCount(kind, batch.slot.host, len(own), seconds, size))
        batch.slot.load = outcomes[-1].host_load
        return list(zip(batch.calls, outcomes, strict=True))

    def _handle_death(self, batch: CallBatch, reason: str) -> list[tuple[ClientCall, Outcome]]:
        """Queue the calls of a batch whose worker died again, each alone, and return [].

        If the batch was one call of a client under which ``KILLS`` workers have died so, return it
        with an error.
        """
        self.counters.deaths += 1
        self.pool.end_worker(batch.slot)
        self.pool.refresh()
        call, node = batch.calls[0], batch.calls[0].job.node
        if len(batch.calls) == 1 and batch.slot.host in living_nodes():
            self._kills[node] += 1
            if self._kills[node] >= KILLS:
                return [(call, _failed(f"the client's process died: {reason}"))]
        self.counters.reruns += len(batch.calls)
        kind = call.job.metadata[1].partition(".")[0]
        TASKS.add(TaskCount(kind, batch.slot.host, reruns=len(batch.calls)))
        self._alone.extend(batch.calls)
        return []

    def _measure(self, outcomes: Sequence[Outcome]) -> None:
        """Update the running means of a client's seconds and reply bytes by those of a batch."""
        seconds = sum(outcome.seconds for outcome in outcomes) / len(outcomes)
        size = sum(_bytes(outcome.reply) for outcome in outcomes) / len(outcomes)
        keep = 0.5 if self._seconds else 0.0
        self._seconds = keep * self._seconds + (1 - keep) * max(seconds, 1e-5)
        self._bytes = keep * self._bytes + (1 - keep) * size


def _failed(reason: str) -> Outcome:
    return Outcome(reply=None, error=reason, stateful=False, lost=False, seconds=0.0)


def _bytes(packed: Packed | BlockRow | None) -> int:
    if isinstance(packed, BlockRow):
        return packed.block.layout.stride
    arrays = [items for _, kind, items in packed or () if kind == "arrays"]
    return sum(memoryview(data).nbytes for items in arrays for *_, data in items)
