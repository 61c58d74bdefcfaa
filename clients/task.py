"""A learning task: a model, each client's data, a test set, a loss and metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from hqde_fl.clients.batches import Collate, logits_of
from hqde_fl.clients.class_scores import (
    DEFAULT_IGNORE_INDEX,
    ClassAxis,
    check_class_axis,
    ignore_index_of,
)
from hqde_fl.clients.metric_sums import ClassTally
from hqde_fl.clients.objective import Objective
from hqde_fl.clients.user_code import description
from hqde_fl.errors import ConfigError, TaskError

Metric = Callable[[Any, Any], "float | Mapping[str, float]"]


def accuracy(outputs: Any, targets: Tensor) -> float:
    """Return the fraction of targets (n, ...) at which the largest output is that of their class.

    Outputs are class scores (n, classes, ...) or (n, ..., classes), or have them as ``logits``. The
    label -100 does not count. In a task's metrics this function knows the task's ``class_axis`` and
    ``ignore_index``.

    Raises
    ------
    TaskError
        If these are no class scores for such targets.
    """
    scores = logits_of(outputs)
    classes = ClassAxis().class_scores(scores, targets, DEFAULT_IGNORE_INDEX)
    if classes is None:
        raise accuracy_error(scores, targets)
    return classes.accuracy


def class_accuracy(outputs: Any, targets: Tensor) -> dict[str, float]:
    """Return the accuracy of each class, over all examples of a data set that have this class.

    In a task's metrics ``{"class-accuracy": class_accuracy}`` becomes ``class-accuracy-0`` and so
    on for the classes that occur, and ``class-accuracy-worst`` for the least of them.

    Raises
    ------
    TaskError
        If the outputs are no class scores for the targets, as in ``accuracy``.
    """
    scores = logits_of(outputs)
    classes = ClassAxis().class_scores(scores, targets, DEFAULT_IGNORE_INDEX)
    if classes is None:
        raise accuracy_error(scores, targets)
    tally = ClassTally()
    tally.add(classes)
    return tally.values("class-accuracy")


CLASS_METRICS: tuple[Metric, ...] = (accuracy, class_accuracy)
"""The metrics of class scores that know the task's ``class_axis`` and ``ignore_index``."""


def accuracy_error(scores: Any, targets: Any) -> TaskError:
    """Return the error of outputs that have no accuracy."""
    return TaskError(
        "metric 'accuracy' needs class scores (n, classes, ...) or (n, ..., classes) for targets "
        f"(n, ...), found outputs {description(scores)} for targets {description(targets)}: give "
        "the task other metrics, and Task(classifier=False) if the targets are no classes"
    )


DEFAULT_METRICS: Mapping[str, Metric] = {"accuracy": accuracy}


