"""Set test examples aside, by which the server judges the clients' models."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sized
from typing import cast

from torch import Tensor, nn

from hqde_fl.clients.data_subset import data_subset
from hqde_fl.clients.evaluation import evaluate
from hqde_fl.clients.fresh_model import FreshModel
from hqde_fl.clients.reproducibility import reproducible
from hqde_fl.clients.task import Task
from hqde_fl.clients.task_calls import build_model, load_test_set
from hqde_fl.errors import ConfigError
from hqde_fl.seeding import Seeds
from hqde_fl.strategies.confidence import HeldOut


def hold_out(task: Task, count: int, seeds: Seeds) -> tuple[Task, HeldOut]:
    """Set some of a task's test examples aside.

    Parameters
    ----------
    task : Task
        Task whose test set is divided at random.
    count : int
        Number of examples to set aside.
    seeds : Seeds
        The run's seeds.

    Returns
    -------
    Task
        The task with the examples that are left as its test set.
    HeldOut
        Function (a model's state dict) -> e^(-mean loss) on the examples set aside; 1 for a
        negative loss, 0 for one that is not finite.

    Raises
    ------
    ConfigError
        If no example would be left to test with.
    """
    data = load_test_set(task)
    size = len(cast(Sized, data))
    if count >= size:
        raise ConfigError(f"strategy.held-out must be < {size} (the test set), found {count}")
    order = seeds.numpy("held-out").permutation(size).tolist()
    aside, rest = (data_subset(data, sorted(part)) for part in (order[:count], order[count:]))

    def build() -> nn.Module:
        with reproducible(0):
            return build_model(task)

    model = FreshModel(build)

    def confidence(state: Mapping[str, Tensor]) -> float:
        with reproducible(0, 1):
            loss = evaluate([model.load(state)], aside, task)["loss"]
        return math.exp(-max(0.0, loss)) if math.isfinite(loss) else 0.0

    return dataclasses.replace(task, test=lambda: rest), confidence
