"""The classes by which partitioners divide examples: their labels, or quantiles of these."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hqde_fl.errors import ConfigError

MAX_FEW = 20
"""Number of different labels up to which any labels are classes."""
MIN_MEAN_SIZE = 5
"""Mean number of examples from which more whole numbers or names than that are classes."""


def classes_of(labels: NDArray[Any], bins: int | None, user: str) -> NDArray[Any]:
    """Return the class (n,) of each example.

    Parameters
    ----------
    labels : NDArray
        (n,) or (n, 1) labels of the examples.
    bins : int or None
        Number of quantiles of the labels that are the classes, >= 2; None if the labels are
        classes themselves.
    user : str
        What needs the classes, for the error messages.

    Raises
    ------
    ConfigError
        If an example has several labels, or the labels are numbers that are no classes and there
        are no ``bins``; if there are, and the labels are no finite numbers.
    """
    if labels.ndim > 1 and labels.size == len(labels):
        labels = labels.reshape(len(labels))
    if labels.ndim != 1:
        raise ConfigError(
            f"{user} needs one label for each example, found labels of shape {labels.shape}: "
            "use 'iid', or let the task divide its data itself"
        )
    if bins is None:
        _require_classes(labels, user)
        return labels
    if labels.dtype.kind not in "biuf" or not np.isfinite(labels).all():
        raise ConfigError(f"{user} needs labels that are finite numbers, found {_examples(labels)}")
    edges = np.quantile(labels, np.linspace(0, 1, bins + 1)[1:-1])
    return np.searchsorted(edges, labels, side="right")


def _require_classes(labels: NDArray[Any], user: str) -> None:
    distinct = len(np.unique(labels))
    most = max(MAX_FEW, len(labels) // MIN_MEAN_SIZE)
    if labels.dtype.kind == "f" and not (np.mod(labels, 1) == 0).all():
        most = min(MAX_FEW, len(labels) // 2)
    if distinct > most:
        raise ConfigError(
            f"{user} divides the data by classes, found {distinct} different labels in "
            f"{len(labels)} examples ({_examples(labels)}): use 'iid', or set bins = 10 to divide "
            "by quantiles of the labels"
        )


def _examples(labels: NDArray[Any]) -> str:
    return f"{labels.dtype}, such as {', '.join(f'{label!s:.12}' for label in labels[:3])}"
