"""Grids around another Grid offer what that one offers, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from hqde_fl.protocol.grid_protocols import KeepsContexts, KnowsPartitions
from hqde_fl.protocol.reply_matching import with_nodes
from hqde_fl.protocol.wrapped_grid import WrappedGrid
from hqde_fl.simulations.attacks import IPM
from hqde_fl.simulations.attacks.attack_grid import AttackGrid
from hqde_fl.simulations.engines.deployment.guarded_grid import GuardedGrid
from hqde_fl.simulations.engines.fault_error_grid import FaultErrorGrid
from hqde_fl.simulations.engines.flower_internals import HttpGrid
from hqde_fl.simulations.engines.inline import InlineGrid


class Passing(WrappedGrid):
    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return self._grid.send_and_receive(messages, timeout=timeout)


WRAPPERS = [
    Passing,
    lambda grid: FaultErrorGrid(grid, lambda number: {}),
    lambda grid: AttackGrid(grid, IPM(), frozenset()),
    lambda grid: Passing(Passing(grid)),
]


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_a_local_grid_stays_one_that_knows_partitions_and_keeps_contexts(wrap) -> None:
    inline = InlineGrid(ClientApp(), 3, {})
    grid: Grid = wrap(inline)
    assert isinstance(grid, KnowsPartitions)
    assert isinstance(grid, KeepsContexts)
    assert [grid.partition_of(node) for node in grid.get_node_ids()] == [0, 1, 2]
    grid.set_contexts({1: RecordDict({"x": ConfigRecord({"y": 1})})})
    assert list(grid.contexts([0, 1, 2])) == [1]
    assert grid.changed_contexts() == frozenset()


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_a_deployment_grid_does_not_become_one(wrap) -> None:
    http = HttpGrid("127.0.0.1:1", insecure=True, token="secret")
    for grid in (http, GuardedGrid(http), wrap(http)):
        assert not isinstance(grid, KnowsPartitions)
        assert not isinstance(grid, KeepsContexts)
    http.close()


def test_a_reply_belongs_to_the_node_whose_message_it_answers() -> None:
    grid = InlineGrid(ClientApp(), 2, {})
    first, second = (Message(RecordDict(), node, "train") for node in grid.get_node_ids())
    replies = list(grid.send_and_receive([first, second]))
    assert [node for node, _ in with_nodes([first, second], replies)] == grid.get_node_ids()
    assert [node for node, _ in with_nodes([second], replies)] == [None, grid.get_node_ids()[1]]
