"""Evaluation of a model, or of an ensemble and its single members."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from hqde_fl.clients.batch_iteration import iterate_batches
from hqde_fl.clients.batches import Batch, call_model
from hqde_fl.clients.class_scores import ClassScores
from hqde_fl.clients.metric_sums import ClassTally, MetricSums
from hqde_fl.clients.model_outputs import mean_outputs, with_logits
from hqde_fl.clients.scoring import NoTargetsError, Scoring
from hqde_fl.clients.task import CLASS_METRICS, Task, accuracy, class_accuracy
from hqde_fl.errors import ConfigError
from hqde_fl.prediction import (
    ClassifierScores,
    EnsemblePredictor,
    EnsembleScores,
    Prediction,
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
        class probabilities for classifiers, in the shape of a member's outputs, and the mean of its
        members' outputs otherwise.
    predictor : EnsemblePredictor, optional
        Combines the members' class probabilities, batch by batch; soft vote if not given.
    calibrated : bool, default=False
        Return ``accuracy``, ``nll`` and ``ece`` of a single classifier too, if its outputs are
        class scores for the targets.

    Returns
    -------
    dict[str, float]
        ``loss`` and one entry for each value of the metrics: means over the examples, or of
        classifiers over all targets but the ignored label. Of several classifiers also the values
        of ``EnsembleScores``, except those whose names the user's own metrics have.
    """
    scoring, predictor = Scoring(task), predictor or EnsemblePredictor()
    ensemble_scores, scores = EnsembleScores(len(models)), ClassifierScores()
    votes = len(models) > 1 and task.classifier
    calibrated = calibrated and task.classifier and not votes
    reads_classes = calibrated or any(map(CLASS_METRICS.__contains__, task.metrics.values()))
    by_class = [name for name, metric in task.metrics.items() if metric is class_accuracy]
    sums, tally, seen, examples = MetricSums(), ClassTally(), 0, 0
    with evaluation_mode(models):
        for batch in data:
            targets, weight = batch.targets, scoring.weight(batch.targets, batch.size)
            examples += batch.size
            if weight == 0:
                continue
            answers = [call_model(model, batch.inputs) for model in models]
            vote = _vote(scoring, answers, targets, predictor) if votes else None
            outputs = mean_outputs(answers) if vote is None else vote.outputs
            loss = float(scoring.loss(outputs, targets))
            classes = scoring.class_scores(outputs, targets) if reads_classes else None
            metrics = {n: scoring.metric(n, outputs, targets, classes) for n in task.metrics}
            sums.add({"loss": {"loss": loss}} | metrics, weight)
            if by_class and classes is not None:
                tally.add(classes)
            seen += weight
            if vote is None:
                votes = False
            else:
                labels = vote.classes.class_numbers
                select = vote.classes.select
                members = torch.stack([select(member) for member in vote.members])
                ensemble_scores.add(members, select(vote.probability), labels)
            if classes is None:
                calibrated = False
            elif calibrated:
                scores.add(classes.select(class_probabilities(classes)), classes.class_numbers)
    if not examples:
        raise ConfigError("evaluation needs at least 1 example, found 0")
    if not seen:
        raise NoTargetsError(task)
    means = sums.means
    own = {name: means[name] for name in means if task.metrics.get(name) is not accuracy}
    for name in by_class:
        means |= tally.values(name)
    if votes:
        means |= ensemble_scores.values | own
    return means | scores.values | own if calibrated else means


@dataclass(frozen=True, eq=False)
class _Vote:
    """The prediction of an ensemble's members together for a batch of c classes.

    Parameters
    ----------
    classes : ClassScores
        The first member's.
    members : Tensor
        (m, places, c) the members' probabilities.
    probability : Tensor
        (places, c) the ensemble's.
    outputs : Any
        The logarithms of these, in the shape of a member's outputs.
    """

    classes: ClassScores
    members: Tensor
    probability: Tensor
    outputs: Any


def _vote(
    scoring: Scoring, answers: Sequence[Any], targets: Any, predictor: EnsemblePredictor
) -> _Vote | None:
    """Return the vote of classifiers; None if their outputs are no class scores for the targets."""
    classes = [scoring.class_scores(answer, targets) for answer in answers]
    known = [member for member in classes if member is not None]
    if len(known) < len(classes):
        return None
    members = torch.stack([class_probabilities(member) for member in known])
    # a model whose scores have overflowed must not end a run: its places have no prediction
    finite = members.isfinite().all(dim=2).all(dim=0)
    if bool(finite.all()):
        probability = normalized_distribution(predictor.predict(members))
    else:
        probability = torch.full_like(members[0], math.nan)
        if bool(finite.any()):
            voted = predictor.predict(members[:, finite])
            probability[finite] = normalized_distribution(voted)
    logarithms = probability.clamp(min=MIN_PROBABILITY).log()
    outputs = with_logits(answers[0], known[0].in_outputs_shape(logarithms))
    return _Vote(known[0], members, probability, outputs)


def class_probabilities(classes: ClassScores) -> Tensor:
    """Return the softmax (places, c) of a classifier's scores, in float32."""
    return classes.scores.to(torch.float32).softmax(dim=1)


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
