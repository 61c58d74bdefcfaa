"""Nodes whose configs name no partition are numbered by the server."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from hqde_fl.protocol.node_numbers import NUMBER, numbered
from hqde_fl.protocol.partition_claims import IDENTITY
from hqde_fl.simulations.engines.deployment.numbered_grid import NumberedGrid
from hqde_fl.simulations.recording.file_names import NODES
from hqde_fl.strategies.roster import Roster


@dataclass
class Sites:
    """A Grid of nodes, registered in the order of the list, with their configs."""

    configs: dict[int, dict[str, Any]]
    asked: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    silent: set[int] = field(default_factory=set)

    def get_nodes(self) -> list[Any]:
        return [
            SimpleNamespace(
                node_id=node,
                registered_at=f"2026-01-01T00:00:{place:02}",
                last_activated_at="",
                name=f"site-{node}",
            )
            for place, node in enumerate(self.configs)
        ][::-1]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return [*self._replies(messages)]  # a Grid of real nodes sends at once

    def _replies(self, messages: Iterable[Message]) -> Iterable[Message]:
        for message in messages:
            node = message.metadata.dst_node_id
            if node in self.silent:
                continue
            context = Context(1, node, dict(self.configs[node]), RecordDict(), {})
            with numbered(message, context):
                self.asked.append((node, dict(context.node_config)))
                claimed = {k: v for k, v in context.node_config.items() if k == "partition-id"}
            assert context.node_config == self.configs[node]
            assert NUMBER not in message.content
            content = RecordDict({"identity": ConfigRecord(claimed)})
            yield Message(content, reply_to=message)


def ask(grid: Grid, nodes: Iterable[int], kind: str = "train") -> list[Message]:
    messages = [Message(RecordDict({"c": ConfigRecord()}), node, kind) for node in nodes]
    replies = list(grid.send_and_receive(messages))
    assert all(set(message.content) == {"c"} for message in messages)
    return replies


def partitions(replies: Iterable[Message]) -> dict[int, Any]:
    return {r.metadata.src_node_id: r.content["identity"]["partition-id"] for r in replies}


@pytest.fixture
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_run_id", "_task_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


pytestmark = pytest.mark.usefixtures("identity")


def test_nodes_are_numbered_in_the_order_of_their_registration(tmp_path: Path) -> None:
    sites = Sites({30: {}, 10: {}, 20: {}})
    grid = NumberedGrid(cast(Grid, sites), tmp_path, 3)
    roster = Roster()
    assert roster.wait(grid, 3, 0.0, identify=1.0) == [30, 10, 20]
    sites.asked.clear()
    ask(grid, [10, 30])
    told = {node: (c["partition-id"], c["num-partitions"]) for node, c in sites.asked}
    assert told == {10: (1, 3), 30: (0, 3)}
    known = json.loads((tmp_path / NODES).read_text())
    assert known["1"] == {"node-id": "10", "name": "site-10", "claimed": False}


def test_who_joins_gets_the_next_number_and_who_leaves_keeps_its_own(tmp_path: Path) -> None:
    sites = Sites({1: {}, 2: {}})
    grid = NumberedGrid(cast(Grid, sites), tmp_path)
    assert partitions(ask(grid, [1, 2], IDENTITY)) == {1: 0, 2: 1}
    del sites.configs[1]
    sites.configs[3] = {}
    assert partitions(ask(grid, [3], IDENTITY)) == {3: 2}
    sites.asked.clear()
    ask(grid, [2, 3])
    assert {n: c["num-partitions"] for n, c in sites.asked} == {2: 3, 3: 3}
    resumed = NumberedGrid(cast(Grid, Sites({3: {}, 4: {}, 1: {}})), tmp_path)
    assert partitions(ask(resumed, [3, 4, 1], IDENTITY)) == {3: 2, 4: 3, 1: 0}


def test_a_nodes_own_partition_counts(tmp_path: Path) -> None:
    own = {"partition-id": 0, "num-partitions": 9}
    sites = Sites({1: {}, 2: own})
    grid = NumberedGrid(cast(Grid, sites), tmp_path)
    assert partitions(ask(grid, [1, 2], IDENTITY)) == {1: 1, 2: 0}
    sites.asked.clear()
    ask(grid, [1, 2])
    told = dict(sites.asked)
    assert told == {1: {"partition-id": 1, "num-partitions": 2}, 2: own}


def test_a_claim_out_of_all_bounds_moves_nobody_else(tmp_path: Path) -> None:
    sites = Sites({1: {}, 2: {"partition-id": 2**60}})
    grid = NumberedGrid(cast(Grid, sites), tmp_path)
    ask(grid, [1, 2], IDENTITY)
    sites.asked.clear()
    ask(grid, [1])
    assert sites.asked == [(1, {"partition-id": 0, "num-partitions": 1})]


def test_a_node_that_did_not_say_who_it_is_is_numbered_all_the_same(tmp_path: Path) -> None:
    sites = Sites({1: {}, 2: {}}, silent={1})
    grid = NumberedGrid(cast(Grid, sites), tmp_path)
    assert partitions(ask(grid, [1, 2], IDENTITY)) == {2: 0}
    sites.silent.clear()
    sites.asked.clear()
    ask(grid, [1, 2])
    assert {node: c["partition-id"] for node, c in sites.asked} == {1: 1, 2: 0}


@pytest.mark.parametrize("text", ["", "[]", '{"0": 1}', '{"x": {"node-id": "1"}}', "\x00"])
def test_a_damaged_file_is_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / NODES).write_text(text)
    grid = NumberedGrid(cast(Grid, Sites({7: {}})), tmp_path)
    assert partitions(ask(grid, [7], IDENTITY)) == {7: 0}
