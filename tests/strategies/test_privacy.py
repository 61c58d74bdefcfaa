"""Central differential privacy of a strategy: what is released, what it costs, when it ends."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from hqde_fl.codec import ErrorFeedback, TopK
from hqde_fl.errors import CheckpointError, ConfigError, RunError
from hqde_fl.privacy import AdaptiveClipping, CentralDP, NoiseSource, SecureGaussian, SeededGaussian
from hqde_fl.privacy.ledger import Ledger, PrivacyState, Release
from hqde_fl.privacy.noise_source import Floats
from hqde_fl.protocol.members import select_member
from hqde_fl.protocol.records import from_record, to_record
from hqde_fl.rules import Aggregator, Bucketing, Chain, Clipping, Krum, Mean, Tree
from hqde_fl.selection import Ensemble, Oort, Poisson, Uniform
from hqde_fl.selection.ensemble import Assignment
from hqde_fl.strategies.callbacks import Callback
from hqde_fl.strategies.hqde import HQDEStrategy
from hqde_fl.strategies.round.private_aggregation import NOISE_ALONE
from hqde_fl.updates.roles import Roles
from tests.strategies import ensembles
from tests.strategies.federation import MODEL, Recorder, federation, run, strategy_with


@dataclass(frozen=True)
class NoNoise(NoiseSource):
    """Adds nothing, so that sums can be seen."""

    def add_noise(
        self, values: Floats, deviation: float, sensitivity: float, rng: np.random.Generator
    ) -> Floats:
        return values


def private(recorder: Recorder | None = None, **options: Any) -> HQDEStrategy:
    """Return a strategy with differential privacy: noise multiplier 1, Poisson sampling of 10."""
    privacy: dict[str, Any] = {
        "noise_multiplier": 1.0,
        "accountant": "rdp",
        "noise": SeededGaussian(),
        **options.pop("privacy", {}),
    }
    if "target_epsilon" in privacy:
        privacy.pop("noise_multiplier")
    defaults = {"selector": Poisson(), "min_available_nodes": 10, "roles": Roles()}
    return strategy_with(
        recorder or Recorder(), privacy=CentralDP(**privacy), **{**defaults, **options}
    )


def weights(state: dict[str, torch.Tensor]) -> torch.Tensor:
    names = [name for name, value in MODEL.items() if value.is_floating_point()]
    return torch.cat([(state[name] - MODEL[name]).reshape(-1) for name in names])


def test_the_model_moves_by_the_sum_of_clipped_updates_over_the_expected_cohort() -> None:
    model = run(private(privacy={"noise": NoNoise(), "clipping_norm": 0.5}), rounds=1)
    assert float(weights(model).norm()) == pytest.approx(0.5, rel=1e-3)
    recorder = Recorder()
    half = private(
        recorder, privacy={"noise": NoNoise(), "clipping_norm": 0.5}, selector=Poisson(0.5)
    )
    moved = float(weights(run(half, rounds=1)).norm())
    assert moved == pytest.approx(0.5 * recorder.rounds[1].kept / 5, rel=1e-3)
    assert recorder.rounds[1].kept != 5


def test_noise_has_the_deviation_of_the_record() -> None:
    recorder = Recorder()
    models = [
        weights(run(private(recorder, seed=seed, privacy={"clipping_norm": 2.0}), rounds=1))
        for seed in range(40)
    ]
    spread = torch.stack(models).std(dim=0)
    assert recorder.rounds[-1].diagnostics["noise-deviation"] == pytest.approx(0.2)
    assert spread.mean() == pytest.approx(0.2, rel=0.15)


def enormous(content: RecordDict) -> RecordDict:
    state = from_record(content.array_records["arrays"])
    far = {n: t + 1e6 if t.is_floating_point() else t for n, t in state.items()}
    content.array_records["arrays"] = to_record(far)
    content.metric_records["metrics"]["num-examples"] = 1_000_000
    return content


def gone(content: RecordDict) -> RecordDict:
    return RecordDict()


@pytest.mark.parametrize("change", [enormous, gone], ids=["enormous", "gone"])
def test_no_client_moves_the_model_further_than_the_clipping_norm(change: Any) -> None:
    def strategy() -> HQDEStrategy:
        return private(privacy={"noise": NoNoise(), "clipping_norm": 0.5})

    honest, other = run(strategy(), rounds=1), run(strategy(), change, rounds=1)
    assert float((weights(honest) - weights(other)).norm()) <= 0.5 / 10 * (1 + 1e-3)


def test_nothing_but_the_noised_sum_is_recorded_of_the_data() -> None:
    recorder = Recorder()
    strategy = private(recorder)
    model = run(strategy)
    assert [dict(record.clients_train) for record in recorder.rounds] == [{}, {}, {}]
    assert strategy.state is not None
    assert strategy.state.histories == {}
    assert torch.equal(model["steps"], MODEL["steps"])  # a counter of the clients
    assert set(recorder.rounds[-1].diagnostics) == {
        "clipping-norm",
        "noise-deviation",
        "noise-multiplier",
    }


def test_epsilon_grows_and_is_that_of_the_accountant() -> None:
    recorder = Recorder()
    strategy = private(recorder, selector=Poisson(0.3))
    run(strategy, rounds=3)
    plan = strategy.settings.plan
    assert plan is not None
    expected = [plan.accountant.epsilon(1.0, rounds) for rounds in (1, 2, 3)]
    assert [record.epsilon for record in recorder.rounds] == [None, *expected]


def test_a_target_is_met_by_the_last_round_and_not_exceeded_when_there_are_more() -> None:
    recorder = Recorder()
    strategy = private(recorder, privacy={"target_epsilon": 3.0})
    run(strategy, rounds=3)
    assert 2.98 < (recorder.rounds[-1].epsilon or 0) <= 3.0
    assert strategy.state is not None
    grid, longer = federation(None), private(recorder, privacy={"target_epsilon": 3.0})
    result = longer.start(grid, to_record(MODEL), 6, resume=strategy.state)
    assert recorder.rounds[-1].round == 3
    assert result.arrays is not None


class Endings(Callback):
    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.ended = 0

    def on_early_end(self, reason: str) -> None:
        self.reasons.append(reason)

    def on_end(self, arrays: ArrayRecord) -> None:
        self.ended += 1


def test_a_run_ends_before_the_round_that_would_exceed_its_budget() -> None:
    recorder, endings = Recorder(), Endings()
    strategy = private(
        recorder, privacy={"max_epsilon": 9.0}, callbacks=[recorder, endings]
    )  # 5.2, 8.3, ...
    run(strategy, rounds=9)
    assert recorder.rounds[-1].round < 9
    assert (recorder.rounds[-1].epsilon or 0) <= 9.0
    assert endings.ended == 1
    assert len(endings.reasons) == 1
    assert "the limit is 9" in endings.reasons[0]


def test_a_budget_too_small_for_one_round_fails_and_asks_nobody() -> None:
    recorder = Recorder()
    with pytest.raises(RunError, match="round 1 would make epsilon"):
        run(private(recorder, privacy={"max_epsilon": 0.01}))
    assert [record.round for record in recorder.rounds] == [0]


def test_inside_another_strategy_a_spent_budget_is_an_error() -> None:
    strategy, grid = private(privacy={"max_epsilon": 6.0}), federation(None)
    arrays = to_record(MODEL)
    messages = strategy.configure_train(1, arrays, ConfigRecord(), grid)
    arrays, _ = strategy.aggregate_train(1, grid.send_and_receive(messages))
    assert arrays is not None
    with pytest.raises(RunError, match="round 2 would make epsilon"):
        strategy.configure_train(2, arrays, ConfigRecord(), grid)
    with pytest.raises(ConfigError, match="noise_multiplier must be given inside another"):
        private(privacy={"target_epsilon": 3.0}).configure_train(1, arrays, ConfigRecord(), grid)


def test_a_round_without_clients_releases_the_noise_alone() -> None:
    recorder = Recorder()
    run(private(recorder, selector=Poisson(0.1), seed=5), rounds=12)
    empty = [record for record in recorder.rounds[1:] if record.asked == 0]
    assert empty
    assert all(record.note == NOISE_ALONE and not record.void for record in empty)
    assert len({record.epsilon for record in recorder.rounds}) == 13


def broken(message: Message, context: Context, call: ClientAppCallable) -> Message:
    raise ValueError("broken")


def test_a_run_of_noise_alone_fails_and_says_what_became_of_the_clients() -> None:
    recorder, grid = Recorder(), federation(None, mods=[broken])
    with pytest.raises(RunError, match=r"no round produced an aggregate.* 20 failed"):
        private(recorder).start(grid, to_record(MODEL), 2)
    assert recorder.rounds[-1].note == NOISE_ALONE


def test_the_clipping_norm_adapts_by_the_noised_count() -> None:
    recorder = Recorder()
    adaptive = AdaptiveClipping(quantile=0.5, learning_rate=0.2)
    run(private(recorder, privacy={"adaptive": adaptive, "clipping_norm": 0.1}), rounds=3)
    norms = [record.diagnostics["clipping-norm"] for record in recorder.rounds[1:]]
    fractions = [record.diagnostics["unclipped"] for record in recorder.rounds[1:]]
    assert norms[0] == 0.1
    assert norms[1] == pytest.approx(0.1 * np.exp(-0.2 * (fractions[0] - 0.5)))
    assert norms[-1] > 0.1  # every update is longer


@pytest.mark.parametrize(
    "rule",
    [
        Tree(fanout=3),
        Chain(Clipping(9.0), Mean()),
        Chain(Bucketing(5), Mean()),
        Chain(Bucketing(2), Clipping(9.0), Mean()),
    ],
    ids=["tree", "clipping", "bucketing", "bucketing and clipping"],
)
def test_rules_that_equal_the_mean_give_its_result_and_its_noise(rule: Aggregator) -> None:
    options = {"selector": Uniform(), "privacy": {"clipping_norm": 1.0}}
    mean, other = Recorder(), Recorder()
    expected = run(private(mean, **options), rounds=1)
    model = run(private(other, rule=rule, **options), rounds=1)
    assert torch.allclose(weights(model), weights(expected), atol=1e-6)
    assert other.rounds[-1].epsilon == mean.rounds[-1].epsilon


def test_a_rule_of_its_own_clipping_shortens_each_update() -> None:
    rule = Chain(Clipping(0.25), Mean())
    model = run(private(rule=rule, privacy={"noise": NoNoise()}), rounds=1)
    assert float(weights(model).norm()) == pytest.approx(0.25, rel=1e-3)


@pytest.mark.parametrize("assignment", ["all", "round-robin"])
def test_members_of_an_ensemble_are_clipped_together(assignment: Assignment) -> None:
    strategy = private(
        ensemble=Ensemble(2, assignment),
        privacy={"noise": NoNoise(), "clipping_norm": 1.0},
        min_available_nodes=6,
    )
    after = ensembles.run(strategy, ensembles.Clients(6))
    before = [select_member(member, ensembles.start(2)) for member in range(2)]
    moves = [new["w"] - old["w"] for new, old in zip(after, before, strict=True)]
    together = 0.5**0.5 if assignment == "all" else 1.0
    assert [float(move.norm()) for move in moves] == pytest.approx([together] * 2, rel=0.02)


def test_updates_are_clipped_as_they_were_decoded() -> None:
    strategy = private(
        privacy={"noise": NoNoise(), "clipping_norm": 0.5},
        codec=ErrorFeedback(TopK(0.5)),
    )
    model = run(strategy, rounds=1)
    assert float(weights(model).norm()) == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": Krum(f=1)}, "rule must be one of bounded sensitivity .* which of the others"),
        ({"rule": Mean(weighted=True)}, "weighted = true"),
        ({"selector": Oort()}, "selector must be 'poisson' or 'uniform'"),
        ({"quorum": 2}, "quorum must be 0 with differential privacy.* found 2"),
        ({"fraction_evaluate": 0.5}, "fraction_evaluate must be 0 .* found 0.5"),
        ({"density": "always"}, "density must be 'free' or 'never'"),
        ({"min_available_nodes": 1, "selector": Poisson(0.5)}, "number of all clients"),
        ({"privacy": {"accountant": "pld"}, "selector": Uniform(0.5)}, "'pld' needs"),
        (
            {"rule": Chain(Bucketing(2), Mean()), "selector": Uniform(), "ensemble": Ensemble(2)},
            "members are clipped together",
        ),
    ],
    ids=[
        "rule",
        "weighted",
        "selector",
        "quorum",
        "evaluation",
        "density",
        "clients",
        "accountant",
        "members",
    ],
)
def test_what_would_release_private_numbers_is_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        private(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"roles": None}, "roles must be given"),
        ({"roles": Roles({"layer.bias": "statistics"})}, "buffers must be 'local' .*layer.bias"),
    ],
    ids=["inferred roles", "statistics"],
)
def test_models_that_would_tell_more_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(private(**options))


def test_statistics_stay_as_they_were_whatever_clients_send() -> None:
    strategy = private(roles=Roles({"layer.bias": "statistics"}), buffers="local")
    assert torch.equal(run(strategy)["layer.bias"], MODEL["layer.bias"])


def test_a_client_that_changes_frozen_entries_is_rejected() -> None:
    recorder = Recorder()
    with pytest.raises(RunError, match=r"changed 'layer\.bias', which is not trained"):
        run(private(recorder, roles=Roles({"layer.bias": "frozen"})))
    assert recorder.rounds[-1].rejected == 10


def test_a_delta_of_one_over_the_clients_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "flwr"):
        run(private(privacy={"delta": 0.1}), rounds=1)
    assert "delta = 0.1 is not below 1 / clients = 0.1" in caplog.text


def test_the_same_release_again_spends_nothing_and_another_one_does() -> None:
    ledger, recorder = Ledger(), Recorder()
    first = private(recorder, ledger=ledger)
    run(first, rounds=3)
    again = private(recorder, ledger=ledger)
    run(again, rounds=3)
    assert len(ledger.read()) == 3
    assert recorder.rounds[-1].epsilon == recorder.rounds[3].epsilon
    other = private(recorder, ledger=ledger, seed=1)
    run(other, rounds=3)
    plan = other.settings.plan
    assert plan is not None
    assert len(ledger.read()) == 6
    assert recorder.rounds[-1].epsilon == plan.accountant.epsilon(1.0, {1: 2, 2: 2, 3: 2})


def test_a_repeated_round_without_budget_keeps_the_model() -> None:
    ledger, recorder = Ledger(), Recorder()
    limit = {"max_epsilon": 6.0}  # one round costs 5.2, two releases of it 8.3
    run(private(ledger=ledger, privacy=limit), rounds=1)
    with pytest.raises(RunError, match="no round produced an aggregate"):
        run(private(recorder, ledger=ledger, privacy=limit, seed=1), rounds=1)
    assert "no budget is left" in (recorder.rounds[-1].note or "")
    assert len(ledger.read()) == 1


def test_a_ledger_of_another_run_is_refused() -> None:
    ledger = Ledger()
    ledger.add(Release(1, "a", 2.0))
    known = PrivacyState(1.0, 1.0, {1: ("b",)})
    strategy = private(ledger=ledger)
    run_state = private()
    run(run_state, rounds=1)
    assert run_state.state is not None
    state = replace(run_state.state, privacy=known)
    with pytest.raises(CheckpointError, match="1 of 1 releases are missing"):
        strategy.start(federation(None), to_record(MODEL), 2, resume=state)


def test_a_seeded_run_can_be_repeated_and_a_secure_one_cannot() -> None:
    assert torch.equal(weights(run(private())), weights(run(private())))
    secure = {"noise": SecureGaussian()}
    first, second = (weights(run(private(privacy=secure), rounds=1)) for _ in range(2))
    assert (first != second).all()


def test_with_secure_noise_the_clients_do_not_follow_from_the_seed() -> None:
    cohorts = set()
    for _ in range(4):
        recorder = Recorder()
        secure = {"noise": SecureGaussian()}
        run(private(recorder, privacy=secure, selector=Poisson(0.5)), rounds=2)
        chosen = [tuple(c.partition for c in record.clients) for record in recorder.rounds]
        cohorts.add(tuple(chosen))
    assert len(cohorts) > 1
