"""Clients without data rest, and do not weaken the defence against attackers."""

from __future__ import annotations

import logging

import pytest
import torch
from flwr.app import Error, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from hqde_fl.clients.app import ensemble_app
from hqde_fl.clients.evaluation import evaluate
from hqde_fl.clients.faults import SignFlip, only_for
from hqde_fl.clients.task import Task
from hqde_fl.clients.training import Training
from hqde_fl.errors import RunError
from hqde_fl.protocol.no_data import NO_DATA, has_no_data, no_data
from hqde_fl.protocol.records import from_record, to_record
from hqde_fl.rules import Aggregator, Krum, Mean, MoNNA
from hqde_fl.seeding import Seeds
from hqde_fl.selection import Uniform
from hqde_fl.simulations.engines.inline import InlineGrid
from hqde_fl.simulations.experiment.root_training import root_training
from hqde_fl.strategies.resting import REST_ROUNDS
from hqde_fl.strategies.roster import Roster
from tests.contracts.rule_examples import EXAMPLES
from tests.strategies.federation import Recorder, federation, strategy_with

FEATURES = 4


def line(examples: int, seed: int) -> TensorDataset:
    """Return examples of one linear function, the same for every client."""
    x = torch.randn(examples, FEATURES, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, x.sum(dim=1, keepdim=True))


def regression(*empty: int) -> Task:
    def partition(number: int, count: int) -> TensorDataset:
        return line(0 if number in empty else 40, seed=number)

    return Task(
        model=lambda: nn.Linear(FEATURES, 1),
        partition=partition,
        test=lambda: line(200, seed=99),
        loss=functional.mse_loss,
        metrics={},
        classifier=False,
    )


def trained(rule: Aggregator, clients: int, *empty: int) -> tuple[float, Recorder]:
    """Return the loss after ten rounds in which client 0 sends its update times -1000."""
    task, recorder = regression(*empty), Recorder()
    mods = [only_for(SignFlip(scale=1000.0), [0])]
    training, root = Training(lr=0.05), None
    app = ensemble_app(task, training=training, mods=mods)
    torch.manual_seed(0)
    model = task.model()
    if "reference" in rule.needs:
        root = root_training(task, line(40, seed=50), training, Seeds(0))
    strategy = strategy_with(recorder, rule=rule, root_training=root)
    grid = InlineGrid(app, clients, {}, seed=1)
    result = strategy.start(grid, to_record(model.state_dict()), 10)
    model.load_state_dict(from_record(result.arrays))
    return evaluate([model], task.test(), task)["loss"], recorder


ROBUST = [
    name
    for name, example in EXAMPLES.items()
    if example.make(1).minimum() <= 4 and (example.make(1).breakdown(4) >= 1 or name == "dnc")
]
"""Rules that work on four updates with f = 1 and promise to tolerate one attacker among them."""


@pytest.mark.parametrize("name", ROBUST)
def test_an_honest_client_without_data_does_not_disarm_a_rule(name: str) -> None:
    rule = MoNNA(1, trusted=2) if name == "monna" else EXAMPLES[name].make(1)
    without, _ = trained(rule, 4)
    loss, recorder = trained(rule, 5, 4)
    assert loss == pytest.approx(without, abs=0.05)
    assert loss < 1
    first = recorder.rounds[1]
    assert (first.asked, first.skipped, first.failed, first.rejected) == (5, 1, 0, 0)
    assert first.f == first.f_used == rule.expected_faulty
    assert recorder.client(4, 1).reason == NO_DATA


