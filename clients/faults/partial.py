"""Partial: a reply that lacks an array or part of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
from flwr.app import Array, ArrayRecord, Context, Message
from flwr.clientapp.typing import ClientAppCallable

from hqde_fl.clients.faults.base import Fault, with_changed_arrays
from hqde_fl.clients.task_facts import TaskFacts
from hqde_fl.errors import ConfigError


@final
@dataclass(frozen=True)
class Partial(Fault):
    """The client trains honestly, then sends an incomplete model, as after an interrupted transfer.

    Parameters
    ----------
    how : {"missing", "truncated"}, default="missing"
        ``missing`` omits the last array; ``truncated`` sends only the first half of its bytes,
        under its full shape.
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
        """Return the honest reply without its last array, or with half of that array's bytes."""
        return with_changed_arrays(message, call_next(message, context), self._cut)

    def _cut(self, record: ArrayRecord) -> ArrayRecord:
        arrays = dict(record)
        if arrays:
            name, last = arrays.popitem()
            if self.how == "truncated":
                half = last.data[: len(last.data) // 2]
                arrays[name] = Array(last.dtype, last.shape, last.stype, half)
        return ArrayRecord(arrays)
