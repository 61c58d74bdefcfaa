"""Protocols of Grids that can do more than a Flower Grid has to."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Protocol, runtime_checkable

from flwr.app import RecordDict


@runtime_checkable
class KnowsPartitions(Protocol):
    """A Grid that knows the partition of every node; its nodes are connected all the time."""

    def partition_of(self, node: int) -> int:
        """Return the partition id of a node."""
        ...


@runtime_checkable
class KeepsContexts(Protocol):
    """A Grid that keeps the state of its clients, so that a checkpoint can hold it."""

    def contexts(self, partitions: Iterable[int]) -> Mapping[int, RecordDict]:
        """Return the states of those clients of ``partitions`` that have one, by partition id."""
        ...

    def set_contexts(self, contexts: Mapping[int, RecordDict]) -> None:
        """Replace the states of the clients in ``contexts``, by partition id; keep all others."""
        ...

    def changed_contexts(self) -> Collection[int]:
        """Return the partition ids of the clients that ran since the last call of this method."""
        ...


@runtime_checkable
class MeasuresCalls(Protocol):
    """A Grid that knows how long each of its clients ran, without waiting for a worker."""

    def call_seconds(self) -> Mapping[int, float]:
        """Return node -> seconds that its client's last call ran."""
        ...


@runtime_checkable
class MeasuresHosts(Protocol):
    """A Grid that knows how busy the machines are on which its clients ran."""

    def host_loads(self) -> Mapping[int, float]:
        """Return node -> load, in [0, 1], of the machine on which its client ran last."""
        ...


@runtime_checkable
class KeepsVirtualTime(Protocol):
    """A Grid that simulates how long clients take, on a clock of its own.

    Its seconds are computed, not measured: they are the same in every run of a seed. The
    ``timeout`` of its training messages is in these seconds, too. What is not training takes none.
    """

    def reply_times(self) -> Mapping[int, float]:
        """Return node id -> seconds from the last training messages to the node's reply.

        Late replies, which are not handed on, and failures are included; a node is missing until
        its reply has been read, and if it gave none at all.
        """
        ...

    def round_time(self) -> float:
        """Return the seconds that the last training messages took, once their replies are read.

        It is the time of the last reply or failure; the timeout if any node was late.
        """
        ...
