"""What is learnt: a model, each client's data, a test set, a loss and metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from hqde_fl.clients.batches import Collate
from hqde_fl.errors import ConfigError

Metric = Callable[[Any, Any], float]


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    """The fraction of targets that got the largest output."""
    return float((outputs.argmax(dim=1) == targets).float().mean())


@dataclass(frozen=True)
class Task:
    """Everything a client and the server need to know about what is learnt.

    Parameters
    ----------
    model : Callable[[], nn.Module]
        Builds the model. torch's global generator is seeded by the caller around it.
    partition : Callable[[int, int], Dataset]
        (partition id, number of partitions) -> that client's training data, a map-style data set of
        ``(x, y)``. A ``TensorDataset`` of two tensors is read without a ``DataLoader``.
    test : Callable[[], Dataset]
        The server's test set.
    loss : Callable[[Any, Any], Tensor], default=cross_entropy
        (outputs, targets) -> mean loss.
    metrics : Mapping[str, Metric], default={"accuracy": accuracy}
        Kebab-case name -> (outputs, targets) -> mean over the batch. ``loss`` is not a free name.
    collate : Callable, optional
        Examples of a data set -> ``(inputs, targets)`` of a batch, for data sets whose examples are
        not ``(x, y)``, or that torch cannot stack. A model with several inputs takes ``Arguments``.
    classifier : bool, default=True
        Whether outputs are scores of classes (n, c), and targets classes (n,): then the members of
        an ensemble combine their probabilities, otherwise the mean of their outputs is taken.
    classes : int, optional
        The number of classes, >= 1, for whoever needs to know it, as faults that change labels do.
        If not given, the model's outputs on a few examples tell it, where they can.
    """

    model: Callable[[], nn.Module]
    partition: Callable[[int, int], Dataset[Any]]
    test: Callable[[], Dataset[Any]]
    loss: Callable[[Any, Any], Tensor] = functional.cross_entropy
    metrics: Mapping[str, Metric] = field(default_factory=lambda: {"accuracy": accuracy})
    collate: Collate | None = None
    classifier: bool = True
    classes: int | None = None

    def __post_init__(self) -> None:
        if "loss" in self.metrics:
            raise ConfigError("Task.metrics must not hold 'loss': that name reports Task.loss")
        if self.classes is not None and self.classes < 1:
            raise ConfigError(f"Task.classes must be >= 1, found {self.classes}")
