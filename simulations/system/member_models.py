"""The models of an ensemble's members, for evaluation and prediction in this process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any, final

import torch
from flwr.app import ArrayRecord
from torch import Tensor, nn

from hqde_fl.clients.batch_iteration import read_loader
from hqde_fl.clients.batches import call_model
from hqde_fl.clients.evaluation import class_probabilities, evaluate_batches, evaluation_mode
from hqde_fl.clients.fresh_model import FreshModel
from hqde_fl.clients.reproducibility import reproducible
from hqde_fl.clients.task import Task
from hqde_fl.clients.task_calls import build_model
from hqde_fl.errors import DataError
from hqde_fl.protocol.members import split_members
from hqde_fl.protocol.records import from_record
from hqde_fl.simulations.system.settings import Settings


@final
class MemberModels:
    """The members' models, built on first use, which take the weights of any call.

    Parameters
    ----------
    task : Task
        Builds the models; its loss and metrics evaluate them.
    settings : Settings
        The number of members, the predictor, and the device and threads to use.
    """

    def __init__(self, task: Task, settings: Settings) -> None:
        self._task, self._settings = task, settings
        self._device = torch.device(settings.training.placement)

    def evaluate(self, loader: Iterable[Any], arrays: ArrayRecord) -> dict[str, float]:
        """Return loss and metrics of models with these weights on labelled batches."""
        models = self._with_weights(arrays)
        with reproducible(0, self._settings.training.threads):
            batches = read_loader(loader, models[0])
            return evaluate_batches(
                models, batches, self._task, self._settings.predictor, calibrated=True
            )

    def outputs(self, loader: Iterable[Any], arrays: ArrayRecord) -> Tensor:
        """Return the members' outputs (n, members, ...); probabilities if they are classifiers.

        Raises
        ------
        DataError
            If the loader has no batch.
        """
        if not (outputs := list(self._batch_outputs(loader, arrays))):
            raise DataError("the loader needs at least 1 batch, found 0")
        return torch.cat(outputs)

    @torch.no_grad()
    def _batch_outputs(self, loader: Iterable[Any], arrays: ArrayRecord) -> Iterator[Tensor]:
        models = self._with_weights(arrays)
        with reproducible(0, self._settings.training.threads), evaluation_mode(models):
            for batch in read_loader(loader, models[0], labelled=False):
                answers = [call_model(model, batch.inputs) for model in models]
                if self._task.classifier:
                    outputs = class_probabilities(answers)
                else:
                    outputs = torch.stack(answers)
                yield outputs.transpose(0, 1).cpu()

    def _with_weights(self, arrays: ArrayRecord) -> list[nn.Module]:
        states = split_members(from_record(arrays), self._settings.members)
        return [model.load(state) for model, state in zip(self._models, states, strict=True)]

    def _build(self) -> nn.Module:
        with reproducible(0):  # building a model must not advance the process's generators
            return build_model(self._task).to(self._device)

    @cached_property
    def _models(self) -> list[FreshModel]:
        return [FreshModel(self._build) for _ in range(self._settings.members)]
