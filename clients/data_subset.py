"""Subsets of a data set by index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset, Subset, TensorDataset


def data_subset(data: Dataset[Any], indices: Sequence[int]) -> Dataset[Any]:
    """Return a data set's examples at some indices, which may repeat.

    The subset of a ``TensorDataset`` is again a ``TensorDataset``, and a subset of a ``Subset`` one
    of its data set.
    """
    while type(data) is Subset:
        indices = [data.indices[index] for index in indices]
        data = data.dataset
    if type(data) is TensorDataset:  # a subclass may have its own __getitem__
        index = torch.as_tensor(indices, dtype=torch.int64)
        return TensorDataset(*(tensor[index] for tensor in data.tensors))
    return Subset(data, [int(index) for index in indices])
