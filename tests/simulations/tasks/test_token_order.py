"""The task of ``experiments/lora.toml``, and what its messages cost."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.experiment.experiment import APP_ROOT, Experiment
from hqde_fl.simulations.recording.recorded_run import read_lines
from hqde_fl.simulations.run import run_experiment
from hqde_fl.simulations.tasks import TokenOrder
from hqde_fl.simulations.tasks.lora_transformer import LoRALinear
from hqde_fl.simulations.tasks.partition import Iid
from hqde_fl.updates.roles import roles_of

PAYLOAD, FROZEN = 6918 * 4 // 8, 397_568
"""Bytes of the adapters and the head at 4 bits a number, and the number of frozen numbers."""


@pytest.fixture(scope="module")
def task():
    return TokenOrder().build(Iid(), 7)


def test_the_class_is_the_order_of_three_tokens(task):
    seen = {}
    for tokens, label in task.test():
        order = tuple(token for token in tokens.tolist() if token < 3)
        assert sorted(order) == [0, 1, 2]
        assert seen.setdefault(int(label), order) == order
    assert len(set(seen.values())) == 6
    assert np.bincount(TokenOrder().labels()).min() == 333


def test_training_and_test_sequences_are_drawn_anew(task):
    trained = {tuple(x.tolist()) for i in range(4) for x, _ in task.partition(i, 4)}
    tested = {tuple(x.tolist()) for x, _ in task.test()}
    assert len(trained) > 1990
    assert len(tested - trained) > 590


def test_adapters_and_head_are_trained_and_nothing_else():
    network = TokenOrder().network()
    roles = roles_of(network)
    trained = {name for name, role in roles.roles.items() if role == "trainable"}
    adapters = {
        f"blocks.{block}.{layer}.lora_{part}.weight"
        for block in (0, 1)
        for layer in ("query_key_value", "output")
        for part in "ab"
    }
    assert trained == adapters | {"head.weight", "head.bias"}
    assert set(roles.roles.values()) == {"trainable", "frozen"}
    frozen = sum(p.numel() for p in network.parameters() if not p.requires_grad)
    assert frozen == FROZEN
    assert TokenOrder(rank=2).network().head.weight.requires_grad


def test_a_layer_begins_as_the_frozen_one_and_its_adapter_gets_gradients():
    torch.manual_seed(1)
    layer = LoRALinear(6, 5, 2)
    x = torch.randn(3, 6)
    assert torch.equal(layer(x), layer.base(x))
    with torch.no_grad():
        layer.lora_b.weight.fill_(0.5)
    extra = 2 * x @ layer.lora_a.weight.T @ layer.lora_b.weight.T
    torch.testing.assert_close(layer(x), layer.base(x) + extra)


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"layers": 0}, {"width": 0}, {"width": 6}])
def test_impossible_sizes_are_refused(wrong):
    with pytest.raises(ConfigError, match=rf"TokenOrder\.{next(iter(wrong))} must be .*found"):
        TokenOrder(**wrong)


@pytest.mark.slow
def test_from_the_second_round_on_messages_cost_the_adapters(tmp_path):
    quick = ("rounds=3", "clients.epochs=1", "clients.batch-size=64")
    experiment = Experiment.load(APP_ROOT / "experiments" / "lora.toml", quick)
    run_experiment(experiment, tmp_path / "run", report=False)
    _, first, *later = read_lines(tmp_path / "run" / "rounds.jsonl")
    assert first["bytes-down-by-role"]["frozen"] > 10 * 4 * FROZEN
    for line in later:
        for key in ("bytes-down", "bytes-up"):
            assert line[key] <= 10 * (1.1 * PAYLOAD + 2048)
            parts = line[f"{key}-by-role"]
            assert parts["frozen"] == 0
            assert parts["trainable"] >= 10 * PAYLOAD
            assert sum(parts.values()) == line[key]
