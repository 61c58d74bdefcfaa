"""Some of a data set's examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset, Subset, TensorDataset


def data_subset(data: Dataset[Any], places: Sequence[int]) -> Dataset[Any]:
    """The examples at some places, which may repeat; tensors stay a ``TensorDataset``."""
    if type(data) is TensorDataset:  # a subclass may have its own __getitem__
        index = torch.as_tensor(places, dtype=torch.int64)
        return TensorDataset(*(tensor[index] for tensor in data.tensors))
    return Subset(data, list(places))
