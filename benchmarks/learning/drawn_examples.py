"""Images that are drawn from a seed: one pattern for each class, and noise.

The module imports torch alone, so that other simulators can draw the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

CLASSES = 10


def drawn_examples(shape: tuple[int, ...], examples: int, client: int) -> tuple[Tensor, Tensor]:
    """Return examples (n, *shape) of a client and their labels (n,); client -1 has the test set."""
    patterns = torch.randn(CLASSES, *shape, generator=torch.Generator().manual_seed(7))
    own = torch.Generator().manual_seed(100 + client)
    labels = torch.randint(CLASSES, (examples,), generator=own)
    return patterns[labels] + 2 * torch.randn(examples, *shape, generator=own), labels
