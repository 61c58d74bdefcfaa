"""Wrong dtype: arrays of another dtype than the model's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final, get_args

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Context, Message
from flwr.clientapp.typing import ClientAppCallable

from hqde_fl.clients.faults.base import Fault, with_changed_arrays
from hqde_fl.clients.task_facts import TaskFacts
from hqde_fl.errors import ConfigError
from hqde_fl.protocol.records import from_record

Dtype = Literal["float16", "float32", "float64", "int64", "text"]


@final
@dataclass(frozen=True)
class WrongDtype(Fault):
    """The client trains honestly, then sends every weight array in another dtype.

    Shapes and values are kept. Integer and boolean buffers are sent unchanged.

    Parameters
    ----------
    dtype : {"float16", "float32", "float64", "int64", "text"}, default="float64"
        Dtype of the arrays that are sent; ``text`` is an array of strings. Arrays that have this
        dtype already stay honest.
    """

    dtype: Dtype = "float64"

    def __post_init__(self) -> None:
        known = get_args(Dtype)
        if self.dtype not in known:
            raise ConfigError(
                f"WrongDtype.dtype must be one of {', '.join(known)}, found {self.dtype!r}"
            )

    def check_task(self, facts: TaskFacts) -> None:
        """Raise ``ConfigError`` unless the model has weights in another dtype than ``dtype``."""
        dtypes = {str(weight.dtype).removeprefix("torch.") for weight in facts.weights.values()}
        if not dtypes - {self.dtype}:
            raise ConfigError(
                f"WrongDtype.dtype must not be that of all weights, found {self.dtype!r} "
                f"and {', '.join(dtypes) or 'no weights'}"
            )

    def act(
        self,
        message: Message,
        context: Context,
        call_next: ClientAppCallable,
        generator: torch.Generator,
    ) -> Message:
        """Return the honest reply with its floating-point arrays converted to ``dtype``."""
        return with_changed_arrays(message, call_next(message, context), self._convert)

    def _convert(self, record: ArrayRecord) -> ArrayRecord:
        state, kind = from_record(record), "str" if self.dtype == "text" else self.dtype
        return ArrayRecord(
            {
                name: Array(np.asarray(tensor.double().numpy().astype(kind)))
                if tensor.is_floating_point()
                else record[name]
                for name, tensor in state.items()
            }
        )
