"""A Ray actor that runs clients, one after the other, in a process of its own."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
from flwr.app import Context, Message, Metadata, RecordDict
from flwr.clientapp import ClientApp

from hqde_fl.clients.cache_location import CACHE_DIR
from hqde_fl.monitor.schema import Record
from hqde_fl.monitor.spans import CollectedRecords, recorded_by
from hqde_fl.protocol.flower_internals import TaskIdentity, make_message
from hqde_fl.protocol.reply_block import BlockRow, ReplyBlock, aligned_rows
from hqde_fl.simulations.engines.cohort_calls import OneClient, cohort_training
from hqde_fl.simulations.engines.monitored_call import monitored_call
from hqde_fl.simulations.engines.ray.host_load import host_load
from hqde_fl.simulations.engines.ray.packing import Packed, pack, unpack
from hqde_fl.simulations.engines.torch_settings import TorchSettings
from hqde_fl.simulations.experiment.import_path import adopt_path
from hqde_fl.simulations.experiment.own_modules import add_folders

APPS_KEPT = 2
"""Number of ClientApps that a worker keeps between runs, with the data they have loaded."""


@dataclass(frozen=True)
class App:
    """The things that all clients of a run share.

    Parameters
    ----------
    client_app : ClientApp
        The app of every client.
    run_config : dict[str, Any]
        The run's configuration, as the clients see it.
    run_id : int
        The run's id.
    cache_dir : str
        Folder of the clients' cache of model entries; empty for none.
    """

    client_app: ClientApp
    run_config: dict[str, Any]
    run_id: int
    cache_dir: str

    def context(self, job: Job, state: RecordDict) -> Context:
        """Return the context of a job's client, with its state."""
        node_config: dict[str, Any] = {
            "partition-id": job.partition,
            "num-partitions": job.partitions,
            CACHE_DIR: self.cache_dir,
        }
        return Context(self.run_id, job.node, node_config, state, dict(self.run_config))

    def message(self, job: Job, content: RecordDict) -> Message:
        """Return the message of a job with its content."""
        message_id, kind, group, created_at, ttl = job.metadata
        metadata = Metadata(self.run_id, message_id, 1, job.node, "", group, created_at, ttl, kind)
        return make_message(metadata, content=content)


@dataclass(frozen=True)
class Job:
    """A message to one client, without its content.

    Parameters
    ----------
    node, partition, partitions : int
        The client's node id and partition id, and the number of partitions.
    metadata : tuple
        (message id, message type, group id, created at, time to live) of the message.
    context : ObjectRef or None
        The client's packed state from earlier rounds; None if it has none.
    torch_settings : TorchSettings
        The driver's settings, which the worker has while it runs the client.
    monitored : bool
        True if the outcome is to contain spans and metrics for the driver's monitor.
    """

    node: int
    partition: int
    partitions: int
    metadata: tuple[str, str, str, float, float]
    context: Any = None
    torch_settings: TorchSettings = field(default_factory=TorchSettings)
    monitored: bool = False


@dataclass(frozen=True)
class Outcome:
    """The result of a job.

    Parameters
    ----------
    reply : Packed or BlockRow or None
        The content of the reply; None if the client raised an exception or replied with an error.
    error : str or None
        The traceback of the exception, or the reason of the error reply; None if there was none.
    stateful : bool
        True if the client's context holds a state after the job.
    lost : bool
        True if the client's state from earlier rounds could not be fetched.
    seconds : float
        Duration of the job.
    began : float
        Unix time at which the worker began with it; 0 if it never did.
    records : tuple[Record, ...]
        What is to be monitored of it.
    host_load : float
        Load of the worker's machine when the job began, in [0, 1].
    state : Packed or None
        The client's state, if it has one and it is not an object of its own.
    """

    reply: Packed | BlockRow | None
    error: str | None
    stateful: bool
    lost: bool
    seconds: float
    began: float = 0.0
    records: tuple[Record, ...] = ()
    host_load: float = 0.0
    state: Packed | None = None


