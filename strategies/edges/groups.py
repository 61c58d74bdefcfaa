"""The groups of clients that belong to edges."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Self, TypeGuard, final

from hqde_fl.errors import ConfigError

BY_NODE = "node"
"""The groups whose clients' own configs name their edges."""


@final
@dataclass(frozen=True)
class Groups:
    """The edge to which each client belongs: the same in every round, whoever is connected.

    Parameters
    ----------
    edges : int
        Number of edges, >= 1.
    lists : tuple[frozenset[int], ...]
        The partition ids of each edge's clients. Empty, the default: client p belongs to edge
        p mod ``edges``.
    by_node : bool
        Each node belongs to the edge that its own config names (``edge-id``), False by default.
        Which that is shows when it connects; before, clients count as if they were dealt.
    """

    edges: int
    lists: tuple[frozenset[int], ...] = ()
    by_node: bool = False

    def __post_init__(self) -> None:
        if self.edges < 1:
            raise ConfigError(f"edges.groups must be >= 1, found {self.edges}")
        if self.lists and len(self.lists) != self.edges:
            raise ConfigError(
                f"edges.groups needs {self.edges} lists, one for each edge, found {len(self.lists)}"
            )
        named: set[int] = set()
        for number, group in enumerate(self.lists):
            if not group:
                raise ConfigError(f"edges.groups.{number} needs at least 1 client, found none")
            if negative := [client for client in group if client < 0]:
                raise ConfigError(
                    f"edges.groups.{number} must have partition ids >= 0, found {negative[0]}"
                )
            if twice := sorted(named & group):
                raise ConfigError(
                    f"a client belongs to one edge, found client {twice[0]} in two of edges.groups"
                )
            named |= group

    @classmethod
    def of(cls, value: int | str | Sequence[Collection[int]], count: int = 0) -> Self:
        """Return the groups that a value of ``edges.groups`` means.

        Parameters
        ----------
        value : int, str or Sequence of Collection of int
            The number of edges, the partition ids of each edge's clients, or ``"node"``: each
            node's own config names its edge.
        count : int
            The number of edges, for ``"node"`` alone.
        """
        if value == BY_NODE:
            if not _is_whole(count) or count < 1:
                raise ConfigError(
                    f"edges.count must be >= 1 where edges.groups = 'node', found {count!r}"
                )
            return cls(int(count), by_node=True)
        if count != 0:
            raise ConfigError(f"edges.count needs edges.groups = 'node', found {value!r:.80}")
        if _is_whole(value):
            return cls(int(value))
        groups: Any = value
        if not isinstance(groups, Sequence) or not all(map(_are_whole, groups)):
            raise ConfigError(
                f"edges.groups must be a whole number or a list of partition ids for each edge, "
                f"or 'node', found {value!r:.80}"
            )
        return cls(len(groups), tuple(frozenset(group) for group in groups))

    def edge_of(self, client: int) -> int | None:
        """Return the edge of a client by its partition id; None if no list has the client."""
        if not self.lists:
            return client % self.edges
        return next((edge for edge, group in enumerate(self.lists) if client in group), None)

    def clients(self, count: int) -> list[list[int]]:
        """Return each edge's clients among clients 0 to ``count`` - 1, ascending."""
        groups: list[list[int]] = [[] for _ in range(self.edges)]
        for client in range(count):
            if (edge := self.edge_of(client)) is not None:
                groups[edge].append(client)
        return groups

    def check(self, count: int) -> None:
        """Raise ``ConfigError`` unless each of so many clients has an edge, and each edge a client.

        Clients of the lists who do not exist are refused, too.
        """
        if unknown := sorted(set().union(*self.lists) - set(range(count))):
            raise ConfigError(
                f"edges.groups must have partition ids in [0, {count - 1}], found {unknown[0]}"
            )
        if self.edges > count:
            raise ConfigError(
                f"each of {self.edges} edges needs at least 1 of {count} clients, "
                f"found none for edge {count}"
            )
        if missing := sorted(set(range(count)).difference(*self.clients(count))):
            raise ConfigError(f"each client needs an edge, found none for client {missing[0]}")


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _are_whole(group: object) -> bool:
    return isinstance(group, Collection) and all(map(_is_whole, group))
