"""Edges over a federation of ten clients with a tiny model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable
from flwr.serverapp import Grid

from hqde_fl.codec import ErrorFeedback, Quantized
from hqde_fl.errors import ConfigError, RunError
from hqde_fl.protocol.members import TAG, TAGS, add_member_prefix, message_config
from hqde_fl.protocol.records import from_record, to_record
from hqde_fl.rules import CenteredClipping, Krum, Mean, Median, TrimmedMean
from hqde_fl.selection import Ensemble, Uniform
from hqde_fl.simulations.engines.inline import InlineGrid
from hqde_fl.strategies.edges.edge import merged_examples
from hqde_fl.strategies.edges.edge_grid import EdgeGrid
from hqde_fl.strategies.edges.edge_strategy import EdgeStrategy
from hqde_fl.strategies.presets import fedavg, hierarchical
from hqde_fl.strategies.settings import Communication, Participation, Reporting
from tests.strategies.federation import HOSTILE, MODEL, Recorder, federation

QUIET = Participation(fraction_evaluate=0.0)
Model = dict[str, torch.Tensor]


def edges(recorder: Recorder | None = None, **options: Any) -> EdgeStrategy:
    given: dict[str, Any] = {"groups": 3, "participation": QUIET, **options}
    given["reporting"] = Reporting([recorder] if recorder else [])
    strategy: EdgeStrategy = hierarchical(**given)
    return strategy


def run(strategy: Any, grid: Grid | None = None, rounds: int = 2, model: Model = MODEL) -> Model:
    return from_record(strategy.start(grid or federation(None), to_record(model), rounds).arrays)


def assert_equal_models(one: Model, other: Model) -> None:
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("groups", [1, 3, 10, [[0, 4, 5, 6, 7, 8, 9], [1, 2], [3]]])
def test_one_round_of_means_is_fedavg(groups: Any) -> None:
    flat = run(fedavg(participation=Participation(fraction_evaluate=0.0, identify=True)))
    assert_equal_models(run(edges(groups=groups)), flat)


def test_an_edge_goes_on_from_its_own_model_for_k_rounds() -> None:
    """Every client adds one: k rounds add k, and the counter goes on."""
    model = run(edges(edge_rounds=4), rounds=2)
    assert int(model["steps"]) == int(MODEL["steps"]) + 8
    moved = model["layer.bias"] - MODEL["layer.bias"]
    torch.testing.assert_close(moved, torch.full((2,), 8.0), atol=0.2, rtol=0)


def test_the_rounds_of_all_edges_go_out_at_once() -> None:
    grid = _CountingGrid()
    run(edges(edge_rounds=3), grid.grid, rounds=2)
    assert grid.sent == [10] * 6


class _CountingGrid:
    def __init__(self) -> None:
        self.grid, self.sent = federation(None), list[int]()
        inner = self.grid.send_and_receive

        def counted(messages: Any, *, timeout: float | None = None) -> Any:
            sent = list(messages)
            self.sent.append(len(sent))
            return inner(sent, timeout=timeout)

        self.grid.send_and_receive = counted  # type: ignore[method-assign]


def far(content: RecordDict) -> RecordDict:
    content["arrays"] = to_record({n: t + 1000 for n, t in MODEL.items()})
    return content


def test_a_robust_rule_at_the_edge_bears_a_faulty_client() -> None:
    honest = run(edges(edge_rule=Median()))
    assert_close(run(edges(edge_rule=Median()), federation(far)), honest)
    with pytest.raises(AssertionError):
        assert_close(run(edges()), run(edges(), federation(far)))


def assert_close(one: Model, other: Model) -> None:
    for name in ("layer.weight", "layer.bias"):
        torch.testing.assert_close(one[name], other[name], atol=0.1, rtol=0)


def test_a_robust_rule_at_the_root_bears_an_edge_that_a_client_owns() -> None:
    groups = [[HOSTILE], [0, 1], [2, 3], [5, 6], [7, 8, 9]]
    honest = run(edges(groups=groups, root_rule=Median()))
    assert_close(run(edges(groups=groups, root_rule=Median()), federation(far)), honest)


def boast(content: RecordDict) -> RecordDict:
    content = far(content)
    content["metrics"] = MetricRecord({"num-examples": 10**8, "train-loss": 0.5})
    return content


def test_a_boasting_client_does_not_decide_how_much_a_robust_edge_counts() -> None:
    strategy = edges(recorder := Recorder(), edge_rule=Median())
    assert_close(run(strategy, federation(boast)), run(edges(edge_rule=Median())))
    shares = [client.influence for client in recorder.rounds[-1].clients]
    assert max(shares) < 0.45


def test_examples_of_a_merged_model() -> None:
    assert merged_examples([1, 2, 9], Mean(weighted=True)) == 12
    assert merged_examples([1, 2, 9], Median()) == 6
    assert merged_examples([], Median()) == 0


def crash(content: RecordDict) -> RecordDict:
    raise ValueError("broken")


def test_an_edge_without_an_update_fails_and_the_run_goes_on() -> None:
    groups = [[HOSTILE], [0, 1, 2, 3], [5, 6, 7, 8, 9]]
    run(edges(recorder := Recorder(), groups=groups), federation(crash))
    last = recorder.rounds[-1]
    assert (last.asked, last.kept, last.failed) == (3, 2, 1)
    reason = recorder.client(0).reason
    assert reason is not None
    assert reason.startswith("failed: edge 0: ")


def test_a_group_too_small_for_its_rule_fails_alone() -> None:
    groups = [[0], [1, 2, 3, 4, 5, 6, 7, 8, 9]]
    run(edges(recorder := Recorder(), groups=groups, edge_rule=TrimmedMean(1)))
    assert recorder.rounds[-1].kept == 1
    assert "TrimmedMean" in (recorder.client(0).reason or "")


def no_data_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    if context.node_config["partition-id"] == HOSTILE:
        return Message(Error(3, "skipped: no data"), reply_to=message)
    return call_next(message, context)


def test_an_edge_whose_clients_have_no_data_is_skipped() -> None:
    groups = [[HOSTILE], [0, 1, 2, 3], [5, 6, 7, 8, 9]]
    strategy = edges(recorder := Recorder(), groups=groups)
    run(strategy, federation(None, mods=[no_data_mod]))
    assert [r.skipped for r in recorder.rounds] == [0, 1, 0]
    assert [r.asked for r in recorder.rounds] == [0, 3, 2]


def test_clients_evaluate_through_their_edges() -> None:
    evaluated = Participation(fraction_evaluate=1.0)
    run(edges(recorder := Recorder(), participation=evaluated))
    assert recorder.rounds[-1].clients_evaluate["eval-loss"] == 2.0


def test_a_fraction_of_each_group_trains() -> None:
    half = Participation(Uniform(0.5), fraction_evaluate=0.0)
    strategy = edges(groups=2, edge_rounds=2, participation=half)
    run(strategy)
    assert strategy.grid is not None
    asked = [[record.asked for record in records] for records in strategy.grid.records]
    assert asked == [[2, 2], [2, 2]]


def test_the_rules_memory_is_each_edges_own() -> None:
    strategy = edges(edge_rule=CenteredClipping(1.0), edge_rounds=2)
    run(strategy)
    assert strategy.grid is not None
    states = [state.server for state in strategy.grid.states()]
    assert [state.round for state in states if state] == [4, 4, 4]
    assert len({repr(state.models[0].rule) for state in states if state}) == 3


def test_a_restored_grid_goes_on_as_if_it_had_not_ended() -> None:
    options: dict[str, Any] = {"edge_rule": CenteredClipping(1.0), "edge_rounds": 2}
    whole = run(edges(**options), rounds=4)
    first = edges(**options)
    run(first, rounds=2)
    assert first.grid is not None
    second = edges(**options)
    state = first.root.state
    assert state is not None
    grid = EdgeGrid(federation(None), second.edges)
    grid.restore(first.grid.states())
    resumed = second.root.start(grid, to_record(MODEL), 4, resume=state)
    for name, tensor in from_record(resumed.arrays).items():
        assert torch.equal(tensor, whole[name]), name


def test_an_ensemble_is_merged_member_by_member() -> None:
    model = {"w": torch.zeros(3)}
    joined = {f"member-{m}/{n}": t + m for m in range(2) for n, t in model.items()}
    two = Ensemble(2)
    flat = run(
        fedavg(participation=Participation(fraction_evaluate=0.0, identify=True), ensemble=two),
        _members(),
        model=joined,
    )
    assert_equal_models(run(edges(ensemble=two), _members(), model=joined), flat)


def _members() -> InlineGrid:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        partition = int(context.node_config["partition-id"])
        state = {
            n: t + partition
            for n, t in from_record(message.content.array_records["arrays"]).items()
        }
        config = message_config(message)
        tags: dict[str, Any] = {}
        for member in range(2):
            tags |= add_member_prefix(member, {TAG: config[f"member-{member}/{TAG}"]})
        metrics = MetricRecord({"num-examples": 1 + partition})
        content = RecordDict(
            {"arrays": to_record(state), "metrics": metrics, TAGS: ConfigRecord(tags)}
        )
        return Message(content, reply_to=message)

    return InlineGrid(app, 10, {}, seed=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"edge_rounds": 0}, "edges.rounds must be a whole number >= 1, found 0"),
        ({"edge_rounds": 1.5}, "edges.rounds must be a whole number >= 1, found 1.5"),
        ({"groups": None, "edge_rounds": 2}, "hierarchical.edge_rounds needs groups, found none"),
        ({"groups": None, "root_rule": Median()}, "hierarchical.root_rule needs groups"),
        ({"leaf": Median()}, "hierarchical.leaf is without groups, found 3"),
        ({"fanout": 2}, "hierarchical.fanout is without groups, found 3"),
        ({"quorum": 4}, "quorum need groups >= 4, found 3 edges"),
        ({"root_rule": Krum(f=1)}, "root_rule and quorum need groups >= 5, found 3 edges"),
        ({"ensemble": Ensemble(2, "round-robin")}, "edges need clients that train all members"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        edges(**options)


def test_no_edge_left_is_an_error_that_says_why() -> None:
    def all_crash(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        raise ValueError("broken")

    with pytest.raises(RunError, match="no round produced an aggregate"):
        run(edges(), federation(None, mods=[all_crash]))


def test_a_users_config_reaches_the_clients() -> None:
    seen: list[Any] = []

    def note(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        seen.append(message.content.config_records["config"].get("lr"))
        return call_next(message, context)

    grid = federation(None, mods=[note])
    edges().start(grid, to_record(MODEL), 1, train_config=ConfigRecord({"lr": 0.5}))
    assert seen == [0.5] * 10


def test_a_packed_uplink_and_downlink_at_the_clients() -> None:
    packed = Communication(codec=ErrorFeedback(Quantized(8)), downlink=Quantized(8))
    assert_close(run(edges(communication=packed)), run(edges()))


class _Deployed(Grid):
    """A Grid that does not know partitions, as that of real nodes."""

    def __init__(self, grid: InlineGrid, absent: Sequence[int] = ()) -> None:
        self._grid, self.absent, self.at = grid, absent, ""

    def get_node_ids(self) -> list[int]:
        return [n for p, n in enumerate(self._grid.get_node_ids()) if p not in self.absent]

    def get_nodes(self) -> Any:
        return [SimpleNamespace(node_id=n, last_activated_at=self.at) for n in self.get_node_ids()]

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Any:
        return self._grid.send_and_receive(messages, timeout=timeout)

    def set_run(self, run: Any) -> None:
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        return self._grid.run

    def create_message(self, *arguments: Any, **options: Any) -> Message:
        return self._grid.create_message(*arguments, **options)

    def push_messages(self, messages: Any) -> Any:
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Any) -> Any:
        return self._grid.pull_messages(message_ids)


def _telling_partitions() -> InlineGrid:
    grid = federation(None)

    @grid._client_app.query("identity")
    def identity(message: Message, context: Context) -> Message:
        claim = ConfigRecord({"partition-id": int(context.node_config["partition-id"])})
        return Message(RecordDict({"identity": claim}), reply_to=message)

    return grid


def test_nodes_that_tell_their_partitions_are_grouped_by_them() -> None:
    groups = [[0, 5], [1, 2, 3], [4, 6, 7, 8, 9]]
    strategy = edges(groups=groups)
    model = run(strategy, _Deployed(_telling_partitions()))
    assert strategy.grid is not None
    clients = [[c.partition for c in own[-1].clients] for own in strategy.grid.records]
    assert clients == groups
    assert_equal_models(model, run(edges(groups=groups)))


def test_stock_nodes_are_dealt_and_stay_in_their_groups() -> None:
    grid = _Deployed(federation(None), absent=[9])
    strategy = edges(groups=3)
    run(strategy, grid, rounds=1)
    assert strategy.grid is not None
    before = [{c.node for c in own[-1].clients} for own in strategy.grid.records]
    assert sorted(map(len, before)) == [3, 3, 3]
    grid.absent = []
    for edge, nodes in enumerate(before):
        strategy.grid._find_clients()
        assert nodes <= set(strategy.grid._views[edge].get_node_ids())


def test_an_edge_whose_clients_are_not_connected_fails_and_does_not_wait() -> None:
    grid = _Deployed(_telling_partitions(), absent=[0, 3, 6, 9])
    run(edges(recorder := Recorder(), groups=3), grid)
    assert recorder.client(0).reason == "failed: edge 0: none of its clients is connected"
    assert recorder.rounds[-1].kept == 2


def _naming_edges(named: Any, count: int = 10) -> InlineGrid:
    """A federation whose client p says that it belongs to edge ``named(p)``."""
    grid = federation(None, count)

    @grid._client_app.query("identity")
    def identity(message: Message, context: Context) -> Message:
        partition = int(context.node_config["partition-id"])
        edge = named(partition)
        if isinstance(edge, Error):
            return Message(edge, reply_to=message)
        claim = ConfigRecord(
            {"partition-id": partition} | ({} if edge is None else {"edge-id": edge})
        )
        return Message(RecordDict({"identity": claim}), reply_to=message)

    return grid


@pytest.mark.parametrize("deployed", [False, True])
def test_nodes_whose_configs_name_their_edges_are_grouped_by_them(deployed: bool) -> None:
    def named(partition: int) -> int:
        return int(partition in (2, 7)) + 2 * int(partition == 9)

    grid: Any = _naming_edges(named)
    strategy = edges(groups="node", edge_count=3)
    model = run(strategy, _Deployed(grid) if deployed else grid)
    assert strategy.grid is not None
    groups = [[0, 1, 3, 4, 5, 6, 8], [2, 7], [9]]
    assert [[c.partition for c in own[-1].clients] for own in strategy.grid.records] == groups
    assert_equal_models(model, run(edges(groups=groups)))


@pytest.mark.parametrize(
    ("named", "reason"),
    [
        (None, "its node config needs edge-id, found none"),
        (3, r"its edge-id must be an integer in \[0, 2\], found 3"),
        (-1, r"in \[0, 2\], found -1"),
        (True, "found True"),
        (1.0, r"found 1\.0"),
        ("1", "found '1'"),
        (b"\xff" * 99, "must be an integer"),
        ([0, 1], "must be an integer"),
        (1 << 60, "must be an integer"),
        (Error(1, "no"), "it replied with an error"),
    ],
    ids=["none", "large", "negative", "true", "float", "text", "bytes", "list", "huge", "error"],
)
def test_a_node_that_names_no_edge_takes_no_part(named: Any, reason: str) -> None:
    grid = _naming_edges(lambda partition: named if partition == HOSTILE else partition % 3)
    strategy = edges(groups="node", edge_count=3)
    run(strategy, grid)
    assert strategy.grid is not None
    (node,) = strategy.grid.without_edge
    assert grid.partition_of(node) == HOSTILE
    assert re.search(reason, strategy.grid.without_edge[node])
    taking_part = [c.partition for own in strategy.grid.records for c in own[-1].clients]
    assert sorted(taking_part) == [p for p in range(10) if p != HOSTILE]


def test_a_node_keeps_its_edge_whatever_it_says_later() -> None:
    named = {partition: partition % 3 for partition in range(10)}
    grid = _Deployed(_naming_edges(named.__getitem__))
    strategy = edges(groups="node", edge_count=3)
    run(strategy, grid, rounds=1)
    assert strategy.grid is not None
    named[0] = 2
    grid.at = "later"  # all nodes have reconnected
    strategy.grid._find_clients()
    assert strategy.grid.edge_of(grid.get_node_ids()[0]).number == 0


def test_a_node_without_an_edge_is_asked_again_when_it_has_reconnected() -> None:
    named: dict[int, Any] = {partition: partition % 3 for partition in range(10)} | {5: "two"}
    grid = _Deployed(_naming_edges(named.__getitem__))
    strategy = edges(groups="node", edge_count=3)
    run(strategy, grid, rounds=1)
    assert strategy.grid is not None
    assert len(strategy.grid.without_edge) == 1
    named[5] = 2
    strategy.grid._find_clients()
    assert len(strategy.grid.without_edge) == 1
    grid.at = "later"
    strategy.grid._find_clients()
    assert strategy.grid.without_edge == {}
