"""Edge cases: inputs from the tail of the distribution (Wang et al., 2020, arXiv:2007.05084)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from hqde_fl.clients.batches import Batch, Collate
from hqde_fl.clients.faults.backdoor import require_other_label
from hqde_fl.clients.faults.backdoor_base import (
    images_of,
    require_class,
    require_label,
    with_entry,
)
from hqde_fl.clients.faults.poisoned_data import PoisonedData, examples_with, relabelled
from hqde_fl.clients.faults.poisoning import Change
from hqde_fl.clients.task_facts import TaskFacts
from hqde_fl.errors import ConfigError


@final
@dataclass(frozen=True)
class EdgeCases(PoisonedData):
    """Edge cases: rare inputs, which no honest client has, get the attacker's label.

    As no honest client trains on such inputs, nothing in their updates works against the backdoor.
    The paper takes its inputs from other data sets (planes of one airline, digits in another
    hand); here the rare inputs are images turned by quarter turns, which needs no other data. The
    attackers know their own data. Needs images and a client as ``backdoor`` does.

    Parameters
    ----------
    target : int, default=0
        The label of the rare inputs, >= 0.
    source : int, default=-1
        The only label whose images are turned; -1 for all labels but the target.
    turns : int, default=1
        Quarter turns, in [1, 3]; 1 and 3 need square images.
    poisoned : float, default=0.5
        Fraction of every batch that is poisoned, in (0, 1]; at least one example.
    scale : float, default=1.0
        Factor of the update, > 0.
    """

    target: int = 0
    source: int = -1
    turns: int = 1
    poisoned: float = 0.5
    scale: float = 1.0

    def __post_init__(self) -> None:
        require_label(self, "target")
        if self.source < -1 or self.source == self.target:
            raise ConfigError(
                f"EdgeCases.source must be -1 or a label other than target = {self.target}, "
                f"found {self.source}"
            )
        if not 1 <= self.turns <= 3:
            raise ConfigError(f"EdgeCases.turns must be in [1, 3], found {self.turns}")
        self.check_numbers()

    def check_task(self, facts: TaskFacts) -> None:
        """Raise ``ConfigError`` unless the task has images that can be turned, and the labels.

        Raises ``DataError`` if no example can be turned.
        """
        require_class(self, facts, "target", "source")
        self.turned(images_of(self, facts.batch.inputs))
        if self.scale != 1:
            facts.require_weights()
        if self.source < 0:
            require_other_label(facts, self.target)
        elif not facts.any_label(lambda labels: labels == self.source):
            raise ConfigError(self._missing)

    def poison(self, facts: TaskFacts, client: int) -> Change:
        """Return the change that turns images of a batch and gives them the attacker's label.

        Those of the source are turned, up to the fraction; a batch without any stays as it is.
        """

        def change(x: Any, y: Tensor) -> tuple[Any, Tensor]:
            images, labels = images_of(self, x), y.clone()
            rows = self._chosen(y).nonzero()[:, 0][: self.count(y)]
            poisoned = images.clone()
            poisoned[rows] = self.turned(images[rows])
            labels[rows] = self.target
            return with_entry(x, images, poisoned), labels

        return change

    def turned(self, x: Tensor) -> Tensor:
        """Return images (..., height, width), turned; raise ``ConfigError`` if they do not fit."""
        if self.turns % 2 and x.shape[-1] != x.shape[-2]:
            raise ConfigError(
                f"EdgeCases(turns={self.turns}) needs square images, found {tuple(x.shape)}"
            )
        return torch.rot90(x, self.turns, (-2, -1))

    def triggered(
        self, data: Dataset[Any], model: nn.Module, collate: Collate | None = None
    ) -> Iterator[Batch]:
        """Yield all examples of the source, turned, with the attacker's label, in batches."""
        for batch in examples_with(
            data, model, collate, lambda batch: self._chosen(batch.targets), self._missing
        ):
            images = images_of(self, batch.inputs)
            inputs = with_entry(batch.inputs, images, self.turned(images))
            yield relabelled(batch, inputs, self.target)

    @property
    def _missing(self) -> str:
        what = "another label" if self.source < 0 else f"label {self.source}"
        return f"a backdoor to label {self.target} needs examples of {what}"

    def _chosen(self, labels: Tensor) -> Tensor:
        return labels != self.target if self.source < 0 else labels == self.source
