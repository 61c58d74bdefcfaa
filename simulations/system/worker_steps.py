"""Batches, learning rate and server momentum with which n workers learn as fast as one place.

One place takes ``len(loader)`` steps an epoch on all data; each worker has 1/n of the data.

* If every batch is split among the workers, each takes as many steps as one place. For SGD the mean
  of n such workers is, to first order, one place: the mean of n gradients on 1/n of a batch is the
  gradient on the batch.
* Where a worker takes k times fewer steps, SGD's learning rate is multiplied by k (linear scaling
  rule, Goyal et al., 2017, arXiv:1706.02677) and AdamW's by sqrt(k) (square-root scaling rule,
  Malladi et al., 2022, arXiv:2205.10287).
* AdamW divides a step by the root mean square of its gradients. On 1/n of a batch their noise is
  sqrt(n) times larger, and the workers advance up to sqrt(n) times more slowly. A learning rate
  sqrt(n) times higher would make up for it, but multiplies the noise in each worker too. Momentum
  1 - 1/sqrt(n) at the server multiplies steady progress by sqrt(n), after the noise was averaged
  (Hsu et al., 2019, arXiv:1909.06335; Wang et al., 2020, arXiv:1910.00643).
"""

from __future__ import annotations

import math
from dataclasses import replace

from hqde_fl.clients.training import Training
from hqde_fl.strategies.optimizers import SGD

BATCH_ASSIGNMENTS = ("split", "whole")
SCALING_RULES = ("auto", "none")
MIN_BATCH = 2
"""Smallest part of a batch that is split: batch normalisation cannot train on one example."""


def worker_batch(batch_size: int, workers: int, assignment: str) -> int:
    """Return the batch size of a worker.

    Parameters
    ----------
    batch_size : int
        The loader's batch size, >= 1.
    workers : int
        Number of workers, >= 1.
    assignment : "split" or "whole"
        ``"split"``: 1/n of the batch, rounded up, at least ``MIN_BATCH`` unless the loader's batch
        is smaller. ``"whole"``: the loader's batch size.
    """
    if assignment == "whole":
        return batch_size
    return min(batch_size, max(MIN_BATCH, math.ceil(batch_size / workers)))


def step_ratio(batch_size: int, own_batch: int, examples: int, workers: int) -> float:
    """Return k: the steps of an epoch in one place over those of a worker, >= 1.

    Parameters
    ----------
    batch_size, own_batch : int
        Batch sizes of the loader and of a worker.
    examples : int
        Number of examples of all workers together, >= ``workers``.
    workers : int
        Number of workers, >= 1.
    """
    portion = math.ceil(examples / workers)
    return math.ceil(examples / batch_size) / math.ceil(portion / own_batch)


def scaled(training: Training, ratio: float, gain: float) -> Training:
    """Return settings of training with k times fewer steps whose updates the server lengthens.

    AdamW's decay of weights per epoch stays as in one place.

    Parameters
    ----------
    training : Training
        The settings in one place.
    ratio : float
        k, see ``step_ratio``.
    gain : float
        Factor by which the server's momentum lengthens steady progress, >= 1.
    """
    if training.optimizer == "sgd":
        return replace(training, lr=training.lr * ratio)
    root, decay = math.sqrt(ratio), training.weight_decay
    if training.optimizer == "adamw":  # Adam's is a part of the gradient
        decay *= root / gain
    return replace(training, lr=training.lr * root, weight_decay=decay)


def server_sgd(optimizer: str, workers: int) -> SGD:
    """Return the server optimiser for workers that train with "sgd", "adam" or "adamw".

    Its momentum is 0 for SGD, and else 1 - 1/sqrt(n).
    """
    if optimizer == "sgd" or workers == 1:
        return SGD()
    return SGD(momentum=1 - 1 / math.sqrt(workers), nesterov=True)
