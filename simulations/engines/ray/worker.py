"""A Ray actor that runs clients, one after the other, in a process of its own."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from flwr.app import Context, Metadata, RecordDict
from flwr.clientapp import ClientApp

from hqde_fl.clients.cache_location import CACHE_DIR
from hqde_fl.monitor.schema import Record
from hqde_fl.monitor.spans import CollectedRecords, recorded_by
from hqde_fl.protocol.flower_internals import TaskIdentity, make_message
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
    reply : Packed or None
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

    reply: Packed | None
    error: str | None
    stateful: bool
    lost: bool
    seconds: float
    began: float = 0.0
    records: tuple[Record, ...] = ()
    host_load: float = 0.0
    state: Packed | None = None


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

    def ping(self) -> int:
        """Return the id of this process; Ray answers once the worker has started."""
        return os.getpid()

    def run(
        self,
        key: str,
        app: Sequence[Any],
        content: Packed,
        jobs: Sequence[Job],
        has_states: bool,
    ) -> list[Any]:
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
        list
            The list of the jobs' outcomes. With ``has_states`` it is an entry of a list, followed
            by the packed state of each client (or None): as objects of their own, states can stay
            in Ray's object store. Every object costs time, so that there are none without them.
        """
        jobs[0].torch_settings.adopt()  # as unpickling may make tensors
        loaded = self._app(key, app)
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

    def _run_job(self, app: App, content: Packed, job: Job) -> tuple[Outcome, Any]:
        load, started, began = host_load(), time.perf_counter(), time.time()
        job.torch_settings.adopt()  # another client may have changed them
        state, lost = _state(job.context)
        context = Context(
            run_id=app.run_id,
            node_id=job.node,
            node_config={
                "partition-id": job.partition,
                "num-partitions": job.partitions,
                CACHE_DIR: app.cache_dir,
            },
            state=state,
            run_config=dict(app.run_config),
        )
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = app.run_id, 0, job.node
        message_id, kind, group, created_at, ttl = job.metadata
        metadata = Metadata(app.run_id, message_id, 1, job.node, "", group, created_at, ttl, kind)
        reply, error = None, None
        collected = CollectedRecords()
        try:
            with (
                recorded_by(collected) if job.monitored else nullcontext(),
                monitored_call(job.partition, kind, group),
            ):
                answer = app.client_app(make_message(metadata, content=unpack(content)), context)
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
