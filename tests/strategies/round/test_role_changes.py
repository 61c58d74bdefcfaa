"""Weights that nobody trains are frozen and equal ones tied, until clients change them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor

from hqde_fl.errors import RunError
from hqde_fl.noise import ExplorationNoise
from hqde_fl.protocol.members import TAGS
from hqde_fl.protocol.omitted_entries import same_bits
from hqde_fl.protocol.records import from_record, to_record
from hqde_fl.rules import Aggregator, CenteredClipping, Mean, Median
from hqde_fl.selection import Ensemble
from hqde_fl.simulations.engines.inline import InlineGrid
from hqde_fl.strategies.exploration import ExploringOptimizer
from hqde_fl.strategies.hqde import HQDEStrategy
from hqde_fl.strategies.optimizers import SGD, Adam, ServerOptimizer
from hqde_fl.updates.roles import Roles
from tests.strategies.federation import Recorder, strategy_with

GENERATOR = torch.Generator().manual_seed(0)
START = {
    "base": torch.cat([torch.randn(7, generator=GENERATOR), torch.tensor([-0.0])]),
    "embed": torch.randn(3, 2, generator=GENERATOR),
    "head": torch.randn(4, generator=GENERATOR),
    "steps": torch.tensor(0),
}
START["output"] = START["embed"].clone()
NOISY = ExploringOptimizer(ExplorationNoise(0.5), SGD())

Change = Callable[[int, int], Sequence[str]]
"""(partition, round) -> names of the entries that a client trains."""


def tied_weights(partition: int, number: int) -> Sequence[str]:
    return ("head", "embed", "output")


def run(
    change: Change,
    rule: Aggregator | None = None,
    optimizer: ServerOptimizer | None = None,
    roles: Roles | None = None,
    rounds: int = 4,
    start: Mapping[str, Tensor] = START,
    **options: Any,
) -> tuple[Mapping[str, Tensor], Recorder, HQDEStrategy]:
    """Run clients that move some weights; what moves in several names moves equally."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        partition = int(context.node_config["partition-id"])
        state = from_record(message.content.array_records["arrays"])
        number = int(message.content.config_records["config"]["server-round"])
        for name in change(partition, number):
            noise = torch.Generator().manual_seed(partition)
            state[name] += 0.1 + 0.01 * torch.randn(state[name].shape, generator=noise)
        content = {"arrays": to_record(state), "metrics": MetricRecord({"num-examples": 10})}
        if (tags := message_tags(message)) is not None:
            content[TAGS] = tags
        return Message(RecordDict(content), reply_to=message)

    recorder = Recorder()
    strategy = strategy_with(
        recorder,
        rule=rule or Mean(),
        server_optimizer=optimizer or SGD(),
        roles=roles,
        **options,
    )
    with suppress(RunError):  # of a run whose only round is void
        strategy.start(InlineGrid(app, 6, {}, seed=1), to_record(start), rounds)
    assert strategy.state is not None
    return from_record(strategy.state.arrays()), recorder, strategy


def message_tags(message: Message) -> ConfigRecord | None:
    """Return the tags that a client of an ensemble sends back; None for a single model."""
    config = message.content.config_records["config"]
    tags = {key: value for key, value in config.items() if key.endswith("/tag")}
    return ConfigRecord(tags) if tags else None


@pytest.mark.parametrize("rule", [Mean(), Median(), CenteredClipping(1.0)], ids=str)
@pytest.mark.parametrize("optimizer", [SGD(), Adam(), NOISY], ids=["sgd", "adam", "noise"])
def test_what_nobody_trains_keeps_its_bits(rule: Aggregator, optimizer: ServerOptimizer) -> None:
    model, recorder, strategy = run(tied_weights, rule, optimizer)
    assert same_bits(model["base"], START["base"])
    assert same_bits(model["embed"], model["output"])
    assert not torch.equal(model["head"], START["head"])
    assert all(record.kept == 6 for record in recorder.rounds[1:])
    assert strategy.state is not None
    layout = strategy.state.models[0].layout
    assert layout.by_name["base"].role == "frozen"
    assert layout.by_name["output"].tied_to == "embed"


@pytest.mark.parametrize("optimizer", [SGD(), SGD(momentum=0.9), Adam(), NOISY], ids=repr)
def test_an_inferred_role_ends_with_the_first_accepted_change(optimizer: ServerOptimizer) -> None:
    def unfreezing(partition: int, number: int) -> Sequence[str]:
        return ("head", "embed", "output", *(["base"] if number >= 3 and partition == 2 else []))

    model, _, strategy = run(unfreezing, CenteredClipping(1.0), optimizer)
    assert not torch.equal(model["base"], START["base"])
    assert strategy.state is not None
    state = strategy.state.models[0]
    assert state.layout.by_name["base"].role == "trainable"
    assert all(moment.shape in ((), (state.layout.size,)) for moment in state.moments.values())


