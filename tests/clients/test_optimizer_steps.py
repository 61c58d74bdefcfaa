"""The short step of plain SGD has the bits of torch's."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam

from hqde_fl.clients.optimizer_steps import clear_gradients, step_of


def stepped(short: bool) -> list[torch.Tensor]:
    """Return the weights of a model after three steps; one of its weights never has a gradient."""
    torch.manual_seed(0)
    model, unused = nn.Linear(5, 3), nn.Parameter(torch.ones(2))
    optimizer = SGD([*model.parameters(), unused], lr=0.3)
    step = step_of(optimizer) if short else optimizer.step
    for _ in range(3):
        clear_gradients(optimizer)
        assert all(parameter.grad is None for parameter in model.parameters())
        model(torch.randn(4, 5)).square().sum().backward()
        step()
    return [*model.parameters(), unused]


def test_plain_sgd() -> None:
    pairs = zip(stepped(True), stepped(False), strict=True)
    assert all(torch.equal(short, torchs) for short, torchs in pairs)


@pytest.mark.parametrize("setting", [{"momentum": 0.9}, {"weight_decay": 0.1}, {"maximize": True}])
def test_other_settings_take_torchs_step(setting: dict[str, float]) -> None:
    optimizer = SGD([nn.Parameter(torch.ones(2))], lr=0.1, **setting)  # type: ignore[arg-type]
    assert step_of(optimizer) == optimizer.step


def test_other_optimizers_and_hooks_take_torchs_step() -> None:
    adam, hooked = (kind([nn.Parameter(torch.ones(2))], lr=0.1) for kind in (Adam, SGD))
    assert step_of(adam) == adam.step
    assert step_of(hooked) != hooked.step
    handle = hooked.register_step_post_hook(lambda *_: None)
    assert step_of(hooked) == hooked.step
    handle.remove()
