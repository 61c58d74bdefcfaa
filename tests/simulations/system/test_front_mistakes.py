"""Mistakes with ``create_hqde_system``: each is one line that names the part, file and line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, TensorDataset

from hqde_fl import create_hqde_system
from hqde_fl.errors import HQDEError


def examples(size: int = 40) -> TensorDataset:
    x = torch.randn(size, 8, generator=torch.Generator().manual_seed(0))
    return TensorDataset(x, torch.arange(size) % 3)


class Net(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, width), nn.Linear(width, 3)

    def forward(self, x: Any) -> Any:
        return self.last(self.first(x).relu())


class Misspelt(Net):
    def forward(self, x: Any) -> Any:
        return self.lasst(self.first(x))


class WithoutReturn(Net):
    def forward(self, x: Any) -> Any:
        self.last(self.first(x))


class Torn(Dataset[Any]):
    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> Any:
        raise OSError("cannot read image")


def without_return() -> Any:
    Net()


def returns_class() -> Any:
    return Net


def vector(outputs: Any, targets: Any) -> Any:
    return functional.cross_entropy(outputs, targets, reduction="none")


def number(outputs: Any, targets: Any) -> Any:
    return functional.cross_entropy(outputs, targets).item()


def detached(outputs: Any, targets: Any) -> Any:
    return functional.cross_entropy(outputs.detach(), targets)


def swapped(targets: Any, outputs: Any) -> Any:
    return functional.cross_entropy(outputs, targets)


def collate(batch: list[Any]) -> Any:
    x, y, z = zip(*batch, strict=True)
    return torch.stack(x), torch.stack(y), z


HERE = "test_front_mistakes.py, line"
MISTAKES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "attribute": ({"model": Misspelt}, ("training data: the model (Misspelt)", "'lasst'", HERE)),
    "forward": ({"model": WithoutReturn}, ("the model (WithoutReturn) returned None", HERE)),
    "layers": (
        {"model": lambda: nn.Sequential(nn.Linear(9, 3))},
        ("layer '0' (Linear)", "float32"),
    ),
    "builder": ({"model": without_return}, ("model_class must return", "found None", HERE)),
    "class": ({"model": returns_class}, ("model_class must return", "Net()", HERE)),
    "arguments": ({"kwargs": {"widht": 3}}, ("model_class raised TypeError", "'widht'")),
    "module": ({"model": Net()}, ("model_class needs to be a class", "found Net")),
    "vector": ({"loss": vector}, ("the loss must return one number", "take the mean", HERE)),
    "number": ({"loss": number}, ("the loss must return a tensor", ".item()", HERE)),
    "detached": ({"loss": detached}, ("the loss has no gradient", HERE)),
    "swapped": ({"loss": swapped}, ("the loss raised", "targets (", HERE)),
    "loss class": ({"loss": nn.MSELoss}, ("loss_fn", "found the class MSELoss: MSELoss()")),
    "data": ({"data": Torn()}, ("training data: the data set raised OSError", "index", HERE)),
    "labels": (
        {"data": TensorDataset(torch.ones(9, 8), torch.full((9,), 3))},
        ("the loss raised IndexError: Target 3 is out of bounds for outputs (", ", 3) float32"),
    ),
    "collate": ({"collate": collate}, ("the collate function raised ValueError", HERE)),
    "validation": (
        {"validation": DataLoader(TensorDataset(torch.ones(9, 7), torch.ones(9).long()), 8)},
        ("validation data: the model (Net) raised RuntimeError", "(9, 7)", HERE),
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_before_anything_is_trained(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, says = MISTAKES[name]
    started: list[Callable[..., Any]] = []
    monkeypatch.setattr("hqde_fl.simulations.system.workers.Workers.start", started.append)

    def train() -> None:
        system = create_hqde_system(
            given.get("model", Net),
            given.get("kwargs"),
            2,
            loss_fn=given.get("loss"),
            engine="inline",
            show_progress=False,
        )
        loader = DataLoader(given.get("data", examples()), 8, collate_fn=given.get("collate"))
        system.train(loader, 1, given.get("validation"))

    with pytest.raises(HQDEError) as caught:
        train()
    line = str(caught.value)
    assert "\n" not in line
    assert not [part for part in says if part not in line], line
    assert not started
