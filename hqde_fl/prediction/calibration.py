"""Measures of the quality of predicted probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

MIN_PROBABILITY = 1e-12
"""Probabilities count as at least this: one error made with certainty leaves the mean finite."""


def negative_log_likelihood(probability: Tensor, target: Tensor) -> float:
    """Return the mean over n examples of -log of the probability given to the true class (n,)."""
    _check(probability, target)
    return mean_negative_log(probability.gather(1, target[:, None]))


def mean_negative_log(chosen: Tensor) -> float:
    """Return the mean of -log of the probabilities given to the true classes."""
    return float(-chosen.to(torch.float64).clamp(min=MIN_PROBABILITY).log().mean())


def calibration_error(probability: Tensor, target: Tensor, bins: int = 15) -> float:
    """Return the expected calibration error (ECE; Guo et al., 2017, arXiv:1706.04599).

    The examples are put into ``bins`` equal intervals by the probability of the predicted class;
    the error is the mean difference between that probability and the accuracy in an interval,
    weighted by its number of examples. 0 is perfect.

    Parameters
    ----------
    probability : Tensor
        (n, c) predicted distributions.
    target : Tensor
        (n,) true classes.
    bins : int
        The number of intervals (k / bins, (k + 1) / bins], >= 1.
    """
    _check(probability, target)
    if bins < 1:
        raise ValueError(f"calibration_error needs bins >= 1, found {bins}")
    confidence, label = probability.max(dim=1)
    return calibration_error_of(confidence, label == target, bins)


def calibration_error_of(confidence: Tensor, correct: Tensor, bins: int = 15) -> float:
    """Return the calibration error from probabilities of predicted classes (n,) and their truth.

    ``correct`` is True where the predicted class is the true one; see ``calibration_error``.
    """
    confidence = confidence.to(torch.float64)
    excess = confidence - correct.to(torch.float64)
    interval = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gaps = torch.zeros(bins, dtype=torch.float64, device=interval.device)
    gaps = gaps.index_add(0, interval, excess)
    return float(gaps.abs().sum()) / len(correct)


def _check(probability: Tensor, target: Tensor) -> None:
    if probability.ndim != 2 or target.shape != probability.shape[:1] or len(target) == 0:
        raise ValueError(
            "calibration needs probabilities (n, c) and true classes (n,), n >= 1, "
            f"found {tuple(probability.shape)} and {tuple(target.shape)}"
        )
