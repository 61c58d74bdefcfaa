"""The base class of Grids with simulated clients: nodes, partitions and message ids."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from hqde_fl.protocol.flower_internals import TaskIdentity
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.engines.flower_internals import Run, set_message_id
from hqde_fl.simulations.engines.node_ids import node_ids

SERVER_NODE = 1


class LocalGrid(Grid):
    """A Grid with one simulated client for each partition, with the same node id in every run.

    Parameters
    ----------
    partitions : int
        Number of clients.
    seed : int
        Seed from which the node ids and the run's id derive.
    """

    def __init__(self, partitions: int, seed: int) -> None:
        self._run = Run.create_empty(run_id=Seeds(seed).integer("run"))
        self._nodes = node_ids(seed, partitions)
        self._partitions = {node: partition for partition, node in enumerate(self._nodes)}
        self._replies: dict[str, Message] = {}
        self._changed: set[int] = set()
        self._sent = 0
        TaskIdentity.run_id, TaskIdentity.task_id = self._run.run_id, 0
        TaskIdentity.node_id = SERVER_NODE

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a message to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Return all clients' node ids, in the order of their partitions."""
        return self._nodes

    def partition_of(self, node: int) -> int:
        """Return the partition id of a node."""
        return self._partitions[node]

    def changed_contexts(self) -> frozenset[int]:
        """Return the partition ids of clients that ran since the last call."""
        changed = frozenset(self._partitions[node] for node in self._changed)
        self._changed.clear()
        return changed

    @abstractmethod
    def contexts(self, partitions: Iterable[int]) -> dict[int, RecordDict]:
        """Return the states of those clients of ``partitions`` that have one, by partition id."""

    @abstractmethod
    def set_contexts(self, contexts: Mapping[int, RecordDict]) -> None:
        """Replace the states of clients by those with which an earlier run ended."""

    @abstractmethod
    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Start the messages' clients and return the messages' ids."""

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that have finished by now."""
        replies = [self._replies.pop(key, None) for key in message_ids]
        return [reply for reply in replies if reply is not None]

    def _number(self, message: Message) -> str:
        """Set the id of a message and return it."""
        self._sent += 1
        key = str(self._sent)
        set_message_id(message, key)
        return key
