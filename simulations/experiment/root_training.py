"""Train on root examples of the server's own, for rules that compare clients with the server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from hqde_fl.clients.batch_iteration import shuffled_batches
from hqde_fl.clients.fresh_model import FreshModel
from hqde_fl.clients.initial_state import build_member
from hqde_fl.clients.reproducibility import reproducible
from hqde_fl.clients.task import Task
from hqde_fl.clients.training import Training, train
from hqde_fl.seeding import Seeds
from hqde_fl.strategies.server_data import RootTraining

MAX_PASSES = 100
"""Passes over the root examples for each of a client over its own, at most."""


def root_training(
    task: Task, examples: Dataset[Any], training: Training, seeds: Seeds
) -> RootTraining:
    """Return the function that trains a model on root examples as the clients train on theirs.

    It passes over them often enough for the number of steps of a typical client, as in FLTrust's
    paper, but never more than ``MAX_PASSES`` times as often as a client over its own. It is without
    DP-SGD, which would protect the server's data from the server. What it draws at random follows
    from the seeds and the round.

    Parameters
    ----------
    task : Task
        The loss and the way to make batches.
    examples : Dataset
        The root examples.
    training : Training
        The clients' training.
    seeds : Seeds
        The run's seeds.
    """
    training = replace(training, dp_sgd=None, keep_optimizer=False, control_variates=False)

    def build() -> nn.Module:
        return build_member(task, seeds, 0).to(training.placement)

    model = FreshModel(build, training.new_optimizer)

    own_batches = shuffled_batches(len(examples), training.batch_size)  # type: ignore[arg-type]

    def trained(state: Mapping[str, Tensor], number: int, typical: float) -> Mapping[str, Tensor]:
        own, optimizer = model.load_to_train(state)
        batches = shuffled_batches(max(1, int(min(typical, 1e9))), training.batch_size)
        passes = min(MAX_PASSES, max(1, round(batches / own_batches)))
        often = training  # steps are as many for everybody
        if not training.steps:
            often = replace(training, epochs=passes * training.epochs)
        with reproducible(seeds.integer("root", number)):
            generator = seeds.torch("root", number)
            train(own, examples, task, often, generator, optimizer, number=number)
        return {
            name: value.detach().to("cpu", copy=True) for name, value in own.state_dict().items()
        }

    return trained
