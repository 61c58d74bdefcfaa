"""The 1797 handwritten digits of scikit-learn, 8x8 grey: small, offline, the default task."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from hqde_fl.errors import ConfigError
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.tasks.base import BuiltinTask
from hqde_fl.simulations.tasks.models import mlp


@final
@dataclass(frozen=True)
class Digits(BuiltinTask):
    """scikit-learn's handwritten digits (8x8, 10 classes), a small perceptron; works offline.

    The test set is the same stratified fifth for every seed, so that runs can be compared.

    Parameters
    ----------
    hidden : int, default=64
        Units of the hidden layer, >= 1.
    """

    hidden: int = 64

    def __post_init__(self) -> None:
        if self.hidden < 1:
            raise ConfigError(f"Digits.hidden must be >= 1, found {self.hidden}")

    def locate(self) -> Self:
        """The data come with scikit-learn."""
        return self

    def network(self) -> nn.Module:
        """64 - ``hidden`` - 10."""
        return mlp(64, self.hidden, 10)

    def labels(self) -> NDArray[Any]:
        """Labels of the 1438 training digits."""
        return np.asarray(_digits()[0].tensors[1])

    def examples(self, indices: Tensor) -> TensorDataset:
        """Some of the training digits, values in [0, 1]."""
        x, y = _digits()[0].tensors
        return TensorDataset(x[indices], y[indices])

    def test(self) -> TensorDataset:
        """The 359 test digits."""
        return _digits()[1]


@lru_cache(maxsize=1)
def _digits() -> tuple[TensorDataset, TensorDataset]:
    from sklearn.datasets import load_digits  # slow to import

    found = load_digits()
    x = torch.from_numpy(found.images / 16).float().unsqueeze(1)
    y = torch.from_numpy(found.target).long()
    held_out = torch.zeros(len(y), dtype=torch.bool)
    for label in range(10):
        of_class = np.flatnonzero(found.target == label)
        order = Seeds(0).numpy("digits", "test", label).permutation(of_class)
        held_out[torch.from_numpy(order[: round(len(order) / 5)])] = True
    return TensorDataset(x[~held_out], y[~held_out]), TensorDataset(x[held_out], y[held_out])