@dataclass(frozen=True)
class Task:
    """A learning task, as clients and server share it.

    Parameters
    ----------
    model : Callable[[], nn.Module]
        Builds the model. The caller seeds torch's global generator before it.
    partition : Callable[[int, int], Dataset]
        (partition id, number of partitions) -> that client's training data: a map-style data set of
        ``(x, y)``, of several inputs ``(a, b, y)``, or of mappings, from which ``forward`` gets the
        entries that its parameters name; also a ``datasets.Dataset``. The tensors of a
        ``TensorDataset`` are read without a ``DataLoader``. A parameter called ``node_config`` is
        given the ``--node-config`` of the node that holds the data.
    test : Callable[[], Dataset], optional
        Returns the server's test set. Without one, the clients evaluate the model in every round.
    loss : Callable[[Any, Any], Tensor], default=cross_entropy
        (outputs, targets) -> mean loss over the batch. Torch's cross entropy gets the class scores,
        also those in the outputs' ``logits``, with the classes on axis 1; a loss of your own gets
        the outputs as the model returns them.
    metrics : Mapping[str, Metric], default={"accuracy": accuracy}
        Kebab-case name -> function (outputs, targets) -> mean over the batch, or a dict of several:
        its keys are then the metrics' names, and the function's own is not. The name ``loss`` is
        reserved. The default is no metric if ``classifier`` is false.
    collate : Callable, optional
        A list of examples -> a batch, of the same forms or with ``Arguments`` as inputs; for
        examples that torch cannot stack, such as sequences of different lengths.
    classifier : bool, default=True
        True if the outputs are class scores (n, classes, ...) or (n, ..., classes) and the targets
        are classes (n, ...). Members of an ensemble are then combined by their class probabilities,
        otherwise by their mean output.
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
    class_axis : int, optional
        The axis of the outputs that holds the class scores, not 0; by default 1 or the last one,
        whichever fits the targets, and 1 if both do.
    ignore_index : int, optional
        The label that counts neither in the loss nor in accuracies; by default that of
        ``nn.CrossEntropyLoss``, and -100 for other losses.
    evaluation : Callable[[int, int], Dataset], optional
        The same as ``partition`` for the data on which a client evaluates the model: its training
        data if not given.
    validation : Callable[[], Dataset], optional
        () -> the data on which the server validates the model, beside the test set: metrics are
        recorded as ``validation/accuracy`` and so on, hyperparameters and the best round can be
        chosen by them. No validation if not given.
    """

    model: Callable[[], nn.Module]
    partition: Callable[[int, int], Dataset[Any]]
    test: Callable[[], Dataset[Any]] | None = None
    loss: Callable[[Any, Any], Tensor] = functional.cross_entropy
    metrics: Mapping[str, Metric] = field(default_factory=lambda: DEFAULT_METRICS)
    collate: Collate | None = None
    classifier: bool = True
    classes: int | None = None
    primary: str | None = None
    higher_is_better: Mapping[str, bool] = field(default_factory=dict)
    class_axis: int | None = None
    ignore_index: int | None = None
    evaluation: Callable[[int, int], Dataset[Any]] | None = None
    validation: Callable[[], Dataset[Any]] | None = None

    def __post_init__(self) -> None:
        if self.metrics is DEFAULT_METRICS and not self.classifier:
            object.__setattr__(self, "metrics", {})
        self._check_functions()
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
        check_class_axis("Task.class_axis", self.class_axis)
        self._check_ignore_index()

    @property
    def objective(self) -> Objective:
        """The primary metric, and the directions given by ``higher_is_better``."""
        default = "accuracy" if "accuracy" in self.metrics else "loss"
        return Objective(self.primary or default, dict(self.higher_is_better))

    def _check_functions(self) -> None:
        """Raise ``ConfigError`` unless the parts that are called are functions."""
        if not isinstance(self.metrics, Mapping):
            found = type(self.metrics).__name__
            raise ConfigError(f"Task.metrics must map names to functions, found a {found}")
        parts = {
            "Task.model": (self.model, "a class or function () -> the model"),
            "Task.partition": (self.partition, "a function (number, count) -> a data set"),
            **{
                f"Task.{name}": (function, f"a function ({given}) -> a data set")
                for name, function, given in (
                    ("test", self.test, ""),
                    ("evaluation", self.evaluation, "number, count"),
                    ("validation", self.validation, ""),
                )
                if function is not None
            },
            "Task.loss": (self.loss, "a function (outputs, targets) -> the mean loss"),
            **{
                f"metric {name!r}": (metric, "a function (outputs, targets) -> a number")
                for name, metric in self.metrics.items()
            },
        }
        for part, (function, needed) in parts.items():
            kind = type(function).__name__
            if not callable(function):
                raise ConfigError(f"{part} must be {needed}, found a {kind}")
            if part == "Task.model" and isinstance(function, nn.Module):
                raise ConfigError(f"{part} must be {needed}, found a model ({kind})")
            if part == "Task.loss" and isinstance(function, type):
                name = function.__name__
                raise ConfigError(f"{part} must be {needed}, found the class {name}: give {name}()")

    def _check_ignore_index(self) -> None:
        ignored = self.ignore_index
        if ignored is None:
            return
        if not isinstance(ignored, int) or isinstance(ignored, bool):
            raise ConfigError(f"Task.ignore_index must be a whole number, found {ignored!r}")
        if ignore_index_of(self.loss) not in (ignored, DEFAULT_IGNORE_INDEX):
            raise ConfigError(
                f"Task.ignore_index must be that of its loss, {ignore_index_of(self.loss)}, "
                f"found {ignored}"
            )
