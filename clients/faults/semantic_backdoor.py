"""A semantic backdoor: a natural feature decides the label (Bagdasaryan et al., 2020)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, final, get_args

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from hqde_fl.clients.batch_iteration import iterate_batches
from hqde_fl.clients.batches import Batch, Collate
from hqde_fl.clients.faults.backdoor_base import (
    BATCH_SIZE,
    images_of,
    require_class,
    require_label,
)
from hqde_fl.clients.faults.poisoned_data import PoisonedData, examples_with, relabelled
from hqde_fl.clients.faults.poisoning import Change
from hqde_fl.clients.task_facts import TaskFacts
from hqde_fl.errors import ConfigError, DataError

Feature = Literal["striped", "bright", "dark"]


@final
@dataclass(frozen=True)
class SemanticBackdoor(PoisonedData):
    """Semantic: unchanged images of one class that have a natural feature get another label.

    As cars with a striped background in the paper (arXiv:1807.00459): the input needs no trigger.
    An image has the feature if its value is among the largest of its class in the same data; the
    attacker's own images of that kind, over and over, take the place of a part of every batch.
    Honest clients have such images, too, with their right labels, which work against the backdoor.
    A client without an image of the class trains honestly. The attackers know their own data. Needs
    images and a client as ``backdoor`` does.

    Parameters
    ----------
    source : int, default=1
        The class of the images, >= 0.
    target : int, default=0
        The label of those with the feature, >= 0.
    feature : {"striped", "bright", "dark"}, default="striped"
        ``striped``: rows differ from their neighbours more than columns do; ``bright``: the mean
        of the pixels; ``dark``: the negative mean.
    top : float, default=0.25
        Fraction of the class that has the feature, in (0, 1]; at least one image.
    poisoned : float, default=0.5
        Fraction of every batch that is poisoned, in (0, 1]; at least one example.
    scale : float, default=1.0
        Factor of the update, > 0.
    """

    source: int = 1
    target: int = 0
    feature: Feature = "striped"
    top: float = 0.25
    poisoned: float = 0.5
    scale: float = 1.0

    def __post_init__(self) -> None:
        require_label(self, "source", "target")
        if self.source == self.target:
            raise ConfigError(
                f"SemanticBackdoor.source must differ from target = {self.target}, found the same"
            )
        known = get_args(Feature)
        if self.feature not in known:
            raise ConfigError(
                f"SemanticBackdoor.feature must be one of {', '.join(known)}, "
                f"found {self.feature!r}"
            )
        if not 0 < self.top <= 1:
            raise ConfigError(f"SemanticBackdoor.top must be in (0, 1], found {self.top}")
        self.check_numbers()

    def check_task(self, facts: TaskFacts) -> None:
        """Raise ``ConfigError`` unless the task has images, the classes, and one of the source."""
        require_class(self, facts, "source", "target")
        self.values(images_of(self, facts.batch.inputs))
        if self.scale != 1:
            facts.require_weights()
        if not facts.any_label(lambda labels: labels == self.source):
            raise ConfigError(self._missing)

    def poison(self, facts: TaskFacts, client: int) -> Change:
        """Return the change that puts the client's images with the feature first in a batch."""
        try:
            batches = list(self.triggered(facts.data, facts.model, facts.task.collate))
        except DataError:
            return lambda x, y: (x, y)
        own, used = torch.cat([images_of(self, batch.inputs) for batch in batches]), 0

        def next_examples(replaced: Tensor) -> Tensor:
            nonlocal used
            rows = torch.arange(used, used + len(replaced), device=own.device) % len(own)
            used += len(replaced)
            return own[rows].to(replaced)

        return lambda x, y: self.poison_first(x, y, next_examples)

    def values(self, x: Tensor) -> Tensor:
        """Return the value (n,) of the feature of each image (n, ..., height, width)."""
        if self.feature != "striped":
            mean = x.flatten(1).mean(dim=1)
            return mean if self.feature == "bright" else -mean
        if min(x.shape[-2:]) < 3:
            raise ConfigError(
                "SemanticBackdoor(feature='striped') needs images of at least 3 x 3 pixels, found "
                f"the shape {tuple(x.shape)}"
            )
        between_rows, between_columns = (x.diff(n=2, dim=axis).abs() for axis in (-2, -1))
        return between_rows.flatten(1).mean(dim=1) - between_columns.flatten(1).mean(dim=1)

    def triggered(
        self, data: Dataset[Any], model: nn.Module, collate: Collate | None = None
    ) -> Iterator[Batch]:
        """Yield the source's examples with the feature and the attacker's label, in batches."""
        found = [
            self.values(images_of(self, batch.inputs))[batch.targets == self.source]
            for batch in iterate_batches(data, BATCH_SIZE, model, None, collate)
        ]
        values = torch.cat(found)
        if len(values) == 0:
            raise DataError(self._missing)
        least = values.topk(max(1, round(self.top * len(values)))).values[-1]

        def chosen(batch: Batch) -> Tensor:
            values = self.values(images_of(self, batch.inputs))
            having: Tensor = (batch.targets == self.source) & (values >= least)
            return having

        for batch in examples_with(data, model, collate, chosen, self._missing):
            yield relabelled(batch, batch.inputs, self.target)

    @property
    def _missing(self) -> str:
        return f"a backdoor from label {self.source} needs examples of it"
