"""The edge that a client belongs to."""

from __future__ import annotations

import pytest

from hqde_fl.errors import ConfigError
from hqde_fl.strategies.edges.groups import Groups


def test_a_number_deals_clients_evenly_whatever_their_number() -> None:
    groups = Groups.of(3)
    assert groups.clients(8) == [[0, 3, 6], [1, 4, 7], [2, 5]]
    assert [groups.edge_of(client) for client in range(8)] == [
        Groups.of(3).edge_of(client) for client in range(8)
    ]


def test_lists_say_the_clients_of_each_edge() -> None:
    groups = Groups.of([[4, 0], [1], [3, 2]])
    assert groups.edges == 3
    assert groups.clients(5) == [[0, 4], [1], [2, 3]]
    assert groups.edge_of(9) is None


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (0, "edges.groups must be >= 1, found 0"),
        ([], "edges.groups must be >= 1, found 0"),
        ([[0], []], "edges.groups.1 needs at least 1 client, found none"),
        ([[0, 1], [1]], "a client belongs to one edge, found client 1 in two"),
        (2.0, "edges.groups must be a whole number or a list .* found 2.0"),
        (True, "edges.groups must be a whole number or a list .* found True"),
        ("ab", "edges.groups must be a whole number or a list .* found 'ab'"),
        ([0, 1], "edges.groups must be a whole number or a list"),
        ([[0, 1.5]], "edges.groups must be a whole number or a list"),
        ([[-1]], "edges.groups.0 must have partition ids >= 0, found -1"),
    ],
)
def test_impossible_groups_are_refused(groups: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Groups.of(groups)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (5, "each of 5 edges needs at least 1 of 4 clients, found none for edge 4"),
        ([[0, 1], [2]], "each client needs an edge, found none for client 3"),
        ([[0, 1], [2, 3, 4]], r"partition ids in \[0, 3\], found 4"),
    ],
)
def test_groups_that_do_not_fit_the_clients_are_refused(groups: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Groups.of(groups).check(4)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [0, -1, True, 2.0, "3"])
def test_groups_by_node_need_the_number_of_edges(count: object) -> None:
    with pytest.raises(ConfigError, match=r"edges\.count must be >= 1 where .*, found"):
        Groups.of("node", count)  # type: ignore[arg-type]


@pytest.mark.parametrize("groups", [3, [[0], [1]]])
def test_a_number_of_edges_is_for_groups_by_node_alone(groups: object) -> None:
    with pytest.raises(ConfigError, match=r"edges\.count needs edges\.groups = 'node', found"):
        Groups.of(groups, 2)  # type: ignore[arg-type]


def test_before_nodes_connect_clients_count_as_if_they_were_dealt() -> None:
    groups = Groups.of("node", 2)
    groups.check(3)
    assert groups.by_node
    assert groups.clients(5) == [[0, 2, 4], [1, 3]]
