"""Synthetic sequences whose class is the order of three tokens, for a transformer with adapters."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from typing import ClassVar, Self, final

import numpy as np
import torch
from torch import nn

from hqde_fl.errors import ConfigError
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.tasks.base import BuiltinTask
from hqde_fl.simulations.tasks.example_table import ExampleTable, Part
from hqde_fl.simulations.tasks.lora_transformer import LoRATransformer

VOCABULARY, LENGTH, MARKED = 16, 8, 3
ORDERS = np.array(list(permutations(range(MARKED))))
TRAIN_EXAMPLES, TEST_EXAMPLES = 2000, 600


@final
@dataclass(frozen=True)
class TokenOrder(BuiltinTask):
    """Sequences of 8 tokens, whose class is the order of three of them; works offline.

    Each sequence has the tokens 0, 1 and 2 once, at random places; the other five are drawn from
    the 13 other tokens. Which tokens a sequence has says nothing about its class, and the head
    alone learns it far more slowly than the head with the adapters. The data are the same for every
    seed, so that runs can be compared.

    Parameters
    ----------
    rank : int, default=4
        Rank of the adapters, >= 1.
    width : int, default=128
        Numbers for each token in the transformer, a multiple of 4.
    layers : int, default=2
        Number of blocks, >= 1.
    """

    classes: ClassVar[int] = len(ORDERS)

    rank: int = 4
    width: int = 128
    layers: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rank", "layers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"TokenOrder.{name} must be >= 1, found {getattr(self, name)}")
        if self.width < 4 or self.width % 4:
            raise ConfigError(f"TokenOrder.width must be a multiple of 4, found {self.width}")

    def locate(self) -> Self:
        """Return the task itself: the data are drawn, not read."""
        return self

    def network(self) -> nn.Module:
        """Build a frozen transformer with adapters and a head."""
        return LoRATransformer(VOCABULARY, LENGTH, self.classes, self.width, self.layers, self.rank)

    def table(self, part: Part) -> ExampleTable:
        """Return the 2000 training sequences or the 600 test sequences."""
        return _sequences(part, TRAIN_EXAMPLES if part == "train" else TEST_EXAMPLES)


@lru_cache(maxsize=2)
def _sequences(part: Part, count: int) -> ExampleTable:
    random = Seeds(0).numpy("token-order", part)
    labels = np.arange(count) % len(ORDERS)
    tokens = random.integers(MARKED, VOCABULARY, (count, LENGTH))
    places = np.sort(random.random((count, LENGTH)).argsort(axis=1)[:, :MARKED], axis=1)  # nosec B311
    np.put_along_axis(tokens, places, ORDERS[labels], axis=1)
    return ExampleTable(torch.from_numpy(tokens), torch.from_numpy(labels))
