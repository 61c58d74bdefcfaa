"""Examples of a task as they are kept in memory: inputs, labels, and columns to divide them by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hqde_fl.errors import ConfigError, DataError

Part = Literal["train", "test"]
LABEL = "label"


@final
@dataclass(frozen=True, eq=False)
class ExampleTable:
    """A table of examples, one in each row.

    Parameters
    ----------
    inputs : Tensor
        (n, ...) inputs in their smallest form, such as bytes of pixels; ``BuiltinTask.prepare``
        makes what the model takes of them.
    labels : Tensor
        (n,) class numbers, int64.
    columns : Mapping[str, NDArray], optional
        Further columns (n,) by name in kebab-case, such as the ``user`` who wrote each example.
    """

    inputs: Tensor
    labels: Tensor
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = {"labels": len(self.labels)}
        lengths |= {f"column {name!r}": len(column) for name, column in self.columns.items()}
        for name, length in lengths.items():
            if length != len(self.inputs):
                raise DataError(
                    f"{name} must have {len(self.inputs)} rows, as the inputs have, found {length}"
                )

    def __len__(self) -> int:
        return len(self.labels)

    def column(self, name: str) -> NDArray[Any]:
        """Return the column (n,) of a name; ``label`` is that of the labels.

        Raises
        ------
        ConfigError
            If there is no such column: which ones there are.
        """
        if name == LABEL:
            return np.asarray(self.labels)
        if name not in self.columns:
            known = ", ".join([LABEL, *self.columns])
            raise ConfigError(f"the task's data must have the column {name!r}, found {known}")
        return self.columns[name]
