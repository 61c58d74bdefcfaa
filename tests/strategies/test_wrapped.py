"""HQDEStrategy inside Flower's wrapper strategies keeps the same state as without them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flwr.serverapp.strategy as flower
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord
from flwr.clientapp.mod import adaptiveclipping_mod, fixedclipping_mod
from flwr.clientapp.typing import Mod
from flwr.serverapp.strategy import Strategy

from hqde_fl.errors import ConfigError
from hqde_fl.protocol.omitted_entries import LEAVE_OUT
from hqde_fl.protocol.records import from_record, to_record
from hqde_fl.rules import ByzantineFilter
from hqde_fl.strategies.hqde import HQDEStrategy
from hqde_fl.strategies.optimizers import SGD
from tests.strategies.federation import Recorder, federation, strategy_with

CLIENTS, ROUNDS, FAR = 10, 3, 1e6
START = {"layer.weight": torch.zeros(2, 3), "layer.bias": torch.ones(2)}

Wrapper = Callable[[HQDEStrategy, float], Strategy]

WRAPPERS: dict[str, tuple[Wrapper, list[Mod]]] = {
    "DifferentialPrivacyServerSideFixedClipping": (
        lambda inner, noise: flower.DifferentialPrivacyServerSideFixedClipping(
            inner, noise, FAR, CLIENTS
        ),
        [],
    ),
    "DifferentialPrivacyClientSideFixedClipping": (
        lambda inner, noise: flower.DifferentialPrivacyClientSideFixedClipping(
            inner, noise, FAR, CLIENTS
        ),
        [fixedclipping_mod],
    ),
    "DifferentialPrivacyServerSideAdaptiveClipping": (
        lambda inner, noise: flower.DifferentialPrivacyServerSideAdaptiveClipping(
            inner, noise, CLIENTS, initial_clipping_norm=FAR
        ),
        [],
    ),
    "DifferentialPrivacyClientSideAdaptiveClipping": (
        lambda inner, noise: flower.DifferentialPrivacyClientSideAdaptiveClipping(
            inner, noise, CLIENTS, initial_clipping_norm=FAR
        ),
        [adaptiveclipping_mod],
    ),
}


def inner(recorder: Recorder) -> HQDEStrategy:
    return strategy_with(recorder, rule=ByzantineFilter(), server_optimizer=SGD(momentum=0.9))


def started(strategy: Strategy, mods: list[Mod], rounds: int = ROUNDS) -> ArrayRecord:
    grid = federation(None, CLIENTS, mods)
    return strategy.start(grid, to_record(START), rounds).arrays


def test_every_wrapper_of_flowers_is_tried() -> None:
    """A wrapper is a Strategy whose constructor takes another one."""
    wrappers = {
        name
        for name, value in vars(flower).items()
        if isinstance(value, type)
        and issubclass(value, Strategy)
        and "strategy" in getattr(value.__init__, "__annotations__", {})
    }
    assert wrappers == set(WRAPPERS)


@pytest.mark.parametrize("name", WRAPPERS)
def test_momentum_and_the_rules_memory_are_kept_between_rounds(name: str) -> None:
    """Without noise, and with a bound that no update reaches, the wrapper changes nothing."""
    wrap, mods = WRAPPERS[name]
    plain, wrapped = inner(Recorder()), inner(Recorder())
    expected = from_record(started(plain, []))
    result = from_record(started(wrap(wrapped, 0.0), mods))
    for key, value in expected.items():
        torch.testing.assert_close(result[key], value, rtol=1e-5, atol=1e-5)
    before, after = remembered(plain), remembered(wrapped)
    torch.testing.assert_close(after["moments"], before["moments"], rtol=1e-5, atol=1e-5)
    assert float(after["moments"]["velocity"].abs().max()) > 2.5  # 1 + .9 + .81: three rounds
    assert after["rule"]["0"]["reputation"] == before["rule"]["0"]["reputation"]
    assert after["round"] == ROUNDS


@pytest.mark.parametrize("name", WRAPPERS)
def test_the_noise_of_a_wrapper_is_in_the_model_that_clients_get(name: str) -> None:
    wrap, mods = WRAPPERS[name]
    strategy = inner(Recorder())
    result = from_record(started(wrap(strategy, 1e-5), mods, rounds=2))
    assert strategy.state is not None
    own = strategy.state.models[0].model()
    noise = result["layer.weight"] - own["layer.weight"]
    assert float(noise.abs().max()) > 0
    # what round 2 started from was the noised model of round 1, not the strategy's own
    grid = federation(None)
    messages = strategy.configure_train(3, to_record(result), _config(), grid)
    sent = from_record(messages[0].content.array_records["arrays"])
    assert torch.equal(sent["layer.weight"], result["layer.weight"])


def _config() -> Any:
    from flwr.app import ConfigRecord

    return ConfigRecord()


def remembered(strategy: HQDEStrategy) -> dict[str, Any]:
    assert strategy.state is not None
    model = strategy.state.models[0]
    return {"moments": dict(model.moments), "rule": model.rule, "round": strategy.state.round}


class Copying(Strategy):
    """A wrapper that hands a copy of the arrays to the inner strategy in every round."""

    def __init__(self, strategy: HQDEStrategy) -> None:
        self.strategy = strategy

    def configure_train(self, server_round, arrays, config, grid):  # type: ignore[no-untyped-def]
        copy = to_record(from_record(arrays))
        return self.strategy.configure_train(server_round, copy, config, grid)

    def aggregate_train(self, server_round, replies):  # type: ignore[no-untyped-def]
        return self.strategy.aggregate_train(server_round, replies)

    def configure_evaluate(self, server_round, arrays, config, grid):  # type: ignore[no-untyped-def]
        return []

    def aggregate_evaluate(self, server_round, replies):  # type: ignore[no-untyped-def]
        return None

    def summary(self) -> None:
        pass


def test_copies_of_the_arrays_change_nothing_to_the_bit() -> None:
    plain, wrapped = inner(Recorder()), inner(Recorder())
    expected = from_record(started(plain, []))
    result = from_record(started(Copying(wrapped), []))
    assert all(torch.equal(result[key], value) for key, value in expected.items())


def test_round_numbers_that_begin_again_are_a_new_run() -> None:
    strategy = inner(Recorder())
    first = from_record(started(Copying(strategy), []))
    again = from_record(started(Copying(strategy), []))
    assert all(torch.equal(again[key], value) for key, value in first.items())


def test_another_kind_of_model_in_the_middle_of_a_run_is_refused() -> None:
    strategy, grid = inner(Recorder()), federation(None)
    started(Copying(strategy), [], rounds=1)
    before = strategy.state
    other = to_record({"layer.weight": torch.zeros(3, 3)})
    with pytest.raises(ConfigError, match="expected 2 arrays of the same names, shapes and dtypes"):
        strategy.configure_train(2, other, _config(), grid)
    assert strategy.state is before


def test_only_in_its_own_run_may_clients_leave_entries_out() -> None:
    """A strategy around this one reads the replies too, also if this one ran alone before."""
    strategy, grid = inner(Recorder()), federation(None)
    arrays = strategy.start(grid, to_record(START), 1).arrays
    messages = strategy.configure_train(1, arrays, ConfigRecord(), grid)
    assert all(LEAVE_OUT not in message.content["config"] for message in messages)
    assert len(messages) == CLIENTS
