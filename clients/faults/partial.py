"""Partial: a reply that lacks an array or part of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
from flwr.app import Array, ArrayRecord, Context, Message
from flwr.clientapp.typing import ClientAppCallable

from hqde_fl.clients.faults.base import Fault, weight_names, with_changed_arrays
from hqde_fl.clients.task_facts import TaskFacts
from hqde_fl.errors import ConfigError


@final
@dataclass(frozen=True)
class Partial(Fault):
    """The client trains honestly, then sends an incomplete model, as after an interrupted transfer.

    Parameters
    ----------
    how : {"missing", "truncated"}, default="missing"
        ``missing`` omits the last weight array, or the last of all if the model trains none;
        ``truncated`` sends only the first half of its bytes, under its full shape.
    """

    how: Literal["missing", "truncated"] = "missing"

    def __post_init__(self) -> None:
        if self.how not in ("missing", "truncated"):
            raise ConfigError(f"Partial.how must be 'missing' or 'truncated', found {self.how!r}")

    def check_task(self, facts: TaskFacts) -> None:
        """Raise ``ConfigError`` unless the model has arrays."""
        facts.require_arrays()

    def act(
        self,
        message: Message,
        context: Context,
        call_next: ClientAppCallable,
        generator: torch.Generator,
    ) -> Message:
        """Return the honest reply without its last weight array, or with half of its bytes."""

        def cut(record: ArrayRecord) -> ArrayRecord:
            names = weight_names(message, record) or list(record)
            return self._cut(record, names[-1]) if names else record

        return with_changed_arrays(message, call_next(message, context), cut)

    def _cut(self, record: ArrayRecord, last: str) -> ArrayRecord:
        """Return a record without an array, or with half of its bytes."""
        if self.how == "missing":
            return ArrayRecord({name: array for name, array in record.items() if name != last})
        array = record[last]
        half = array.data[: len(array.data) // 2]
        return ArrayRecord({**record, last: Array(array.dtype, array.shape, array.stype, half)})
