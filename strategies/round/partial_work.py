"""Scale the updates of clients that did a part of their local training, as FedNova does."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from hqde_fl.rules import Aggregator, Cohort
from hqde_fl.updates import Columns, MappedColumns


def scaled_to_mean_work(
    updates: Columns, work: Sequence[float], rule: Aggregator, cohort: Cohort
) -> Columns:
    """Return each update times the mean part of work over its client's own part.

    This is normalised averaging (FedNova, Wang et al., 2020, arXiv:2007.07481, for local SGD) with
    a client's part of its local training as the number of its steps: sum_i p_i tau_i times
    sum_i p_i x_i / tau_i, where p_i are the rule's weights in a mean. A rule then compares updates
    of one length of training. The updates are unchanged if all clients did the same part.

    Parameters
    ----------
    updates : Columns
        (n, d) updates.
    work : Sequence[float]
        Each client's part of its local training, in (0, 1].
    rule : Aggregator
        The rule that merges them.
    cohort : Cohort
        The clients of the updates.
    """
    if len(set(work)) < 2:
        return updates
    parts = torch.tensor(work, dtype=torch.float64)
    weights = rule.mean_weights(cohort)
    mean = (weights * parts).sum() / weights.sum()
    return scaled(updates, mean / parts)


def scaled(updates: Columns, factors: Tensor) -> Columns:
    """Return updates (n, d), each times its factor of ``factors`` (n,)."""
    return MappedColumns(updates, partial(_scaled, factors), len(factors))


def _scaled(factors: Tensor, tile: Tensor) -> Tensor:
    return tile * factors.to(tile)[:, None]
