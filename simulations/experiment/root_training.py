"""Train on root examples of the server's own, for rules that compare clients with the server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from hqde_fl.clients.fresh_model import FreshModel
from hqde_fl.clients.initial_state import build_member
from hqde_fl.clients.reproducibility import reproducible
from hqde_fl.clients.task import Task
from hqde_fl.clients.training import Training, train
from hqde_fl.seeding import Seeds
from hqde_fl.strategies.server_data import RootTraining


def root_training(
    task: Task, examples: Dataset[Any], training: Training, seeds: Seeds
) -> RootTraining:
    """Return the function that trains a model on root examples as the clients train on theirs.

    Without DP-SGD, which would protect the server's data from the server. What it draws at random
    follows from the seeds and the round.

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
    training = replace(training, dp_sgd=None)

    def build() -> nn.Module:
        return build_member(task, seeds, 0).to(training.placement)

    model = FreshModel(build, training.new_optimizer)

    def trained(state: Mapping[str, Tensor], number: int) -> Mapping[str, Tensor]:
        own, optimizer = model.load_to_train(state)
        with reproducible(seeds.integer("root", number)):
            train(own, examples, task, training, seeds.torch("root", number), optimizer)
        return {
            name: value.detach().to("cpu", copy=True) for name, value in own.state_dict().items()
        }

    return trained
