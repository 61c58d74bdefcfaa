"""A model begins every message as it was built, whatever its modules keep besides weights."""

from __future__ import annotations

import random
import threading
import weakref
from collections import Counter
from functools import partial
from types import SimpleNamespace

import cloudpickle
import numpy as np
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


class Recurrent(Keeper):
    """A GRU that begins where the last call ended."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.hidden = nn.GRU(2, 2, batch_first=True), None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, hidden = self.gru(x[:, None], self.hidden)
        self.hidden = hidden.detach()
        return super().forward(y[:, 0])


class Drawing(Keeper):
    """Draws noise from generators of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.numpy, self.torch = np.random.default_rng(3), torch.Generator().manual_seed(3)
        self.python = random.Random(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(1, generator=self.torch) + self.python.random()
        return super().forward(x) + float(self.numpy.normal()) * noise


class Caching(Keeper):
    """Caches outputs in nested containers, and counts calls in an object of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.cache: dict[str, list[torch.Tensor]] = {"outputs": []}
        self.counts = SimpleNamespace(calls=Counter())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output = super().forward(x)
        self.cache["outputs"].append(output.detach())
        self.counts.calls["forward"] += 1
        return output * len(self.cache["outputs"]) * self.counts.calls["forward"]


class Sharing(Keeper):
    """Has a submodule under two names and in a list, with a counter that all of them see."""

    def __init__(self) -> None:
        super().__init__()
        self.twin, self.others = self.base, [self.base]
        self.base.count = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert self.twin is self.base is self.others[0]
        self.others[0].count += 1
        return super().forward(x) * self.twin.count


def scaled(counts: list[int], x: torch.Tensor) -> torch.Tensor:
    counts.append(1)
    return x * len(counts)


class Partial(Keeper):
    """Calls a ``functools.partial``, and a bound method of its own, with state in them."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.method = partial(scaled, []), self.grow
        self.size = 0

    def grow(self, x: torch.Tensor) -> torch.Tensor:
        self.size += 1
        return x + self.size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.method(self.scale(super().forward(x)))


class NestedClosure(Keeper):
    """Keeps a closure over itself in a list in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.steps = {"each": [lambda x: self.counted(x)]}

    def counted(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        return x * self.count

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.steps["each"][0](super().forward(x))


class WeakParent(Keeper):
    """Its layer has a weak reference to it."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.base.parent = weakref.ref(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.base.parent().count += 1
        return super().forward(x) * self.base.parent().count


class HookOnWeights(Keeper):
    """Registers a hook on its weights in every call, and leaves a mark on them."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        marks = getattr(self.head.weight, "marks", 0)
        self.head.weight.marks = marks + 1
        self.head.weight.register_hook(lambda gradient: 2 * gradient)
        return super().forward(x) * (1 + marks) * (1 + len(self.head.weight._backward_hooks))


class View(Keeper):
    """Keeps a detached view of its weights in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.row = self.head.weight.detach()[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * self.row.sum()


class Growing(Keeper):
    """Adds a module, a buffer and a hook in a call."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        added = len(self._forward_hooks) + len(self._buffers) + len(self._modules)
        self.register_forward_hook(lambda module, inputs, output: 2 * output)
        self.register_buffer(f"b{added}", torch.zeros(1), persistent=False)
        self.add_module(f"m{added}", nn.Identity())
        return super().forward(x) * added


class OwnCopy(Keeper):
    """Copies itself in its own way."""

    def __deepcopy__(self, memo: dict[int, object]) -> OwnCopy:
        return type(self)()


def sgd(model: nn.Module) -> SGD:
    return SGD(model.parameters(), lr=0.1)


KINDS = (
    *(Keeper, Locked, Hooked, Recurrent, Drawing, Caching, Sharing, Partial, NestedClosure),
    *(WeakParent, HookOnWeights, View, Growing, OwnCopy),
)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_the_weights_of_a_message_decides(kind: type[Keeper]) -> None:
    torch.manual_seed(0)
    state = kind().state_dict()
    fresh = FreshModel(kind, sgd)
    outputs, updates = [], []
    for _ in range(3):
        model, optimizer = fresh.load_to_train(state)
        assert isinstance(model, Keeper)
        assert model.calls == []
        assert float(model.last) == 0
        assert not model.base.weight.requires_grad
        output = model(torch.ones(4, 2))
        outputs.append(output.detach().clone())
        outputs[-1] = torch.cat((outputs[-1], model(torch.ones(4, 2)).detach()))
        optimizer.zero_grad()
        output.sum().backward()
        optimizer.step()
        assert not torch.equal(model.head.weight, state["head.weight"])
        updates.append(model.head.weight.detach().clone())
    assert all(torch.equal(output, outputs[0]) for output in outputs)
    assert all(torch.equal(update, updates[0]) for update in updates)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_model_is_like_one_just_built(kind: type[Keeper]) -> None:
    torch.manual_seed(0)
    state = kind().state_dict()
    fresh = FreshModel(kind)
    built = kind()
    built.load_state_dict(state)
    expected = [built(torch.ones(4, 2)).detach() for _ in range(2)]
    for _ in range(2):
        model = fresh.load(state)
        assert [name for name, _ in model.named_modules()] == [n for n, _ in kind().named_modules()]
        assert list(vars(model)) == list(vars(kind()))
        outputs = [model(torch.ones(4, 2)).detach() for _ in range(2)]
        assert all(map(torch.equal, outputs, expected))


def test_models_of_torch_are_copied_and_not_built_anew() -> None:
    built: list[nn.Module] = []

    def build() -> nn.Module:
        encoder = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        parts = (nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.LSTM(2, 2), nn.ModuleList(), encoder)
        built.append(nn.ModuleDict({type(part).__name__: part for part in parts}))
        return built[-1]

    fresh = FreshModel(build, sgd)
    for _ in range(3):
        fresh.load_to_train(built[0].state_dict())
    assert len(built) == 1


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_scripted_model_is_trained() -> None:
    def build() -> nn.Module:
        return torch.jit.script(nn.Linear(2, 1))

    state = build().state_dict()
    fresh = FreshModel(build, sgd)
    for _ in range(2):
        model, optimizer = fresh.load_to_train(state)
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        assert not torch.equal(model.weight, state["weight"])


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


def test_values_are_loaded_as_torch_loads_them() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1).double())

    model, state = FreshModel(build), build().state_dict()
    loaded = model.load({name: value.float() for name, value in state.items()}).state_dict()
    expected = build()
    expected.load_state_dict({name: value.float() for name, value in state.items()})
    for name, value in expected.state_dict().items():
        assert loaded[name].dtype == value.dtype
        assert torch.equal(loaded[name], value)
    del state["0.bias"]
    with pytest.raises(RuntimeError, match=r"0\.bias"):
        model.load(state)
    with pytest.raises(RuntimeError, match="size mismatch"):
        model.load({**state, "0.bias": torch.zeros(4)})


def test_a_hook_on_loading_is_called() -> None:
    class Noted(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 2)
            self.register_load_state_dict_pre_hook(Noted.double_it)  # type: ignore[no-untyped-call]

        @staticmethod
        def double_it(_: nn.Module, state: dict[str, torch.Tensor], *rest: object) -> None:
            state["weight"] = state["weight"] * 2

    model = FreshModel(Noted)
    state = {"weight": torch.ones(2, 2), "bias": torch.zeros(2)}
    assert model.load(state).state_dict()["weight"].tolist() == [[2.0, 2.0], [2.0, 2.0]]
