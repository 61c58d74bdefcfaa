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
