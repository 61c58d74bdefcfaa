"""The base class of Grids with simulated clients: nodes, partitions and message ids."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from hqde_fl.protocol.flower_internals import Run, TaskIdentity, set_message_id
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.engines.cache_folder import CacheFolder
from hqde_fl.simulations.engines.node_ids import node_partitions

SERVER_NODE = 1


class LocalGrid(Grid):
    """A Grid with one simulated client per partition, whose node ids depend only on the seed.

    Parameters
    ----------
    partitions : int
        Number of clients.
    seed : int
        Seed from which the node ids and the run's id derive.
    """

    def __init__(self, partitions: int, seed: int) -> None:
        self._run = Run.create_empty(run_id=Seeds(seed).integer("run"))
        self._partitions = node_partitions(seed, partitions)
        self._nodes = list(self._partitions)
        self._replies: dict[str, Message] = {}
        self._changed: set[int] = set()
        self._call_seconds: dict[int, float] = {}
        self._sent = 0
        self._cache = CacheFolder()
        TaskIdentity.run_id, TaskIdentity.task_id = self._run.run_id, 0
        TaskIdentity.node_id = SERVER_NODE

    def close(self) -> None:
        """Remove what clients have stored on the disk; they cannot run any more."""
        self._cache.close()

    def set_run(self, run: Run) -> None:
        """Set the run that the property ``run`` returns."""
        self._run = run

    @property
    def run(self) -> Run:
        """Flower's description of the run: an empty one until ``set_run`` is called."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a new message to the node ``dst_node_id``; it is not sent."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Return all clients' node ids, in the order of their partitions."""
        return self._nodes

    def partition_of(self, node: int) -> int:
        """Return the partition id of a node; raise ``KeyError`` if no client has this node id."""
        return self._partitions[node]

    def changed_contexts(self) -> frozenset[int]:
        """Return the partition ids of the clients that have run since this was called last."""
        changed = frozenset(self._partitions[node] for node in self._changed)
        self._changed.clear()
        return changed

    def call_seconds(self) -> Mapping[int, float]:
        """Return node -> seconds that its client's last call ran, without waiting for a worker."""
        return self._call_seconds

    @abstractmethod
    def contexts(self, partitions: Iterable[int]) -> dict[int, RecordDict]:
        """Return the context states of the clients of ``partitions``, by partition id.

        Clients without a state are left out.
        """

    @abstractmethod
    def set_contexts(self, contexts: Mapping[int, RecordDict]) -> None:
        """Replace the context states of the clients in ``contexts``, by partition id.

        They are the states with which an earlier run ended.
        """

    @abstractmethod
    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Start the clients to which the messages go, and return the messages' new ids in order."""

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return those replies to these messages that are there by now, each of them only once."""
        replies = [self._replies.pop(key, None) for key in message_ids]
        return [reply for reply in replies if reply is not None]

    def _number(self, message: Message) -> str:
        """Give a message the next number as its id, and return the id."""
        self._sent += 1
        key = str(self._sent)
        set_message_id(message, key)
        return key
