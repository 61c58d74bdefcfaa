"""Sources of a rule's confidence in the clients, and the density diagnostics of a round."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from hqde_fl.errors import ConfigError
from hqde_fl.protocol.records import to_record
from hqde_fl.protocol.screening import Accepted
from hqde_fl.rules import (
    NNM,
    Bucketing,
    CenteredClipping,
    Chain,
    Cohort,
    Krum,
    Mean,
    Superposition,
    Tree,
    aggregate,
)
from hqde_fl.rules.density_matrix import diagnostics
from hqde_fl.rules.gram import measure_geometry
from hqde_fl.strategies.confidence import Confidence
from hqde_fl.strategies.hqde import HQDEStrategy
from hqde_fl.strategies.settings import Aggregation, Reporting
from hqde_fl.strategies.state import ModelState
from hqde_fl.updates import Updates
from hqde_fl.updates.roles import roles_of
from tests.strategies.federation import HOSTILE, MODEL, Recorder, metric, run, strategy_with

REPORTED, HELD_OUT = Superposition(confidence="reported"), Superposition(confidence="held-out")
DENSITY = {"density-purity", "density-entropy", "density-leading", "density-correlation"}


def test_reported_confidence_is_what_a_client_says_and_what_a_liar_gains() -> None:
    recorder = Recorder()
    strategy = strategy_with(recorder, rule=Superposition(confidence="reported", longest=0))
    run(strategy, metric("train-loss", -1e300), rounds=1)  # clipped: as good as a loss of 0
    liar = recorder.client(HOSTILE).influence
    honest = recorder.client(0).influence
    assert liar / honest == pytest.approx(math.exp((1 - math.exp(-0.5)) / 0.25))
    run(strategy, metric("train-loss", math.nan), rounds=1)
    silent = recorder.client(HOSTILE).influence
    assert recorder.client(0).influence / silent == pytest.approx(math.exp(math.exp(-0.5) / 0.25))


@pytest.mark.parametrize(
    ("name", "claim", "expected"),
    [
        ("confidence", 0.3, 0.3),
        ("confidence", 7.0, 1.0),
        ("confidence", -7.0, 0.0),
        ("other", 0.3, 0.0),
        ("train-loss", 0.0, 1.0),
        ("train-loss", 1e308, 0.0),
        ("train-loss", math.log(2), 0.5),
    ],
)
def test_a_claim_is_clipped(name: str, claim: float, expected: float) -> None:
    reply = Accepted(torch.zeros(1), {}, {}, 1.0, {name: claim})
    wanted = name if name != "other" else "confidence"
    confidence = Confidence("reported", wanted).of(None, [reply])  # type: ignore[arg-type]
    assert confidence == pytest.approx((expected,))


def test_held_out_confidence_is_measured_with_the_clients_own_statistics() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    net[0].weight.requires_grad_(False)
    start = net.state_dict()
    model = ModelState.of(to_record(start), roles_of(net))
    own = {"1.running_mean": torch.ones(2), "1.running_var": torch.full((2,), 7.0)}
    update = torch.ones(model.layout.size)
    replies = [Accepted(update, others, {}, 1.0, {}) for others in (own, {})]
    seen: list[Any] = []

    def held_out(state: Any) -> float:
        seen.append(state)
        return 0.5

    assert Confidence("held-out", held_out=held_out).of(model, replies) == (0.5, 0.5)
    for state, others in zip(seen, (own, {}), strict=True):
        assert list(state) == list(start)
        for name, tensor in start.items():
            is_weight = model.layout.by_name[name].offset is not None
            expected = tensor + 1 if is_weight else others.get(name, tensor)
            assert torch.equal(state[name], expected)


def test_held_out_confidence_is_measured_on_each_clients_own_model() -> None:
    recorder, seen = Recorder(), []

    def held_out(state: Any) -> float:
        seen.append(state)
        return {0: 1.0, 1: math.nan, 2: 99.0}.get(len(seen) - 1, 0.5)

    rule = Superposition(confidence="held-out", longest=0)
    run(strategy_with(recorder, rule=rule, held_out=held_out), rounds=1)
    assert len(seen) == 10
    assert {name: t.shape for name, t in seen[0].items()} == {n: t.shape for n, t in MODEL.items()}
    torch.testing.assert_close(seen[3]["layer.weight"], MODEL["layer.weight"] + 1, atol=0.1, rtol=0)
    assert int(seen[3]["steps"]) == 4
    share = [client.influence for client in recorder.rounds[1].clients]
    assert share[0] / share[3] == pytest.approx(math.exp(0.5 / 0.25))
    assert share[2] == pytest.approx(share[0])
    assert share[3] / share[1] == pytest.approx(math.exp(0.5 / 0.25))


def test_confidence_reaches_the_leaves_of_a_tree_and_chained_rules() -> None:
    updates = Updates(torch.randn(9, 5, generator=torch.Generator().manual_seed(0)))
    sure = Cohort(tuple(range(9)), confidence=(1.0, *[0.0] * 8))
    flat = Superposition(temperature=1e-3, confidence="reported", longest=0)
    assert float(aggregate(flat, updates, sure).influence[0]) == pytest.approx(1)
    tree = aggregate(Tree(leaf=flat, root=Mean(), fanout=3), updates, sure)
    assert float(tree.influence[0]) == pytest.approx(1 / 3)
    assert tree.geometry is None
    chain = Chain(NNM(f=0), flat)
    assert chain.confidence_from == Tree(leaf=chain).confidence_from == "reported"
    aggregate(chain, updates, sure)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Superposition(confidence="mine"), "among agreement, efficiency, held-out"),
        (lambda: Chain(Bucketing(2), REPORTED), "needs every client's confidence"),
        (lambda: Tree(root=REPORTED), "a root that asks for no confidence"),
        (lambda: HQDEStrategy(HELD_OUT), "needs held_out to measure the cl"),
        (lambda: Aggregation(Mean(), held_out=lambda s: 1.0), "held_out acts with confidence='h"),
        (lambda: Aggregation(Mean(), confidence_metric="a"), "acts with confidence='reported' on"),
        (lambda: Reporting(density="often"), "density must be among free, always, never"),
        (
            lambda: aggregate(REPORTED, Updates(torch.ones(3, 2))),
            r"confidence='reported'\) needs Cohort\.confidence, found None",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(build: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()


def test_density_is_free_with_the_rules_that_measure_it_anyway() -> None:
    recorder = Recorder()
    run(strategy_with(recorder, rule=Krum(f=2)), rounds=3)
    assert recorder.rounds[1].diagnostics.keys() >= DENSITY
    assert "density-fidelity" not in recorder.rounds[1].diagnostics
    # every client adds the same noise in every round
    assert recorder.rounds[2].diagnostics["density-fidelity"] == pytest.approx(1, abs=1e-6)
    assert recorder.rounds[2].diagnostics["density-correlation"] > 0.99
    run(strategy_with(recorder, rule=Krum(f=2), density="never"), rounds=1)
    assert not recorder.rounds[-1].diagnostics.keys() & DENSITY
    run(strategy_with(recorder, rule=Mean()), rounds=1)
    assert not recorder.rounds[-1].diagnostics.keys() & DENSITY
    run(strategy_with(recorder, rule=Mean(), density="always"), rounds=1)
    always, free = recorder.rounds[-1].diagnostics, recorder.rounds[1].diagnostics
    assert {name: always[name] for name in DENSITY} == pytest.approx(
        {name: free[name] for name in DENSITY}
    )


def test_the_geometry_of_a_rule_is_that_of_the_updates() -> None:
    updates = Updates(torch.randn(7, 40, generator=torch.Generator().manual_seed(1)))
    expected, _ = diagnostics(measure_geometry(updates), range(7))
    remembering = CenteredClipping()
    first = aggregate(remembering, updates)
    for rule, state in ((Chain(NNM(f=1), Krum(f=1)), {}), (remembering, first.state)):
        geometry = aggregate(rule, updates, state=state).geometry
        assert geometry is not None
        described, _ = diagnostics(geometry.leading(7), range(7))
        assert described == pytest.approx(expected)
