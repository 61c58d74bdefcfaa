"""A model begins every message as it was built, whatever its modules keep besides weights."""

from __future__ import annotations

import threading

import cloudpickle
import pytest
import torch
from torch import nn
from torch.optim import SGD

from hqde_fl.clients.fresh_model import FreshModel


class Keeper(nn.Module):
    """Keeps an attribute, a buffer outside of the state dict, and thaws a layer by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.head = nn.Linear(2, 2), nn.Linear(2, 1)
        self.base.weight.requires_grad_(False)
        self.register_buffer("last", torch.zeros(1), persistent=False)
        self.calls: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.append(len(x))
        self.last += len(self.calls)
        self.base.weight.requires_grad_(True)
        return self.head(self.base(x)) + self.last


class Locked(Keeper):
    """Holds a lock, which cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class Hooked(Keeper):
    """Keeps what a layer returned, by a hook that has captured the module."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, torch.Tensor] = {}
        self.base.register_forward_hook(lambda m, i, o: self.seen.update(base=o))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + 0 * self.seen["base"].sum()


def sgd(model: nn.Module) -> SGD:
    return SGD(model.parameters(), lr=0.1)


@pytest.mark.parametrize("kind", [Keeper, Locked, Hooked])
def test_nothing_but_the_weights_of_a_message_decides(kind: type[Keeper]) -> None:
    torch.manual_seed(0)
    state = kind().state_dict()
    fresh = FreshModel(kind, sgd)
    outputs = []
    for _ in range(3):
        model, optimizer = fresh.load_to_train(state)
        assert isinstance(model, Keeper)
        assert model.calls == []
        assert float(model.last) == 0
        assert not model.base.weight.requires_grad
        output = model(torch.ones(4, 2))
        outputs.append(output.detach().clone())
        optimizer.zero_grad()
        output.sum().backward()
        optimizer.step()
        assert not torch.equal(model.head.weight, state["head.weight"])
    assert all(torch.equal(output, outputs[0]) for output in outputs)


def test_the_copies_share_their_weights() -> None:
    fresh = FreshModel(Keeper, sgd)
    state = Keeper().state_dict()
    one, other = fresh.load(state), fresh.load(state)
    assert one is not other
    assert all(a is b for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_model_that_was_sent_to_another_process_is_trained() -> None:
    fresh = cloudpickle.loads(cloudpickle.dumps(FreshModel(Keeper, sgd)))
    model, optimizer = fresh.load_to_train(Keeper().state_dict())
    before = model.head.weight.detach().clone()
    model(torch.ones(4, 2)).sum().backward()
    optimizer.step()
    assert not torch.equal(model.head.weight, before)


def test_tied_weights_stay_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.out = nn.Embedding(3, 2), nn.Linear(2, 3, bias=False)
            self.out.weight = self.embed.weight

    model = FreshModel(Tied, sgd).load(Tied().state_dict())
    assert isinstance(model, Tied)
    assert model.out.weight is model.embed.weight
