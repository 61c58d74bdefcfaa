"""One message of the root to an edge on real nodes, as a run on the edge's own SuperLink.

A ClientApp cannot reach the Grid of another SuperLink. So the edge's ClientApp writes the message
and its state into a file, starts a run on its SuperLink, and reads what the run's ServerApp has
written: the reply and the next state. Both are on the same host.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, final

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from hqde_fl.clients.initial_state import initial_roles
from hqde_fl.errors import BoundError, RunError
from hqde_fl.protocol.flower_internals import set_message_id
from hqde_fl.simulations.attacks.attack_grid import AttackGrid
from hqde_fl.simulations.checkpoint import container
from hqde_fl.simulations.checkpoint.store import TREE
from hqde_fl.simulations.edges.surroundings import AttackedGroups
from hqde_fl.simulations.engines.deployment.guarded_grid import guard
from hqde_fl.simulations.engines.ray.packing import pack, unpack
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.strategies.edges.edge import Edge, Exchange
from hqde_fl.strategies.state import ServerState

JOB = "edge-job"
"""Key of the config of a run on an edge's SuperLink: the file with the job."""
NODE_SECONDS = 60.0
"""Longest time that an edge waits for the first of its nodes."""
_POLL = 0.2


@final
@dataclass(frozen=True, eq=False)
class EdgeJob:
    """A message to an edge, and the state with which the edge answers it.

    Parameters
    ----------
    edge : int
        The edge.
    kind : str
        The type of the message.
    content : RecordDict
        Its content, with the model in full.
    state : ServerState or None
        The state of the edge's strategy; None before its first round.
    attack : Mapping[str, Any]
        The memory of attackers among its clients.
    """

    edge: int
    kind: str
    content: RecordDict
    state: ServerState | None = None
    attack: Mapping[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write the job to a file."""
        _write(path, {**self.__dict__, "content": pack(self.content)})

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a job from a file."""
        table = container.read(path, TREE)
        return cls(**{**table, "content": unpack(table["content"])})


@final
@dataclass(frozen=True, eq=False)
class EdgeResult:
    """The result of a job.

    Parameters
    ----------
    content : RecordDict or None
        The content of the edge's reply; None for an error.
    error : str
        The reason of an error.
    state : ServerState or None
        The next state of the edge's strategy.
    attack : Mapping[str, Any]
        The next memory of attackers among its clients.
    sent : tuple[int, int]
        Bytes to and from its clients.
    """

    content: RecordDict | None
    error: str
    state: ServerState | None
    attack: Mapping[str, Any]
    sent: tuple[int, int]

    def write(self, path: Path) -> None:
        """Write the result to a file."""
        content = None if self.content is None else pack(self.content)
        _write(path, {**self.__dict__, "content": content})

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a result from a file."""
        table = container.read(path, TREE)
        content = table["content"]
        return cls(**{**table, "content": None if content is None else unpack(content)})


def result_file(job: Path) -> Path:
    """Return the file with the result of the job in a file."""
    return job.with_name(f"{job.stem}-result{job.suffix}")


def serve_job(grid: Grid, experiment: Experiment, path: Path) -> None:
    """Do the job in a file on the grid of the edge's own nodes, and write its result.

    Raises
    ------
    RunError
        If none of the edge's nodes connects within a minute.
    """
    job, parts = EdgeJob.read(path), experiment.parts
    assert parts.edges is not None
    roles = initial_roles(experiment.load_task())
    edge = Edge(job.edge, parts.edges.settings, experiment.seed, roles)
    edge.strategy.state = None if job.state is None else job.state.without_holdings()
    nodes = AttackedGroups(parts)(parts.faults.supervise(guard(grid)), edge)
    if isinstance(nodes, AttackGrid):
        nodes.memory = job.attack
    message = Message(job.content, 1, job.kind)
    set_message_id(message, path.name)
    _wait_for_nodes(nodes)
    exchange = edge.train if job.kind == MessageType.TRAIN else edge.evaluate
    reply = _run(exchange(message, nodes), nodes, edge)
    memory = nodes.memory if isinstance(nodes, AttackGrid) else {}
    EdgeResult(
        reply.content if isinstance(reply, Message) and reply.has_content() else None,
        reply if isinstance(reply, str) else str(reply.error.reason) if reply.has_error() else "",
        edge.strategy.state,
        memory,
        (
            sum(record.bytes_down for record in edge.records),
            sum(record.bytes_up for record in edge.records),
        ),
    ).write(result_file(path))


def _run(exchange: Exchange, grid: Grid, edge: Edge) -> Message | str:
    """Run an edge's rounds on a grid; return its reply, or why it has none."""
    limit = edge.settings.communication.deadline
    try:
        messages = next(exchange)
        while True:
            replies = list(grid.send_and_receive(messages, timeout=limit)) if messages else []
            messages = exchange.send(replies)
    except StopIteration as stop:
        reply: Message = stop.value
        return reply
    except BoundError as error:  # the group is too small for its rule
        return f"edge {edge.number}: {error}"


def _wait_for_nodes(grid: Grid) -> None:
    until = time.monotonic() + NODE_SECONDS
    while not list(grid.get_node_ids()):
        if time.monotonic() > until:
            raise RunError(f"no node of this edge connected within {NODE_SECONDS:g} s")
        time.sleep(_POLL)


def _write(path: Path, table: Mapping[str, Any]) -> None:
    container.write(path, TREE, dict(table))
