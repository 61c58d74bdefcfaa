"""Evaluation of a model, or of an ensemble and its single members."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from hqde_fl.clients.batch_iteration import iterate_batches
from hqde_fl.clients.batches import Batch, call_model, logits_of
from hqde_fl.clients.task import Task
from hqde_fl.clients.task_calls import batch_loss, metric_value
from hqde_fl.errors import ConfigError
from hqde_fl.prediction import (
    EnsemblePredictor,
    Prediction,
    calibration_error,
    negative_log_likelihood,
)
from hqde_fl.prediction.calibration import MIN_PROBABILITY


def evaluate(
    models: Sequence[nn.Module],
    data: Dataset[Any],
    task: Task,
    batch_size: int = 1024,
    predictor: EnsemblePredictor | None = None,
) -> dict[str, float]:
    """Return the loss and the task's metrics of a model or an ensemble on a data set.

    Parameters
    ----------
    models : Sequence[nn.Module]
        One model, or the members of an ensemble.
    data : Dataset
        A map-style data set with at least one example.
    task : Task
        The loss and the metrics.
    batch_size : int, default=1024
        Examples per batch.
    predictor : EnsemblePredictor, optional
        Combines the members' predictions; soft vote if not given.

    Returns
    -------
    dict[str, float]
        The values that ``evaluate_batches`` returns.
    """
    batches = iterate_batches(data, batch_size, models[0], collate=task.collate)
    return evaluate_batches(models, batches, task, predictor)


@torch.no_grad()
def evaluate_batches(
    models: Sequence[nn.Module],
    data: Iterable[Batch],
    task: Task,
    predictor: EnsemblePredictor | None = None,
    *,
    calibrated: bool = False,
) -> dict[str, float]:
    """Return the loss and the task's metrics of a model or an ensemble on some batches.

    Parameters
    ----------
    models : Sequence[nn.Module]
        One model, or the members of an ensemble.
    data : Iterable[Batch]
        At least one batch, on the models' device.
    task : Task
        The loss and the metrics. The outputs of an ensemble are the logarithms of its predicted
        class probabilities for classifiers, and the mean of its members' outputs otherwise.
    predictor : EnsemblePredictor, optional
        Combines the members' class probabilities; soft vote if not given.
    calibrated : bool, default=False
        Return ``accuracy``, ``nll`` and ``ece`` of a single classifier too.

    Returns
    -------
    dict[str, float]
        ``loss`` and one entry per metric, means over the examples. Of several classifiers also the
        values that ``ensemble_scores`` returns.
    """
    ensemble = len(models) > 1 and task.classifier
    scored = ensemble or (calibrated and task.classifier)
    predictor = predictor or EnsemblePredictor()
    sums, seen = dict.fromkeys(("loss", *task.metrics), 0.0), 0
    votes: list[Tensor] = []
    targets: list[Tensor] = []
    with evaluation_mode(models):
        for batch in data:
            answers = [call_model(model, batch.inputs) for model in models]
            if scored:
                votes.append(class_probabilities(answers))
                targets.append(_labels(batch.targets))
            if ensemble:
                outputs: Any = (
                    normalized_distribution(predictor.predict(votes[-1]))
                    .clamp(min=MIN_PROBABILITY)
                    .log()
                )
            else:
                outputs = answers[0] if len(answers) == 1 else torch.stack(answers).mean(dim=0)
            sums["loss"] += float(batch_loss(task, outputs, batch.targets)) * batch.size
            for name in task.metrics:
                sums[name] += metric_value(name, task, outputs, batch.targets) * batch.size
            seen += batch.size
    if not seen:
        raise ConfigError("evaluation needs at least 1 example, found 0")
    means = {name: value / seen for name, value in sums.items()}
    if ensemble:
        means |= ensemble_scores(torch.cat(votes, dim=1), torch.cat(targets), predictor)
    elif scored:
        means |= classifier_scores(torch.cat(votes, dim=1)[0], torch.cat(targets))
    return means


def ensemble_scores(
    votes: Tensor, targets: Tensor, predictor: EnsemblePredictor
) -> dict[str, float]:
    """Return scores of an ensemble's prediction and the mean scores of its single members.

    Parameters
    ----------
    votes : Tensor
        (m, n, c) class probabilities of m members for n examples.
    targets : Tensor
        (n,) true classes.
    predictor : EnsemblePredictor
        Combines the members' probabilities.

    Returns
    -------
    dict[str, float]
        ``accuracy``, ``nll`` (negative log likelihood) and ``ece`` (expected calibration error, 15
        bins) of the ensemble; the mean of each over the members as ``member-accuracy`` and so on;
        ``diversity`` and ``disagreement`` of the members.
    """
    prediction = predictor.predict(votes)
    scores = classifier_scores(normalized_distribution(prediction), targets)
    members = [classifier_scores(member, targets) for member in votes]
    for name in scores.copy():
        scores[f"member-{name}"] = sum(member[name] for member in members) / len(members)
    return scores | {
        "diversity": prediction.diversity,
        "disagreement": prediction.disagreement,
    }


def class_probabilities(outputs: Sequence[Any]) -> Tensor:
    """Return (m, n, c) softmax probabilities of m classifiers' scores (n, c).

    The scores are the outputs or, where these have such an entry, their ``logits``. Raises
    ``ConfigError`` if they are not a tensor with two dimensions.
    """
    logits = [logits_of(output) for output in outputs]
    for scores in logits:
        if not isinstance(scores, Tensor) or scores.ndim != 2:
            shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise ConfigError(
                f"an ensemble's members must return (examples, classes) scores, found {shape}"
            )
    return torch.stack([scores.to(torch.float32).softmax(dim=1) for scores in logits])


def normalized_distribution(prediction: Prediction) -> Tensor:
    """Return an ensemble's predicted probabilities (n, c), each row scaled to sum to one.

    Negative values count as zero; a row without positive values becomes all zero.
    """
    positive = prediction.probability.clamp(min=0)
    return positive / positive.sum(dim=1, keepdim=True).clamp(min=MIN_PROBABILITY)


@contextmanager
def evaluation_mode(models: Sequence[nn.Module]) -> Iterator[None]:
    """Set models to evaluation mode for a block of code and restore their modes afterwards."""
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
        shape = tuple(targets.shape) if isinstance(targets, Tensor) else type(targets).__name__
        raise ConfigError(f"an ensemble's targets must be one class an example, found {shape}")
    return targets


def classifier_scores(probability: Tensor, targets: Tensor) -> dict[str, float]:
    """Return ``accuracy``, ``nll`` and ``ece`` of class probabilities (n, c) for classes (n,).

    These are the negative log likelihood and the expected calibration error.
    """
    return {
        "accuracy": float((probability.argmax(dim=1) == targets).to(torch.float64).mean()),
        "nll": negative_log_likelihood(probability, targets),
        "ece": calibration_error(probability, targets),
    }
