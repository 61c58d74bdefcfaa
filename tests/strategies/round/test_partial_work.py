"""Clients that do a part of their local training, from the selector to the aggregate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, final

import flwr.serverapp.strategy as flower
import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from hypothesis import given, settings
from hypothesis import strategies as st

from hqde_fl.protocol.partial_work import confirmed_work, reported_metrics
from hqde_fl.protocol.records import from_record, to_record
from hqde_fl.rules import (
    NNM,
    Aggregator,
    ByzantineFilter,
    Chain,
    Cohort,
    Entanglement,
    GeometricMedian,
    Mean,
    Median,
    MultiKrum,
    Robust,
    Tree,
    TrimmedMean,
)
from hqde_fl.selection import Candidates, Ensemble, Selection, Selector
from hqde_fl.selection.base import State
from hqde_fl.simulations.attacks.attack_grid import AttackGrid
from hqde_fl.simulations.attacks.ipm import IPM
from hqde_fl.simulations.engines.inline import InlineGrid
from hqde_fl.strategies.round.partial_work import scaled_to_mean_work
from hqde_fl.updates import Updates
from tests.strategies import ensembles
from tests.strategies.federation import HOSTILE, Recorder, strategy_with

D, STEPS = 40, 16
START = {"w": torch.arange(D, dtype=torch.float32) / 8}

Confirmed = Callable[[int, float | None], float | None]
"""(partition, the part it was asked for) -> the part that its reply confirms."""


@final
@dataclass(frozen=True)
class Parts(Selector):
    """Selects all clients, and gives some of them a part of the work."""

    uses_history: ClassVar[bool] = False

    parts: Mapping[int, float] = field(default_factory=dict)

    def size(self, available: int) -> int:
        return available

    def select(self, candidates: Candidates, state: State, rng: np.random.Generator) -> Selection:
        return Selection(list(candidates.ids), self.parts, {"rounds": candidates.round})


def step(partition: int) -> torch.Tensor:
    """Return what each step of a client adds to the weights."""
    noise = torch.Generator().manual_seed(partition)
    return 1 / 16 + torch.randn(D, generator=noise) / 64


def honest(partition: int, asked: float | None) -> float | None:
    return asked


class Clients(InlineGrid):
    """A Grid of clients that take ``STEPS`` steps, or the part of these that they are asked for."""

    def __init__(
        self,
        partitions: int = 8,
        confirmed: Confirmed = honest,
        obeys: Callable[[int], bool] = lambda partition: True,
    ) -> None:
        self.asked: dict[int, float | None] = {}
        app = ClientApp()

        @app.train()
        def train(message: Message, context: Context) -> Message:
            partition = int(context.node_config["partition-id"])
            asked = message.content.config_records["config"].get("work")
            assert asked is None or isinstance(asked, float)
            self.asked[partition] = asked
            part = asked if asked is not None and obeys(partition) else 1.0
            state = from_record(message.content.array_records["arrays"])
            state["w"] = state["w"] + math.ceil(part * STEPS) * step(partition)
            values = {"num-examples": 10 * (partition + 1), "train-loss": 0.25}
            if (done := confirmed(partition, asked)) is not None:
                values["work"] = done
            content = {"arrays": to_record(state), "metrics": MetricRecord(values)}
            return Message(RecordDict(content), reply_to=message)  # type: ignore[arg-type]

        super().__init__(app, partitions, {}, seed=1)


def moved(
    rule: Aggregator, parts: Mapping[int, float], clients: Grid, rounds: int = 1
) -> tuple[torch.Tensor, Recorder]:
    """Return how far a run moves the weights, and its records."""
    recorder = Recorder()
    strategy = strategy_with(recorder, rule=rule, selector=Parts(parts))
    result = strategy.start(clients, to_record(START), rounds)
    return from_record(result.arrays)["w"] - START["w"], recorder


def nova(weights: list[float], steps: list[int], changes: list[list[float]]) -> list[float]:
    """Return FedNova's step by plain loops: Wang et al. (2020), equation 6, for local SGD.

    The updates over their number of steps, weighted by p_i, times the weighted number of steps.
    """
    total = sum(weights)
    effective = sum(p / total * tau for p, tau in zip(weights, steps, strict=True))
    return [
        effective
        * sum(p / total * x[j] / t for p, t, x in zip(weights, steps, changes, strict=True))
        for j in range(D)
    ]


PARTS = {0: 0.5, 3: 0.125, 4: 0.25, 7: 0.875}


@pytest.mark.parametrize("rule", [Mean(), Mean(weighted=True), Tree(Mean(weighted=True))], ids=str)
def test_a_mean_of_partial_updates_is_fednova(rule: Aggregator) -> None:
    delta, _ = moved(rule, PARTS, Clients())
    steps = [math.ceil(PARTS.get(client, 1.0) * STEPS) for client in range(8)]
    weights = [1.0] * 8 if rule == Mean() else [10.0 * (client + 1) for client in range(8)]
    changes = [(tau * step(client)).tolist() for client, tau in enumerate(steps)]
    assert delta.tolist() == pytest.approx(nova(weights, steps, changes), rel=1e-5)


@given(
    st.lists(st.tuples(st.integers(1, 8), st.floats(0.01, 1e3)), min_size=1, max_size=8),
    st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_scaled_updates_have_the_mean_length_of_training(
    clients: list[tuple[int, float]], weighted: bool
) -> None:
    work = [part / 8 for part, _ in clients]
    examples = tuple(float(n) for _, n in clients)
    cohort = Cohort(tuple(range(len(clients))), num_examples=examples)
    rows = torch.tensor(work, dtype=torch.float64)[:, None] * torch.ones(3, dtype=torch.float64)
    rule = Mean(weighted=weighted, cap=float("inf"))
    scaled = scaled_to_mean_work(Updates(rows), work, rule, cohort).tile(0, 3)
    weights = examples if weighted else (1.0,) * len(work)
    mean = sum(w * p for w, p in zip(weights, work, strict=True)) / sum(weights)
    assert torch.allclose(scaled, torch.full_like(scaled, mean), rtol=1e-12)


def test_where_all_do_the_same_part_nothing_is_scaled() -> None:
    updates = Updates(torch.randn(3, 5))
    for work in ([], [1.0] * 3, [0.5] * 3):
        assert scaled_to_mean_work(updates, work, Mean(), Cohort.of(3)) is updates


def test_only_clients_with_a_part_are_told_and_records_and_metrics_say_what_was_done() -> None:
    clients = Clients()
    _, recorder = moved(Mean(), PARTS, clients)
    assert clients.asked == {client: PARTS.get(client) for client in range(8)}
    assert {c.partition: c.work for c in recorder.rounds[-1].clients} == {
        client: PARTS.get(client, 1.0) for client in range(8)
    }
    # the server's own number is no metric, and the mean of the others' is as ever
    assert set(recorder.rounds[-1].clients_train) == {"train-loss"}


def test_a_metric_of_that_name_stays_if_nobody_was_asked_for_a_part() -> None:
    _, recorder = moved(Mean(), {}, Clients(confirmed=lambda partition, asked: 7.0))
    assert recorder.rounds[-1].clients_train["work"] == 7.0
    assert {c.work for c in recorder.rounds[-1].clients} == {1.0}


def test_parts_are_rounded_down_to_levels() -> None:
    clients = Clients()
    moved(Mean(), {0: 0.3, 1: 0.01, 2: 0.999, 3: 1.0, 4: np.float64(0.5)}, clients)
    assert clients.asked == {
        0: 0.25,
        1: 0.125,
        2: 0.875,
        3: None,
        4: 0.5,
        5: None,
        6: None,
        7: None,
    }


@pytest.mark.parametrize("claim", [None, 0.0, -1.0, 1e-9, 0.25, 0.75, 2.0, 1.0])
def test_a_client_that_confirms_another_part_counts_as_one_that_did_all(
    claim: float | None,
) -> None:
    parts = {HOSTILE: 0.5, 1: 0.5}
    liar = Clients(confirmed=lambda p, asked: claim if p == HOSTILE else asked)
    delta, recorder = moved(Mean(), parts, liar)
    work = [0.5 if client == 1 else 1.0 for client in range(8)]
    assert recorder.client(HOSTILE).work == 1.0
    mean = sum(work) / 8
    expected = sum(
        (0.5 if client in parts else 1.0) * STEPS * step(client) * mean / work[client]
        for client in range(8)
    )
    assert torch.allclose(delta, torch.as_tensor(expected) / 8, rtol=1e-5)


def test_stock_clients_that_do_all_anyway_count_as_such() -> None:
    stock = Clients(confirmed=lambda partition, asked: None, obeys=lambda partition: False)
    delta, recorder = moved(Mean(), PARTS, stock)
    assert torch.allclose(delta, torch.stack([STEPS * step(p) for p in range(8)]).mean(0))
    assert {c.work for c in recorder.rounds[-1].clients} == {1.0}


def test_confirmed_work_and_reported_metrics() -> None:
    assert confirmed_work({"work": 0.5, "a": 1.0}, 0.5) == 0.5
    assert confirmed_work({"a": 1.0}, 0.5) == confirmed_work({"work": 0.25}, 0.5) == 1.0
    assert reported_metrics({"work": 0.5, "a": 1.0}, 0.5) == {"a": 1.0}
    assert reported_metrics({"work": 0.5, "a": 1.0}, 1.0) == {"work": 0.5, "a": 1.0}


@pytest.mark.parametrize(
    "rule",
    [
        ByzantineFilter(),
        Robust(),
        MultiKrum(f=1),
        Chain(NNM(1), TrimmedMean(1)),
        GeometricMedian(),
        Median(),
        Entanglement(),
    ],
    ids=lambda rule: type(rule).__name__,
)
def test_robust_rules_do_not_take_little_work_for_an_attack(rule: Aggregator) -> None:
    delta, recorder = moved(rule, {2: 0.125, 5: 0.25}, Clients(10), rounds=2)
    full, with_all = moved(rule, {}, Clients(10), rounds=2)
    reasons = [
        {c.partition: c.reason for c in records.rounds[-1].clients}
        for records in (recorder, with_all)
    ]
    assert reasons[0] == reasons[1]  # MultiKrum leaves one out anyway
    mean_work = (8 + 0.125 + 0.25) / 10
    assert torch.allclose(delta, full * mean_work, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("per_client", [1, 2])
def test_members_of_an_ensemble_are_scaled_each_in_its_own_cohort(per_client: int) -> None:
    recorder = Recorder()
    strategy = strategy_with(
        recorder,
        selector=Parts({HOSTILE: 0.5, 1: 0.5}),
        ensemble=Ensemble(2, assignment="round-robin", members_per_client=per_client),
    )

    def confirm(content: RecordDict) -> RecordDict:
        content.metric_records["metrics"]["work"] = 0.5
        return content

    before, clients = ensembles.start(2), ensembles.Clients(6, confirm)  # of HOSTILE only
    after = ensembles.run(strategy, clients)
    records = {c.partition: c for c in recorder.rounds[-1].clients}
    parts = {partition: record.work for partition, record in records.items()}
    assert parts == {**dict.fromkeys(range(6), 1.0), HOSTILE: 0.5}
    for member, state in enumerate(after):
        own = [p for p, record in records.items() if member in record.members]
        mean = sum(parts[p] for p in own if p is not None) / len(own)
        steps = [mean / parts[p] * ensembles.step(p, member) for p in own if p is not None]
        moved_by = state["w"] - before[f"member-{member}/w"]
        assert torch.allclose(moved_by, torch.stack(steps).mean(0), atol=1e-4)


def test_flowers_wrappers_pass_parts_on() -> None:
    """They call ``configure_train`` and ``aggregate_train``; without noise they change nothing."""
    alone, _ = moved(Mean(), PARTS, Clients(), rounds=2)
    recorder = Recorder()
    inner = strategy_with(recorder, selector=Parts(PARTS))
    wrapped = flower.DifferentialPrivacyServerSideFixedClipping(inner, 0.0, 1e6, 8)
    clients = Clients()
    result = wrapped.start(clients, to_record(START), 2, train_config=ConfigRecord({}))
    assert clients.asked == {client: PARTS.get(client) for client in range(8)}
    assert torch.allclose(from_record(result.arrays)["w"] - START["w"], alone, atol=1e-5)
    assert inner.state is not None
    assert inner.state.selector == {"rounds": 2}


@pytest.mark.parametrize("parts", [{}, {0: 0.5, 3: 0.25}, {HOSTILE: 0.125, 1: 0.5}])
def test_colluding_attackers_know_what_the_rule_will_compare(parts: dict[int, float]) -> None:
    """The negative mean of the honest updates stays that, whatever parts of work there are."""
    attackers = [HOSTILE, 6]
    delta, recorder = moved(Mean(), parts, AttackGrid(Clients(), IPM(1.0), attackers, seed=1))
    work = {c.partition: c.work for c in recorder.rounds[-1].clients}
    assert work == {client: parts.get(client, 1.0) for client in range(8)}
    full = torch.stack([STEPS * step(client) for client in range(8) if client not in attackers])
    mean_work = sum(work.values()) / 8
    assert torch.allclose(delta, full.mean(0) * mean_work * (8 - 4) / 8, rtol=1e-4)