@pytest.mark.parametrize("name", ["krum", "multi-krum"])
def test_a_rule_that_bears_no_silent_client_warns(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Krum needs all of the five clients: one without data voids every round."""
    with caplog.at_level(logging.WARNING, "flwr"), pytest.raises(RunError, match="found 4") as end:
        trained(EXAMPLES[name].make(1), 5, 4)
    assert "needs 5 updates, found 5 clients: a round is void as soon as 1 of them is" in (
        caplog.text
    )
    assert "found 4; clients that rest because they have no data: 1" in str(end.value)


def test_those_without_data_rest_for_ten_rounds() -> None:
    task, recorder = regression(1), Recorder()
    grid = InlineGrid(ensemble_app(task), 3, {}, seed=1)
    strategy = strategy_with(recorder, fraction_evaluate=1.0)
    strategy.start(grid, to_record(task.model().state_dict()), REST_ROUNDS + 2)
    selected = [record.asked for record in recorder.rounds[1:]]
    assert selected == [3] + [2] * (REST_ROUNDS - 1) + [3, 2]
    assert [record.skipped for record in recorder.rounds[1:]] == [1] + [0] * 9 + [1, 0]
    assert strategy.state is not None
    assert strategy.state.resting == {1: 2 * REST_ROUNDS + 1}


def test_the_sample_is_not_smaller_for_those_that_rest() -> None:
    """Five of ten clients are selected in every round: one without data cannot void them all."""
    task, recorder = regression(9), Recorder()
    grid = InlineGrid(ensemble_app(task), 10, {}, seed=1)
    strategy = strategy_with(recorder, rule=Krum(f=1), selector=Uniform(0.5))
    strategy.start(grid, to_record(task.model().state_dict()), 25)
    assert {record.asked for record in recorder.rounds[1:]} == {5}
    void = [record.round for record in recorder.rounds[1:] if record.void]
    assert void == [record.round for record in recorder.rounds[1:] if record.skipped]
    assert len(void) <= 3


def test_a_run_in_which_nobody_has_data_says_so() -> None:
    task, recorder = regression(0, 1, 2), Recorder()
    grid = InlineGrid(ensemble_app(task), 3, {}, seed=1)
    with pytest.raises(RunError, match=r"of 3 replies due 3 skipped \(no data: check how"):
        strategy_with(recorder).start(grid, to_record(task.model().state_dict()), 3)
    assert [record.asked for record in recorder.rounds[1:]] == [3, 0, 0]
    assert all(record.void for record in recorder.rounds[1:])


def test_the_reply_is_known_by_its_reason_alone() -> None:
    grid = federation(None)
    sent = Message(RecordDict(), grid.get_node_ids()[0], "train")
    assert has_no_data(no_data(sent))
    assert not has_no_data(Message(Error(2, "no data"), reply_to=sent))
    assert not has_no_data(Message(RecordDict(), reply_to=sent))


class Remote(InlineGrid):
    """A Grid of nodes on other hosts, of which it knows only since when they are connected."""

    partition_of = None  # type: ignore[assignment]  # not one of our own engines

    def __init__(self, task: Task, partitions: int) -> None:
        super().__init__(ensemble_app(task), partitions, {}, seed=1)
        self.since = dict.fromkeys(self._nodes, "monday")

    def get_nodes(self):  # type: ignore[no-untyped-def]
        return [NodeInfo(node_id=n, last_activated_at=at) for n, at in self.since.items()]


def test_a_node_that_reconnects_is_asked_again() -> None:
    task = regression(1)
    grid = Remote(task, 3)
    empty = grid._nodes[1]

    class Operator(Recorder):
        """Restarts the node without data after round 2 and disconnects it for round 5."""

        def on_round(self, record, arrays) -> None:  # type: ignore[no-untyped-def]
            super().on_round(record, arrays)
            match record.round:
                case 2:
                    grid.since[empty] = "tuesday"
                case 4:
                    del grid.since[empty]
                case 5:
                    grid.since[empty] = "tuesday"

    recorder = Operator()
    strategy = strategy_with(recorder, rule=Mean())
    strategy.start(grid, to_record(task.model().state_dict()), 7)
    assert [record.asked for record in recorder.rounds[1:]] == [3, 2, 3, 2, 2, 3, 2]


def test_nodes_that_are_seen_for_the_first_time_have_not_reconnected() -> None:
    """A run that is resumed asks the same clients as one that was never interrupted."""
    roster, grid = Roster(), Remote(regression(), 3)
    roster.wait(grid, 1, 1.0)
    assert roster.reconnected == frozenset()
    roster.wait(grid, 1, 1.0)
    assert roster.reconnected == frozenset()
    grid.since[grid._nodes[0]] = "tuesday"
    roster.wait(grid, 1, 1.0)
    assert roster.reconnected == {grid._nodes[0]}


def test_nodes_that_reconnect_one_after_the_other_while_others_are_waited_for_all_count() -> None:
    roster, grid = Roster(), Remote(regression(), 3)
    roster.wait(grid, 1, 1.0)
    first, second, third = grid._nodes
    looks = [
        {third: "monday"},
        {first: "tuesday", third: "monday"},
        {first: "tuesday", second: "tuesday", third: "monday"},
    ]

    class Returning(Remote):
        def get_nodes(self):  # type: ignore[no-untyped-def]
            self.since = looks.pop(0)
            return super().get_nodes()

    roster.wait(Returning(regression(), 3), 3, 60.0)
    assert roster.reconnected == {first, second}
