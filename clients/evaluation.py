"""How good a model is, or an ensemble: together, and each member alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from hqde_fl.clients.batches import Batch, call_model, device_of, iterate_batches, logits_of
from hqde_fl.clients.task import Task
from hqde_fl.errors import ConfigError
from hqde_fl.prediction import (
    EnsemblePredictor,
    Prediction,
    calibration_error,
    negative_log_likelihood,
)

LEAST = 1e-12
"""Probabilities count as at least this in a loss."""


def evaluate(
    models: Sequence[nn.Module],
    data: Dataset[Any],
    task: Task,
    batch_size: int = 1024,
    predictor: EnsemblePredictor | None = None,
) -> dict[str, float]:
    """The loss and the task's metrics of a model, or of an ensemble.

    Parameters
    ----------
    models : Sequence[nn.Module]
        One model, or classifiers that predict together.
    data : Dataset
        The examples; not empty.
    task : Task
        Says the loss and the metrics.
    batch_size : int, default=1024
        Examples per step.
    predictor : EnsemblePredictor, optional
        How several predict together; by soft vote if not given.

    Returns
    -------
    dict[str, float]
        What ``evaluate_batches`` finds.
    """
    found = iterate_batches(data, batch_size, device_of(models[0]), collate=task.collate)
    return evaluate_batches(models, found, task, predictor)


@torch.no_grad()
def evaluate_batches(
    models: Sequence[nn.Module],
    data: Iterable[Batch],
    task: Task,
    predictor: EnsemblePredictor | None = None,
    *,
    calibrated: bool = False,
) -> dict[str, float]:
    """The loss and the task's metrics of a model, or of an ensemble.

    Parameters
    ----------
    models : Sequence[nn.Module]
        One model, or several that predict together.
    data : Iterable[Batch]
        On the models' device.
    task : Task
        Says the loss and the metrics. Classifiers predict together by their class probabilities,
        whose logarithms stand for the outputs then; other models by the mean of their outputs.
    predictor : EnsemblePredictor, optional
        How several predict together; by soft vote if not given.
    calibrated : bool, default=False
        Whether to find ``nll`` and ``ece`` of a single classifier too.

    Returns
    -------
    dict[str, float]
        ``loss`` and one entry per metric, means over the examples. Of several classifiers also
        ``accuracy``, ``nll`` and ``ece`` of the ensemble, the same with ``member-`` before it as
        the mean over the members alone, ``diversity`` and ``disagreement``.
    """
    ensemble = len(models) > 1 and task.classifier
    scored = ensemble or (calibrated and task.classifier)
    predictor = predictor or EnsemblePredictor()
    sums, seen = dict.fromkeys(("loss", *task.metrics), 0.0), 0
    votes: list[Tensor] = []
    targets: list[Tensor] = []
    with evaluation_mode(models):
        for batch in data:
            each = [call_model(model, batch.inputs) for model in models]
            if scored:
                votes.append(class_probabilities(each))
                targets.append(_labels(batch.targets))
            if ensemble:
                outputs: Any = normalized_distribution(predictor.predict(votes[-1])).clamp(min=LEAST).log()
            else:
                outputs = each[0] if len(each) == 1 else torch.stack(each).mean(dim=0)
            sums["loss"] += float(task.loss(outputs, batch.targets)) * batch.size
            for name, metric in task.metrics.items():
                sums[name] += metric(outputs, batch.targets) * batch.size
            seen += batch.size
    if not seen:
        raise ConfigError("evaluation needs at least 1 example, found 0")
    found = {name: value / seen for name, value in sums.items()}
    if ensemble:
        found |= ensemble_scores(torch.cat(votes, dim=1), torch.cat(targets), predictor)
    elif scored:
        found |= classifier_scores(torch.cat(votes, dim=1)[0], torch.cat(targets))
    return found


def ensemble_scores(votes: Tensor, targets: Tensor, predictor: EnsemblePredictor) -> dict[str, float]:
    """How good an ensemble's prediction is, and how good its members are alone.

    Parameters
    ----------
    votes : Tensor
        (m, n, c) the members' class probabilities.
    targets : Tensor
        (n,) true classes.
    predictor : EnsemblePredictor
        Combines them.

    Returns
    -------
    dict[str, float]
        ``accuracy``, ``nll`` (negative log likelihood) and ``ece`` (expected calibration error, 15
        bins); of a single member, on average, the same as ``member-accuracy`` and so on; and
        ``diversity`` and ``disagreement`` of the members.
    """
    prediction = predictor.predict(votes)
    found = classifier_scores(normalized_distribution(prediction), targets)
    alone = [classifier_scores(member, targets) for member in votes]
    for name in found.copy():
        found[f"member-{name}"] = sum(each[name] for each in alone) / len(alone)
    return found | {
        "diversity": prediction.diversity,
        "disagreement": prediction.disagreement,
    }


def class_probabilities(outputs: Sequence[Any]) -> Tensor:
    """(m, n, c) class probabilities of m classifiers' outputs (n, c), before the softmax."""
    outputs = [logits_of(found) for found in outputs]
    for found in outputs:
        if not isinstance(found, Tensor) or found.ndim != 2:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ConfigError(
                f"an ensemble's members must return (examples, classes) scores, found {shape}"
            )
    return torch.stack([found.to(torch.float32).softmax(dim=1) for found in outputs])


def normalized_distribution(prediction: Prediction) -> Tensor:
    """(n, c) what an ensemble predicts, scaled to sum to one where its vote did not."""
    spread = prediction.probability.clamp(min=0)
    return spread / spread.sum(dim=1, keepdim=True).clamp(min=LEAST)


@contextmanager
def evaluation_mode(models: Sequence[nn.Module]) -> Iterator[None]:
    """Models in evaluation mode, and afterwards in the mode they were in."""
    modes = [model.training for model in models]
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for model, mode in zip(models, modes, strict=True):
            model.train(mode)


def _labels(targets: Any) -> Tensor:
    if not isinstance(targets, Tensor) or targets.ndim != 1:
        found = tuple(targets.shape) if isinstance(targets, Tensor) else type(targets).__name__
        raise ConfigError(f"an ensemble's targets must be one class an example, found {found}")
    return targets


def classifier_scores(probability: Tensor, targets: Tensor) -> dict[str, float]:
    """``accuracy``, ``nll`` and ``ece`` of class probabilities (n, c)."""
    return {
        "accuracy": float((probability.argmax(dim=1) == targets).to(torch.float64).mean()),
        "nll": negative_log_likelihood(probability, targets),
        "ece": calibration_error(probability, targets),
    }
