"""A Ray actor that runs clients, one after the other, in a process of its own."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from flwr.app import Context, Metadata, RecordDict
from flwr.clientapp import ClientApp

from hqde_fl.protocol.flower_internals import TaskIdentity, make_message
from hqde_fl.simulations.engines.ray.packing import Packed, pack, unpack
from hqde_fl.simulations.experiment.import_path import follow

APPS_KEPT = 2
"""ClientApps that a worker keeps between runs, with whatever data they have loaded."""


@dataclass(frozen=True)
class Job:
    """One client to run.

    Parameters
    ----------
    node, partition, partitions : int
        Who it is.
    metadata : tuple
        (message id, message type, group id, created at, time to live) of its message.
    context : ObjectRef or None
        Its state from earlier rounds.
    """

    node: int
    partition: int
    partitions: int
    metadata: tuple[str, str, str, float, float]
    context: Any = None


@dataclass(frozen=True)
class Done:
    """What came of a job.

    Parameters
    ----------
    reply : Packed or None
        The reply's content; None if the client raised.
    error : str or None
        What it raised.
    stateful : bool
        Whether the client left something in its context.
    lost : bool
        Whether its state from earlier rounds could not be found.
    seconds : float
        How long it took.
    """

    reply: Packed | None
    error: str | None
    stateful: bool
    lost: bool
    seconds: float


class Worker:
    """Runs batches of clients of any app. One at a time; Ray queues the rest.

    Parameters
    ----------
    threads : int
        Torch threads, the CPUs that each client was given.
    memory_fraction : float or None
        The share of its GPU's memory that a client may take; Ray's fractions do not limit it.
    """

    def __init__(self, threads: int, memory_fraction: float | None) -> None:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # torch reads it when a client imports it
        if memory_fraction is not None:
            import torch

            torch.set_num_threads(threads)
            if torch.cuda.is_available():
                torch.cuda.set_per_process_memory_fraction(memory_fraction)
        self._apps: OrderedDict[str, tuple[ClientApp, dict[str, Any], int]] = OrderedDict()

    def ping(self) -> int:
        """Its process id, as soon as it is there."""
        return os.getpid()

    def run(self, key: str, app: Sequence[Any], content: Packed, jobs: Sequence[Job]) -> list[Any]:
        """Run clients on one content.

        Parameters
        ----------
        key : str
            Names the app; it is fetched once.
        app : Sequence[Any]
            A reference to the pickled (ClientApp, run config, run id), and the driver's
            ``import_path.current()``: where the modules are that unpickling it imports.
        content : Packed
            Of every client's message.
        jobs : Sequence[Job]
            The clients.

        Returns
        -------
        list
            The jobs' outcomes as one list, followed by the state of each client (or None): separate
            objects, so that the driver need not hold the states.
        """
        client_app, run_config, run_id = self._app(key, app)
        outcomes, states = [], []
        for job in jobs:
            outcome, state = self._one(client_app, run_config, run_id, content, job)
            outcomes.append(outcome)
            states.append(state)
        return [outcomes, *states]

    def _app(self, key: str, app: Sequence[Any]) -> tuple[ClientApp, dict[str, Any], int]:
        if key not in self._apps:
            follow(app[1])
            self._apps[key] = ray.get(app[0])
            while len(self._apps) > APPS_KEPT:
                self._apps.popitem(last=False)
        self._apps.move_to_end(key)
        return self._apps[key]

    def _one(
        self,
        client_app: ClientApp,
        run_config: dict[str, Any],
        run_id: int,
        content: Packed,
        job: Job,
    ) -> tuple[Done, Any]:
        started = time.perf_counter()
        state, lost = _state(job.context)
        context = Context(
            run_id=run_id,
            node_id=job.node,
            node_config={"partition-id": job.partition, "num-partitions": job.partitions},
            state=state,
            run_config=dict(run_config),
        )
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = run_id, 0, job.node
        message_id, kind, group, created_at, ttl = job.metadata
        metadata = Metadata(run_id, message_id, 1, job.node, "", group, created_at, ttl, kind)
        reply, error = None, None
        try:
            answer = client_app(make_message(metadata, content=unpack(content)), context)
            if answer.has_error():
                error = answer.error.reason or "no reason given"
            else:
                reply = pack(answer.content)
        except Exception as caught:
            error = f"{traceback.format_exc()}\n{type(caught).__name__}: {caught}"
            _free_gpu()
        stateful = len(context.state) > 0
        done = Done(reply, error, stateful, lost, time.perf_counter() - started)
        return done, pack(context.state) if stateful else None


def _state(reference: Any) -> tuple[RecordDict, bool]:
    """A client's state from earlier rounds, and whether there was one that is gone."""
    if reference is None:
        return RecordDict(), False
    try:
        return unpack(ray.get(reference)), False
    except ray.exceptions.RayError:
        return RecordDict(), True


def _free_gpu() -> None:
    """Give back what a client that ran out of GPU memory still holds in this process's cache."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