@dataclass(frozen=True)
class CohortOutcome:
    """The results of jobs whose clients were trained together, as they travel to the driver.

    Parameters
    ----------
    block : ReplyBlock
        The replies that are rows of a block.
    rows : dict[int, int]
        Place of a job -> its row.
    others : dict[int, tuple]
        Place of a job -> the content of another reply and an error, one of which is None.
    began, seconds, records
        What ``Outcome`` says, for each job; no records if the jobs are not monitored.
    host_load : float
        Load of the worker's machine when the first job began, in [0, 1].
    """

    block: ReplyBlock
    rows: dict[int, int]
    others: dict[int, tuple[Packed | None, str | None]]
    began: Sequence[float]
    seconds: Sequence[float]
    records: Sequence[tuple[Record, ...]]
    host_load: float

    def outcomes(self) -> list[Outcome]:
        """Return the outcome of each job; its reply is a view of the block."""
        outcomes = []
        for place, (began, seconds) in enumerate(zip(self.began, self.seconds, strict=True)):
            reply: Packed | BlockRow | None
            reply, error = None, None
            if (row := self.rows.get(place)) is None:
                reply, error = self.others[place]
            else:
                reply = BlockRow(self.block, row)
            records = self.records[place] if self.records else ()
            outcomes.append(
                Outcome(reply, error, False, False, seconds, began, records, self.host_load)
            )
        return outcomes


