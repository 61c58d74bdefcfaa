"""The default task: scikit-learn's 1797 handwritten digits, 8x8 grey, which need no download."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Self, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hqde_fl.errors import ConfigError
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.tasks.base import BuiltinTask
from hqde_fl.simulations.tasks.example_table import ExampleTable, Part
from hqde_fl.simulations.tasks.models import mlp


@final
@dataclass(frozen=True)
class Digits(BuiltinTask):
    """scikit-learn's handwritten digits (8x8, 10 classes) and a small perceptron; works offline.

    The test set is the same stratified fifth for every seed, so that runs can be compared.

    Parameters
    ----------
    hidden : int, default=64
        Number of hidden units, >= 1.
    """

    hidden: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden < 1:
            raise ConfigError(f"Digits.hidden must be >= 1, found {self.hidden}")

    def locate(self) -> Self:
        """Return the task itself: scikit-learn contains the data."""
        return self

    def network(self) -> nn.Module:
        """Build a perceptron with 64 inputs, ``hidden`` hidden units and 10 outputs."""
        return mlp(64, self.hidden, 10)

    def table(self, part: Part) -> ExampleTable:
        """Return the 1438 training digits or the 359 test digits, with values from 0 to 16."""
        return _digits()[part]

    def prepare(self, inputs: Tensor) -> Tensor:
        """Return digits (n, 1, 8, 8) with values in [0, 1]."""
        return inputs.to(torch.get_default_dtype()) / 16


@lru_cache(maxsize=1)
def _digits() -> dict[Part, ExampleTable]:
    table = _table()
    images, target = table[:, :-1].reshape(-1, 1, 8, 8), table[:, -1].astype(np.int64)
    x, y = torch.from_numpy(images.astype(np.uint8)), torch.from_numpy(target)
    held_out = torch.zeros(len(y), dtype=torch.bool)
    for label in range(10):
        indices = np.flatnonzero(target == label)
        order = Seeds(0).numpy("digits", "test", label).permutation(indices)
        held_out[torch.from_numpy(order[: round(len(order) / 5)])] = True
    return {
        "train": ExampleTable(x[~held_out], y[~held_out]),
        "test": ExampleTable(x[held_out], y[held_out]),
    }


def _table() -> NDArray[np.float64]:
    """Return scikit-learn's (1797, 65) table of digits: 64 pixels and the label of each.

    Its file is read directly where it is found, because ``import sklearn`` takes a second.
    """
    package = find_spec("sklearn")
    folders = [] if package is None else package.submodule_search_locations or []
    for folder in folders:
        file = Path(folder, "datasets", "data", "digits.csv.gz")
        if file.is_file():
            return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return np.column_stack([pixels, labels])
