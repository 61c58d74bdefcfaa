"""The means of metrics in one pass over batches, and the accuracy of each class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from hqde_fl.clients.class_scores import ClassScores
from hqde_fl.errors import TaskError


@final
class MetricSums:
    """The means of metrics over batches, each over the batches that have it."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._weights: dict[str, int] = {}

    def add(self, metrics: Mapping[str, Mapping[str, float]], weight: int) -> None:
        """Add a batch of some weight.

        Parameters
        ----------
        metrics : Mapping[str, Mapping[str, float]]
            Metric -> the values that it returned, by name.
        weight : int
            What the batch weighs in the means.

        Raises
        ------
        TaskError
            If two metrics return a value of the same name.
        """
        owners: dict[str, str] = {}
        for metric, values in metrics.items():
            for name, value in values.items():
                if (other := owners.setdefault(name, metric)) != metric:
                    raise TaskError(
                        f"metric {metric!r} returns a value {name!r}, which {other!r} has already"
                    )
                self._sums[name] = self._sums.get(name, 0.0) + value * weight
                self._weights[name] = self._weights.get(name, 0) + weight

    @property
    def means(self) -> dict[str, float]:
        """The means by name."""
        return {name: value / self._weights[name] for name, value in self._sums.items()}


@final
class ClassTally:
    """Counts the correct predictions of each class over batches."""

    def __init__(self) -> None:
        self._correct: Tensor | int = 0
        self._all: Tensor | int = 0

    def add(self, classes: ClassScores) -> None:
        """Add the class scores of a batch; all batches have the same number of classes."""
        labels, count = classes.class_numbers, classes.scores.shape[1]
        hits = labels[classes.select(classes.scores.argmax(dim=1)) == labels]
        self._correct = self._correct + torch.bincount(hits, minlength=count)
        self._all = self._all + torch.bincount(labels, minlength=count)

    def values(self, name: str) -> dict[str, float]:
        """Return the accuracy of each class that occurs, ``NAME-3``, and the least, ``NAME-worst``.

        Nothing is returned if no batch was added.
        """
        if isinstance(self._all, int) or isinstance(self._correct, int):
            return {}
        occurring = self._all.nonzero().flatten().tolist()
        values = {f"{name}-{k}": float(self._correct[k] / self._all[k]) for k in occurring}
        return values | {f"{name}-worst": min(values.values())}