class ClientWorker:
    """Runs batches of clients of any app, one batch at a time; Ray queues further calls.

    Parameters
    ----------
    threads : int
        Number of torch threads, >= 1.
    memory_fraction : float or None
        Fraction of the GPU's memory, in (0, 1], that a client may use; None for no limit.
    """

    def __init__(self, threads: int, memory_fraction: float | None) -> None:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # torch reads it when a client imports it
        if memory_fraction is not None:
            import torch

            torch.set_num_threads(threads)
            if torch.cuda.is_available():
                torch.cuda.set_per_process_memory_fraction(memory_fraction)
        self._apps: OrderedDict[str, App] = OrderedDict()
        self._memory = np.empty(0, dtype=np.uint8)

    def run(
        self,
        key: str,
        app: Sequence[Any],
        content: Packed,
        jobs: Sequence[Job],
        has_states: bool,
    ) -> list[Any] | CohortOutcome:
        """Run one message after the other, all with the same content.

        Parameters
        ----------
        key : str
            Name of the app, under which the worker caches it.
        app : Sequence[Any]
            A reference to the pickled ``App``, the driver's ``import_path.describe_path()``, by
            which unpickling finds the modules it imports, and the user's own folders.
        content : Packed
            Content of all the messages.
        jobs : Sequence[Job]
            The clients.
        has_states : bool
            True if clients of this app have states.

        Returns
        -------
        list or CohortOutcome
            The jobs' outcomes: those of clients that were trained together, or a list. With
            ``has_states`` that is an entry of a list, followed by the packed state of each client
            (or None): as objects of their own, states can stay in Ray's object store. Every object
            costs time, so that there are none without them.
        """
        jobs[0].torch_settings.adopt()  # as unpickling may make tensors
        loaded = self._app(key, app)
        if not has_states and (cohort := self._run_cohort(loaded, content, jobs)) is not None:
            return cohort
        outcomes, states = [], []
        for job in jobs:
            outcome, state = self._run_job(loaded, content, job)
            outcomes.append(outcome if has_states else replace(outcome, state=state))
            states.append(state)
        return [outcomes, *states] if has_states else outcomes

    def _app(self, key: str, app: Sequence[Any]) -> App:
        if key not in self._apps:
            adopt_path(app[1])
            add_folders(filter(os.path.isdir, app[2]))
            self._apps[key] = ray.get(app[0])
            while len(self._apps) > APPS_KEPT:
                self._apps.popitem(last=False)
        self._apps.move_to_end(key)
        return self._apps[key]

    def _run_cohort(self, app: App, content: Packed, jobs: Sequence[Job]) -> CohortOutcome | None:
        """Train all clients together; return None if they must be called one by one."""
        if any(job.context is not None for job in jobs):
            return None
        from hqde_fl.clients.cohort import Call  # not for stock apps: it takes a while

        load, settings = host_load(), jobs[0].torch_settings
        unpacked, contexts = unpack(content), [app.context(job, RecordDict()) for job in jobs]
        _identify(app, jobs[0])
        try:
            first = app.message(jobs[0], unpacked)
            training = cohort_training(app.client_app, first, contexts[0])
        except Exception:  # each client says so by itself
            return None
        if training is None:
            return None
        records = [CollectedRecords() for _ in jobs] if jobs[0].monitored else []

        def around(place: int) -> OneClient:
            recording = _recording(jobs[place], records[place]) if records else None
            return OneClient(jobs[place].node, settings, recording)

        calls = [
            Call(partial(app.message, job, unpacked), context)
            for job, context in zip(jobs, contexts, strict=True)
        ]
        memory = self._rows(len(jobs), training.row_bytes)
        replies = training.train(calls, around, memory)
        others: dict[int, tuple[Packed | None, str | None]] = {}
        for place, reply in replies.others.items():
            if isinstance(reply, str):
                others[place] = (None, reply)
            elif reply.has_error():
                others[place] = (None, reply.error.reason or "no reason given")
            else:
                others[place] = (pack(reply.content), None)
        collected = [tuple(record.records) for record in records]
        return CohortOutcome(
            replies.block, replies.rows, others, replies.began, replies.seconds, collected, load
        )

    def _rows(self, rows: int, stride: int) -> npt.NDArray[np.uint8]:
        """Return memory for some rows, which was used before where it is large enough.

        Ray has copied what an earlier call returned.
        """
        if self._memory.size < rows * stride:
            self._memory = aligned_rows(rows, stride).reshape(-1)
        return self._memory[: rows * stride].reshape(rows, stride)

    def _run_job(self, app: App, content: Packed, job: Job) -> tuple[Outcome, Any]:
        load, started, began = host_load(), time.perf_counter(), time.time()
        job.torch_settings.adopt()  # another client may have changed them
        state, lost = _state(job.context)
        context = app.context(job, state)
        _identify(app, job)
        reply, error = None, None
        collected = CollectedRecords()
        try:
            with _recording(job, collected) if job.monitored else nullcontext():
                answer = app.client_app(app.message(job, unpack(content)), context)
                if answer.has_error():
                    error = answer.error.reason or "no reason given"
                else:
                    reply = pack(answer.content)
        except Exception as caught:
            error = f"{traceback.format_exc()}\n{type(caught).__name__}: {caught}"
            _free_gpu()
        stateful = len(context.state) > 0
        seconds, records = time.perf_counter() - started, tuple(collected.records)
        outcome = Outcome(reply, error, stateful, lost, seconds, began, records, load)
        return outcome, pack(context.state) if stateful else None


def _identify(app: App, job: Job) -> None:
    """Tell Flower in whose name this process makes messages."""
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = app.run_id, 0, job.node


@contextmanager
def _recording(job: Job, collected: CollectedRecords) -> Iterator[None]:
    """Record what a job's client does in the block."""
    _, kind, group, *_ = job.metadata
    with recorded_by(collected), monitored_call(job.partition, kind, group):
        yield


def _state(reference: Any) -> tuple[RecordDict, bool]:
    """Return the client state to which a reference points, and True if it was lost.

    The state is empty if it was lost, or if ``reference`` is None.
    """
    if reference is None:
        return RecordDict(), False
    try:
        return unpack(ray.get(reference)), False
    except ray.exceptions.RayError:
        return RecordDict(), True


def _free_gpu() -> None:
    """Free the GPU memory that torch still caches, if this process has loaded torch."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
