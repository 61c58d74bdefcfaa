"""A rule gets the server's own update, the layers and the weights from the strategy."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from hqde_fl.errors import ConfigError, RunError
from hqde_fl.protocol.records import to_record
from hqde_fl.rules import LASA, Chain, Clipping, Cohort, FLDetector, FLTrust, Median
from hqde_fl.strategies.server_data import context_for
from hqde_fl.strategies.settings import Aggregation
from hqde_fl.strategies.state import ModelState
from tests.strategies.federation import MODEL, Recorder, run, strategy_with


def shifted(state: Mapping[str, Tensor], number: int, examples: float) -> dict[str, Tensor]:
    """A server whose training adds a number to every weight."""
    return {
        name: value + 0.5 if value.is_floating_point() else value for name, value in state.items()
    }


def diverged(state: Mapping[str, Tensor], number: int, examples: float) -> dict[str, Tensor]:
    return {name: value * torch.nan for name, value in state.items()}


def test_a_rule_is_given_what_it_needs_and_no_more() -> None:
    model, clients = ModelState.of(to_record(MODEL)), Cohort((0, 1, 2), (5.0, 7.0, 1e30), round=1)
    reference = context_for(Chain(Clipping(1.0), FLTrust()), model, clients, shifted)
    assert reference.reference is not None
    torch.testing.assert_close(reference.reference, torch.full_like(model.flat, 0.5))
    assert reference.layers == ()
    assert reference.weights is None
    layers = context_for(LASA(), model, clients, None).layers
    assert layers == tuple(entry.numbers for entry in model.layout.weights)
    assert context_for(FLDetector(), model, clients, None).weights is model.origin
    nothing = context_for(Median(), model, clients, None)
    assert (nothing.reference, nothing.layers, nothing.weights) == (None, (), None)


def test_the_strategy_trains_on_the_servers_data_in_every_round() -> None:
    rounds: list[tuple[int, float]] = []

    def training(state: Mapping[str, Tensor], number: int, examples: float) -> dict[str, Tensor]:
        rounds.append((number, examples))
        return shifted(state, number, examples)

    strategy = strategy_with(Recorder(), rule=FLTrust(), root_training=training)
    run(strategy, None, rounds=2)
    assert rounds == [(1, 14.0), (2, 14.0)]


def test_a_server_whose_training_diverges_keeps_the_model() -> None:
    recorder = Recorder()
    strategy = strategy_with(recorder, rule=FLTrust(), root_training=diverged)
    with pytest.raises(RunError, match="finite update of the server's own"):
        run(strategy, None, rounds=1)
    assert "finite update of the server's own" in str(recorder.rounds[-1].note)


def test_training_that_is_missing_or_not_used_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"FLTrust\(\) needs root_training .* found none"):
        Aggregation(FLTrust())
    with pytest.raises(ConfigError, match=r"a reference update only, found Median\(\)"):
        Aggregation(Median(), root_training=shifted)
