"""What the tabular tasks share: columns of numbers and categories become rows of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hqde_fl.errors import DataError
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.tasks.benchmark_models import logistic_regression
from hqde_fl.simulations.tasks.models import mlp

Model = Literal["mlp", "logistic"]
Columns = dict[str, NDArray[Any]]
TEST_SHARE = 5
"""One in so many examples is a test example, where the files do not divide them."""


def network(model: Model, inputs: int, hidden: int, classes: int) -> nn.Module:
    """Build a perceptron with one hidden layer, or logistic regression."""
    if model == "mlp":
        return mlp(inputs, hidden, classes)
    return logistic_regression(inputs, classes)


def read_csv(path: Path, names: Sequence[str], *, skip_rows: int = 0) -> Columns:
    """Return the columns of a CSV file without a header, gzipped if its name ends in ``.gz``.

    Parameters
    ----------
    path : Path
        The file.
    names : Sequence[str]
        Names of its columns.
    skip_rows : int, default=0
        Lines before the first row.

    Raises
    ------
    DataError
        If the file cannot be read or has another number of columns.
    """
    import pandas as pd  # slow, and only tabular data need it

    try:
        frame = pd.read_csv(
            path, header=None, skiprows=skip_rows, skipinitialspace=True, na_filter=False
        )
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if frame.shape[1] != len(names):
        raise DataError(f"{path} must have {len(names)} columns, found {frame.shape[1]}")
    return {name: frame[number].to_numpy() for number, name in enumerate(names)}


def numbers_of(columns: Columns, names: Sequence[str], origin: str) -> NDArray[np.float64]:
    """Return columns of finite numbers (n, len(names)).

    Raises
    ------
    DataError
        If a value is no finite number.
    """
    for name in names:
        try:
            values = columns[name].astype(np.float64)
        except (TypeError, ValueError):
            values = np.array([np.nan])
        if not np.isfinite(values).all():
            raise DataError(f"{origin} must hold finite numbers in column {name!r}")
    return np.stack([columns[name].astype(np.float64) for name in names], axis=1)


def one_hot(
    columns: Columns, categories: Mapping[str, Sequence[str]], origin: str
) -> NDArray[np.float32]:
    """Return 0 or 1 for every category of every column: (n, number of all categories).

    The row of an unknown value, ``?``, has zeros.

    Raises
    ------
    DataError
        If a value is neither a category nor ``?``.
    """
    blocks = []
    for name, known in categories.items():
        values = columns[name].astype(str)
        block = values[:, None] == np.array(known)
        if strange := sorted({*values[~block.any(axis=1)].tolist()} - {"?"}):
            raise DataError(
                f"{origin} must hold one of {', '.join(known)} in column {name!r}, "
                f"found {strange[0]!r}"
            )
        blocks.append(block.astype(np.float32))
    return np.concatenate(blocks, axis=1)


def standardised(values: NDArray[np.float64], train: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return columns (n, c) less the means of the training examples, over their deviations."""
    deviation = train.std(axis=0)
    scaled = (values - train.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
    return np.asarray(scaled, np.float32)


def rows_of_part(examples: int, train: bool) -> NDArray[np.int64]:
    """Return the rows of a part where nobody has divided them: a random fifth is for tests."""
    order = Seeds(0).numpy("tabular", "test").permutation(examples)
    cut = examples // TEST_SHARE
    return np.sort(order[cut:] if train else order[:cut])


def to_tensor(*blocks: NDArray[np.float32]) -> torch.Tensor:
    """Return blocks of columns side by side: (n, number of all columns)."""
    return torch.from_numpy(np.concatenate(blocks, axis=1, dtype=np.float32))
