"""The models of an ensemble's members, for evaluation and prediction in this process."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, TypeVar, final

import torch
from flwr.app import ArrayRecord
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, default_collate

from hqde_fl.clients.batch_iteration import read_loader
from hqde_fl.clients.batches import Batch, call_model, logits_of
from hqde_fl.clients.class_scores import ClassAxis, with_class_axis, without_class_axis
from hqde_fl.clients.data_forms import check_loader
from hqde_fl.clients.evaluation import evaluate, evaluate_batches, evaluation_mode
from hqde_fl.clients.fresh_model import FreshModel
from hqde_fl.clients.initial_state import build_member
from hqde_fl.clients.label_checks import ignored_label
from hqde_fl.clients.model_outputs import combine_outputs, joined_batches, mean_outputs
from hqde_fl.clients.reproducibility import reproducible
from hqde_fl.clients.task import Task
from hqde_fl.clients.task_check import MAX_EXAMPLES, before_the_run, check_training, sample
from hqde_fl.clients.task_facts import TaskFacts
from hqde_fl.clients.training import Training
from hqde_fl.clients.user_code import description
from hqde_fl.errors import ConfigError, DataError, HQDEError, TaskError
from hqde_fl.prediction import Prediction
from hqde_fl.protocol.members import split_members
from hqde_fl.protocol.records import from_record
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.experiment.voters import choose_voters
from hqde_fl.simulations.system.loader_data import LoaderData
from hqde_fl.simulations.system.settings import Settings

T = TypeVar("T")


@final
class MemberModels:
    """The members' models, built on first use, which take the weights of any call.

    Those that vote (``voters``, at first all) evaluate and predict.

    Parameters
    ----------
    task : Task
        Builds the models; its loss and metrics evaluate them.
    settings : Settings
        The number of members, the predictor, and the device and threads to use.
    seeds : Seeds
        The system's seeds.
    """

    def __init__(self, task: Task, settings: Settings, seeds: Seeds) -> None:
        self._task, self._settings, self._seeds = task, settings, seeds
        self._device = torch.device(settings.training.placement)
        self._training_data: LoaderData | None = None
        self.voters = tuple(range(settings.members))

    def trained_on(self, data: LoaderData) -> None:
        """Remember the training data, which show where the outputs have their class scores."""
        self._training_data = data
        self.__dict__.pop("_trained_class_axis", None)

    def check(self, task: Task, training: Training, validation: Iterable[Any] | None) -> None:
        """Train a model on a batch of the training data, and evaluate it on one for validation.

        The examples for validation are those of a ``DataLoader`` of a map-style data set, or the
        first of a list of batches; batches that can be iterated over once are left alone.

        Raises
        ------
        ConfigError
            If one of the two fails.
        """
        assert self._training_data is not None
        model, members = self._models[0], self._settings.members
        if validation is not None:
            check_loader(validation)
        if isinstance(validation, DataLoader) and not isinstance(
            validation.dataset, IterableDataset
        ):
            collate = validation.collate_fn
            own = None if collate is default_collate else collate
            with before_the_run("validation data"), reproducible(0, training.threads):
                data = sample(validation.dataset, MAX_EXAMPLES)
                loaded = [model.load(model.built.state_dict())] * members
                evaluate(loaded, data, replace(task, collate=own))
        elif isinstance(validation, list | tuple):
            with before_the_run("validation data"), reproducible(0, training.threads):
                loaded = [model.load(model.built.state_dict())] * members
                evaluate_batches(loaded, read_loader(validation[:1], loaded[0]), task)
        with before_the_run("training data"):
            check_training(task, model, training, self._training_data.dataset)

    def evaluate(self, loader: Iterable[Any], arrays: ArrayRecord) -> dict[str, float]:
        """Return loss and metrics of models with these weights on labelled batches."""
        models = self._with_weights(arrays)
        with reproducible(0, self._settings.training.threads):
            batches = read_loader(loader, models[0])
            return evaluate_batches(
                models, batches, self._task, self._settings.predictor, calibrated=True
            )

    def choose_voters(
        self, loader: Iterable[Any], arrays: ArrayRecord, count: int
    ) -> tuple[int, ...]:
        """Return the members whose vote promises to be the best, by labelled batches."""
        models = self._with_weights(arrays, range(self._settings.members))
        with reproducible(0, self._settings.training.threads):
            batches = read_loader(loader, models[0])
            rng = self._seeds.numpy("voters")
            return choose_voters(models, batches, self._task, count, rng).chosen

    def predict(self, loader: Iterable[Any], arrays: ArrayRecord) -> Prediction:
        """Return the prediction of classifiers, its tensors joined along their first axis.

        Batches of different lengths are padded at their ends: labels with the ignored label, other
        numbers with NaN.

        Raises
        ------
        DataError
            If the loader has no batch.
        ConfigError
            If it is not known which axis of the outputs has the classes.
        """

        def vote(batch: Batch, answers: list[Any]) -> tuple[Tensor, tuple[int, ...], int]:
            scores = [logits_of(answer) for answer in answers]
            axis = self._class_axis(scores[0], batch.targets)
            places = [without_class_axis(member, axis) for member in scores]
            votes = [rows.to(torch.float32).softmax(dim=1) for rows, _ in places]
            return torch.stack(votes).cpu(), places[0][1], axis

        batches = self._for_each_batch(loader, arrays, vote)
        votes = [votes for votes, _, _ in batches]
        places = [(shape, axis) for _, shape, axis in batches]
        prediction = self._settings.predictor.predict(torch.cat(votes, dim=1))
        counts = [part.shape[1] for part in votes]

        def in_shape(values: Tensor, padding: float) -> Tensor:
            parts = zip(values.split(counts), places, strict=True)
            return joined_batches([part.reshape(shape) for part, (shape, _) in parts], padding)

        parts = zip(prediction.probability.split(counts), places, strict=True)
        probability = [with_class_axis(part, *place) for part, place in parts]
        return replace(
            prediction,
            label=in_shape(prediction.label, ignored_label(self._task)),
            probability=joined_batches(probability, math.nan),
            entropy=in_shape(prediction.entropy, math.nan),
            mutual_information=in_shape(prediction.mutual_information, math.nan),
        )

    def mean_outputs(self, loader: Iterable[Any], arrays: ArrayRecord) -> Any:
        """Return the mean of the members' outputs, joined along their first axis.

        Of outputs with ``logits`` these; of mappings and tuples every tensor. Batches of different
        lengths are padded with NaN at their ends. Raises ``DataError`` if the loader has no batch.
        """
        means = self._for_each_batch(
            loader, arrays, lambda _, answers: logits_of(mean_outputs(answers))
        )

        def join(batches: list[Tensor]) -> Tensor:
            number = batches[0].is_floating_point() or batches[0].is_complex()
            return joined_batches([b.cpu() for b in batches], math.nan if number else 0)

        return combine_outputs(join, means)

    def _for_each_batch(
        self,
        loader: Iterable[Any],
        arrays: ArrayRecord,
        use: Callable[[Batch, list[Any]], T],
    ) -> list[T]:
        """Return what a function makes of each batch and the members' outputs for it.

        Raises ``DataError`` if the loader has no batch.
        """
        models = self._with_weights(arrays)
        with (
            reproducible(0, self._settings.training.threads),
            torch.no_grad(),
            evaluation_mode(models),
        ):
            results = [
                use(batch, [call_model(model, batch.inputs) for model in models])
                for batch in read_loader(loader, models[0], labelled=False)
            ]
        if not results:
            raise DataError("the loader needs at least 1 batch, found 0")
        return results

    def _class_axis(self, scores: Any, targets: Any) -> int:
        """Return the axis of a batch's outputs that has the class scores.

        It is ``class_axis`` if that is stated, else the axis that the training data show, else the
        one that the batch's own targets show. Raises ``ConfigError`` if none of these is known.
        """
        if not isinstance(scores, Tensor) or scores.ndim < 2:
            raise TaskError(
                f"predict needs class scores (n, classes, ...), found {description(scores)}"
            )
        if scores.ndim == 2:
            return 1
        axis = self._task.class_axis or self._trained_class_axis
        axis = axis or ClassAxis().find(scores, targets)
        if axis is None or not -scores.ndim < axis < scores.ndim:
            raise ConfigError(
                f"predict cannot tell which axis of the outputs {tuple(scores.shape)} has the "
                "classes: state class_axis, or give batches with targets"
            )
        return axis % scores.ndim

    @cached_property
    def _trained_class_axis(self) -> int | None:
        """The axis with the class scores in outputs for the training data; None if unknown."""
        if (data := self._training_data) is None:
            return None
        task = replace(self._task, collate=data.task_collate)
        with suppress(HQDEError):
            return TaskFacts(task, lambda: data.dataset, self._build(0)).class_axis
        return None

    def _with_weights(
        self, arrays: ArrayRecord, members: Sequence[int] | None = None
    ) -> list[nn.Module]:
        """Return the models of some members, by default of those that vote."""
        states = split_members(from_record(arrays), self._settings.members)
        chosen = self.voters if members is None else members
        return [self._models[member].load(states[member]) for member in chosen]

    def _build(self, member: int) -> nn.Module:
        return build_member(self._task, self._seeds, member).to(self._device)

    @cached_property
    def _models(self) -> list[FreshModel]:
        return [FreshModel(partial(self._build, m)) for m in range(self._settings.members)]
