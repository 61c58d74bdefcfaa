"""DBA: a trigger in parts, one for each attacker (Xie, Huang, Chen and Li, 2020, ICLR)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, final

from torch import Tensor, nn
from torch.utils.data import Dataset

from hqde_fl.clients.batches import Batch, Collate
from hqde_fl.clients.faults.backdoor import Backdoor, require_other_label
from hqde_fl.clients.faults.backdoor_base import images_of, require_class
from hqde_fl.clients.faults.poisoned_data import PoisonedData
from hqde_fl.clients.faults.poisoning import Change
from hqde_fl.clients.task_facts import TaskFacts
from hqde_fl.errors import ConfigError


@final
@dataclass(frozen=True)
class DistributedBackdoor(PoisonedData):
    """Distributed triggers: each attacker trains on a part of a patch; the whole patch attacks.

    The patch of ``backdoor`` is cut into ``parts`` strips of rows; a client trains with the strip
    number (partition id mod parts), so that no client's update is as unusual as that of the whole
    trigger (OpenReview rkgyS0VFvS). The success is that of the whole patch. The attackers know
    their own data, and the strips they agreed on. For every strip to be trained, name the
    attackers by ``clients``. Needs the same as ``backdoor``.

    Parameters
    ----------
    target : int, default=0
        The label of images with the trigger, >= 0.
    size : int, default=4
        Side of the square patch in the lower right corner, in pixels, >= 1.
    value : float, default=1.0
        Value of the patch in all channels.
    parts : int, default=4
        Number of strips, in [1, ``size``].
    poisoned : float, default=0.5
        Fraction of every batch that is poisoned, in (0, 1]; at least one example.
    scale : float, default=1.0
        Factor of the update, > 0.
    """

    target: int = 0
    size: int = 4
    value: float = 1.0
    parts: int = 4
    poisoned: float = 0.5
    scale: float = 1.0

    def __post_init__(self) -> None:
        try:
            _ = self.whole
        except ConfigError as error:
            raise ConfigError(str(error).replace("Backdoor", "DistributedBackdoor", 1)) from None
        if not 1 <= self.parts <= self.size:
            raise ConfigError(
                f"DistributedBackdoor.parts must be in [1, size = {self.size}], found {self.parts}"
            )

    @property
    def whole(self) -> Backdoor:
        """The backdoor with the whole patch."""
        return Backdoor(self.target, self.size, self.value, self.poisoned, self.scale)

    def check_task(self, facts: TaskFacts) -> None:
        """Raise ``ConfigError`` or ``DataError`` unless ``backdoor`` could act on the task."""
        require_class(self, facts, "target")
        self.whole.trigger(images_of(self, facts.batch.inputs))
        if self.scale != 1:
            facts.require_weights()
        require_other_label(facts, self.target)

    def poison(self, facts: TaskFacts, client: int) -> Change:
        """Return the change that puts the client's strip on the first examples of a batch."""

        def change(x: Any, y: Tensor) -> tuple[Any, Tensor]:
            return self.poison_first(x, y, partial(self.strip, client=client))

        return change

    def strip(self, x: Tensor, client: int) -> Tensor:
        """Return a copy of images (..., height, width) with the strip of a client's part."""
        part, top = client % self.parts, x.shape[-2] - self.size
        begin, end = (top + number * self.size // self.parts for number in (part, part + 1))
        strip = x.clone()
        strip[..., begin:end, :] = self.whole.trigger(x)[..., begin:end, :]
        return strip

    def triggered(
        self, data: Dataset[Any], model: nn.Module, collate: Collate | None = None
    ) -> Iterator[Batch]:
        """Yield all examples of other labels with the whole patch and the target's label."""
        return replace(self.whole, scale=1.0).triggered(data, model, collate)
