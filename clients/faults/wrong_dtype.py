"""Wrong dtype: arrays of another dtype than the model's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final, get_args

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Context, Message
from flwr.clientapp.typing import ClientAppCallable

from hqde_fl.clients.faults.base import (
    Fault,
    weight_names,
    with_changed_arrays,
    with_replaced,
)
from hqde_fl.clients.task_facts import TaskFacts
from hqde_fl.errors import ConfigError
from hqde_fl.protocol.npy import decode_array

Dtype = Literal["float16", "float32", "float64", "int64", "text"]


@final
@dataclass(frozen=True)
class WrongDtype(Fault):
    """The client trains honestly, then sends every weight array in another dtype.

    Shapes and values are kept, of complex numbers the real parts. Everything but the weights is
    sent as trained.

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
        """Return the honest reply with its weight arrays converted to ``dtype``."""

        def convert(record: ArrayRecord) -> ArrayRecord:
            wrong = {n: self._convert(record[n]) for n in weight_names(message, record)}
            return with_replaced(message, record, wrong)

        return with_changed_arrays(message, call_next(message, context), convert)

    def _convert(self, array: Array) -> Array:
        values, kind = decode_array(array), "str" if self.dtype == "text" else self.dtype
        real = values.real if values.is_complex() else values
        return Array(np.asarray(real.double().numpy().astype(kind)))
