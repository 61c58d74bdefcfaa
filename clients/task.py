"""A learning task: a model, each client's data, a test set, a loss and metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from hqde_fl.clients.batches import Collate
from hqde_fl.clients.objective import Objective
from hqde_fl.errors import ConfigError

Metric = Callable[[Any, Any], float]


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    """Return the fraction of examples whose largest output is at the target class."""
    return float((outputs.argmax(dim=1) == targets).float().mean())


@dataclass(frozen=True)
class Task:
    """A learning task, as clients and server share it.

    Parameters
    ----------
    model : Callable[[], nn.Module]
        Builds the model. The caller seeds torch's global generator before it.
    partition : Callable[[int, int], Dataset]
        (partition id, number of partitions) -> that client's training data, a map-style data set of
        ``(x, y)``. Two tensors in a ``TensorDataset`` are read without a ``DataLoader``.
    test : Callable[[], Dataset]
        Returns the server's test set.
    loss : Callable[[Any, Any], Tensor], default=cross_entropy
        (outputs, targets) -> mean loss over the batch.
    metrics : Mapping[str, Metric], default={"accuracy": accuracy}
        Kebab-case name -> function (outputs, targets) -> mean over the batch. The name ``loss`` is
        reserved.
    collate : Callable, optional
        A list of examples -> ``(inputs, targets)`` of a batch, for data sets whose examples are not
        ``(x, y)`` or that torch cannot stack. Several inputs are passed as ``Arguments``.
    classifier : bool, default=True
        True if the outputs are class scores (n, c) and the targets are classes (n,). Members of an
        ensemble are then combined by their class probabilities, otherwise by their mean output.
    classes : int, optional
        Number of classes, >= 1, which faults that change labels need. If not given, it is inferred
        from the model's outputs on a few examples, where possible.
    primary : str, optional
        The metric of the server that ranks runs and names the worst case: one of ``metrics``,
        ``loss``, or one that the server adds, such as ``nll`` of an ensemble. ``accuracy`` if
        not given and ``metrics`` has it, else ``loss``.
    higher_is_better : Mapping[str, bool], optional
        Metric -> whether higher values are better. Metrics not in it go by their name: lower is
        better for ``loss``, ``rmse``, ``mse``, ``mae``, ``nll``, ``ece``, ``perplexity``, ``error``
        and the other words in ``objective.LOWER_IS_BETTER``, else higher.
    """

    model: Callable[[], nn.Module]
    partition: Callable[[int, int], Dataset[Any]]
    test: Callable[[], Dataset[Any]]
    loss: Callable[[Any, Any], Tensor] = functional.cross_entropy
    metrics: Mapping[str, Metric] = field(default_factory=lambda: {"accuracy": accuracy})
    collate: Collate | None = None
    classifier: bool = True
    classes: int | None = None
    primary: str | None = None
    higher_is_better: Mapping[str, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if "loss" in self.metrics:
            raise ConfigError("Task.metrics must not hold 'loss': that name reports Task.loss")
        if self.classes is not None and self.classes < 1:
            raise ConfigError(f"Task.classes must be >= 1, found {self.classes}")
        if self.primary is not None and not isinstance(self.primary, str):
            raise ConfigError(f"Task.primary must be a metric's name, found {self.primary!r}")
        for name, higher in self.higher_is_better.items():
            if not isinstance(higher, bool):
                raise ConfigError(
                    f"Task.higher_is_better must have True or False for {name!r}, found {higher!r}"
                )

    @property
    def objective(self) -> Objective:
        """The primary metric, and the directions given by ``higher_is_better``."""
        default = "accuracy" if "accuracy" in self.metrics else "loss"
        return Objective(self.primary or default, dict(self.higher_is_better))
