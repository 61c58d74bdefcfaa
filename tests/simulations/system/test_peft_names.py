"""A model as peft builds it: its names, and what a system trains and sends of it.

peft itself would install transformers; the modules here have the structure and the names that peft
0.21.2 gives a model with ``LoraConfig(target_modules=["up", "down"], modules_to_save=["head"])``.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hqde_fl import create_hqde_system
from hqde_fl.updates.roles import roles_of

TRAINED = {
    "base_model.model.up.lora_A.default.weight",
    "base_model.model.up.lora_B.default.weight",
    "base_model.model.down.lora_A.default.weight",
    "base_model.model.down.lora_B.default.weight",
    "base_model.model.head.modules_to_save.default.weight",
    "base_model.model.head.modules_to_save.default.bias",
}
FROZEN = {
    "base_model.model.up.base_layer.weight",
    "base_model.model.up.base_layer.bias",
    "base_model.model.down.base_layer.weight",
    "base_model.model.down.base_layer.bias",
    "base_model.model.head.original_module.weight",
    "base_model.model.head.original_module.bias",
}
FROZEN_BYTES = 4 * (2 * 64 * 64 + 2 * 64 + 3 * 64 + 3)


class Adapted(nn.Module):
    """A linear layer with an adapter, as peft's ``lora.Linear``."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base_layer = layer.requires_grad_(False)
        first = nn.Linear(layer.in_features, rank, bias=False)
        second = nn.Linear(rank, layer.out_features, bias=False)
        nn.init.zeros_(second.weight)
        self.lora_A = nn.ModuleDict({"default": first})
        self.lora_B = nn.ModuleDict({"default": second})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))


class Saved(nn.Module):
    """A module that is trained as a copy, as peft's ``ModulesToSaveWrapper``."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.modules_to_save = nn.ModuleDict({"default": copy.deepcopy(module)})
        self.original_module = module.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.modules_to_save["default"](x)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = Adapted(nn.Linear(64, 64), 2)
        self.down = Adapted(nn.Linear(64, 64), 2)
        self.head = Saved(nn.Linear(64, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.down(self.up(x).relu()).relu())


class PeftModel(nn.Module):
    """Names begin with ``base_model.model``, as a ``PeftModel`` around a ``LoraModel`` has them."""

    def __init__(self) -> None:
        super().__init__()
        self.base_model = nn.Module()
        self.base_model.model = Network()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base_model.model(x)


def data() -> DataLoader:
    y = torch.arange(240) % 3
    x = 0.1 * torch.randn(240, 64, generator=torch.Generator().manual_seed(1))
    x[torch.arange(240), y] += 1
    return DataLoader(TensorDataset(x, y), batch_size=16)


def test_adapters_and_saved_modules_are_trainable_and_all_else_is_frozen() -> None:
    roles = roles_of(PeftModel()).roles
    assert {name for name, role in roles.items() if role == "trainable"} == TRAINED
    assert {name for name, role in roles.items() if role == "frozen"} == FROZEN


def test_a_system_trains_and_sends_the_adapters_alone() -> None:
    options = {"training_config": {"learning_rate": 0.01}, "show_progress": False}
    with create_hqde_system(PeftModel, engine="inline", num_workers=3, **options) as system:
        (before,) = system.state_dicts()
        before = {name: tensor.clone() for name, tensor in before.items()}
        first, second = system.train(data(), num_epochs=2)
        (after,) = system.state_dicts()
    assert {name for name in before if not torch.equal(before[name], after[name])} == TRAINED
    assert first["bytes-down"] > 3 * FROZEN_BYTES
    assert second["bytes-down"] < first["bytes-down"] - 3 * FROZEN_BYTES
    assert second["bytes-up"] < 3 * FROZEN_BYTES / 4