def test_weights_that_part_are_no_longer_tied() -> None:
    def parting(partition: int, number: int) -> Sequence[str]:
        return ("head", "embed", *(["output"] if number < 3 else []))

    model, _, strategy = run(parting)
    assert not torch.equal(model["embed"], model["output"])
    assert float((model["output"] - START["output"]).mean()) == pytest.approx(0.2, abs=0.02)
    assert float((model["embed"] - START["embed"]).mean()) == pytest.approx(0.4, abs=0.04)
    assert strategy.state is not None
    assert strategy.state.models[0].layout.by_name["output"].tied_to is None


def test_a_few_clients_cannot_end_a_role_that_is_known() -> None:
    def hostile(partition: int, number: int) -> Sequence[str]:
        return ("head", *(["base"] if partition in (0, 3) else []))

    roles = Roles({"base": "frozen"})
    model, recorder, _ = run(hostile, Median(), roles=roles)
    assert same_bits(model["base"], START["base"])
    assert recorder.client(3, 2).reason == "rejected: changed 'base', which is not trained"
    assert all(record.rejected == 2 and record.kept == 4 for record in recorder.rounds[1:])


def test_most_clients_end_a_role_that_is_known() -> None:
    def unfreezing(partition: int, number: int) -> Sequence[str]:
        return ("head", *(["base"] if number >= 3 else []))

    model, recorder, _ = run(unfreezing, Median(), Adam(), Roles({"base": "frozen"}))
    assert not torch.equal(model["base"], START["base"])
    assert all(record.kept == 6 for record in recorder.rounds[1:])


def test_a_known_constant_buffer_becomes_a_statistic() -> None:
    def counting(partition: int, number: int) -> Sequence[str]:
        return ("head", *(["base"] if number >= 2 else []))

    roles = Roles({"base": "frozen"}, buffers=frozenset({"base"}))
    model, _, strategy = run(counting, Median(), NOISY, roles)
    assert strategy.state is not None
    assert strategy.state.models[0].layout.by_name["base"].role == "statistics"
    assert float((model["base"] - START["base"]).mean()) == pytest.approx(0.3, abs=0.03)


def test_a_name_whose_tie_ends_keeps_the_updates_of_the_clients_that_kept_the_tie() -> None:
    def apart(partition: int, number: int) -> Sequence[str]:
        return ("head", "embed", *(["output"] if (partition, number) != (2, 2) else []))

    model, _, _ = run(apart, Median(), rounds=2)
    assert float((model["output"] - START["output"]).mean()) == pytest.approx(0.2, abs=0.02)


def test_a_void_round_settles_nothing() -> None:
    def alone(partition: int, number: int) -> Sequence[str]:
        return ("head",) if number == 1 else ("head", "base")

    _model, recorder, strategy = run(alone, quorum=7, rounds=1)
    assert recorder.rounds[1].void
    assert strategy.state is not None
    assert not strategy.state.models[0].settled


def test_members_that_become_one_model_have_one_layout() -> None:
    """One client trains a frozen entry of one member: both then train it."""

    def thawing(partition: int, number: int) -> Sequence[str]:
        names = [f"member-{m}/{name}" for m in (0, 1) for name in ("head", "embed", "output")]
        return (*names, *(["member-0/base"] if (partition, number) == (1, 2) else []))

    start = {f"member-{m}/{name}": value for m in (0, 1) for name, value in START.items()}
    model, recorder, _ = run(thawing, start=start, ensemble=Ensemble(2, mode="fedavg"))
    assert all(record.kept == 6 for record in recorder.rounds[1:])
    assert all(torch.equal(model[f"member-0/{name}"], model[f"member-1/{name}"]) for name in START)


def test_infinities_of_a_mask_are_frozen() -> None:
    mask = torch.full((3,), -torch.inf)
    model, recorder, _ = run(tied_weights, start={**START, "mask": mask})
    assert all(record.kept == 6 for record in recorder.rounds[1:])
    assert same_bits(model["mask"], mask)


def test_nothing_is_frozen_before_anybody_trains() -> None:
    def late(partition: int, number: int) -> Sequence[str]:
        return ("head", "base") if number >= 2 else ()

    model, _, _ = run(late, rounds=3)
    assert float((model["base"] - START["base"]).mean()) == pytest.approx(0.2, abs=0.02)
    assert same_bits(model["embed"], START["embed"])
