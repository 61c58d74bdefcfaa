"""Collate functions: torch's default with errors that name the cause, and the user's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import default_collate

from hqde_fl.clients.batch_reader import BatchReader
from hqde_fl.clients.batches import Collate
from hqde_fl.clients.user_code import defined_at, user_code
from hqde_fl.errors import TaskError

OWN_COLLATE = "a collate function (Task.collate, or the loader's collate_fn)"


@dataclass(frozen=True)
class UserCollate:
    """The user's collate function, whose exceptions become ``TaskError``.

    Parameters
    ----------
    collate : Callable
        Examples -> batch.
    """

    collate: Collate

    def __call__(self, examples: list[Any]) -> Any:
        """Return a batch of examples."""
        with user_code("the collate function", self.collate):
            batch = self.collate(examples)
        if batch is None:
            place = defined_at(self.collate)
            raise TaskError(f"the collate function returned None: does it return a batch?{place}")
        return batch


@dataclass(frozen=True)
class StackExamples:
    """torch's default collate function, without the entries that the model does not take.

    Parameters
    ----------
    reader : BatchReader
        Tells which entries of an example the model takes.
    """

    reader: BatchReader

    def __call__(self, examples: list[Any]) -> Any:
        """Return a batch of examples.

        Raises
        ------
        TaskError
            If they have different shapes, or are of a type that torch makes no batch of.
        """
        examples = [self.reader.used_entries(example) for example in examples]
        try:
            return default_collate(examples)
        except Exception as error:
            problem = _problem(examples, "an example")
            if problem is None:
                with user_code("making a batch of examples"):
                    raise
            raise TaskError(problem) from error


def _problem(values: Sequence[Any], place: str) -> str | None:
    """Return why torch cannot stack some values, with their place in an example; None if it can."""
    first = values[0]
    if isinstance(first, str | bytes | int | float):
        return None
    kinds = list(dict.fromkeys(type(value).__name__ for value in values))
    if len(kinds) > 1:
        return f"a batch needs examples of one type, found {place} of {' and '.join(kinds[:3])}"
    if isinstance(first, Tensor | np.ndarray):
        return _different([tuple(value.shape) for value in values], place, "shape")
    if isinstance(first, Mapping):
        for name in first:
            if not all(name in value for value in values):
                return f"a batch needs examples with the same entries, found some without {name!r}"
            if problem := _problem([value[name] for value in values], f"entry {name!r}"):
                return problem
        return None
    if isinstance(first, Sequence):
        if problem := _different([len(value) for value in values], place, "length"):
            return problem
        columns = zip(*values, strict=True)
        problems = (_problem(column, f"entry {number}") for number, column in enumerate(columns))
        return next((problem for problem in problems if problem), None)
    return (
        f"torch makes no batch of type {type(first).__name__}, found as {place}: convert it in the "
        f"data set or in {OWN_COLLATE}"
    )


def _different(sizes: Sequence[Any], place: str, what: str) -> str | None:
    kinds = sorted(set(sizes))
    if len(kinds) < 2:
        return None
    found = ", ".join(map(str, kinds[:3])) + (", ..." if len(kinds) > 3 else "")
    return (
        f"a batch needs examples of one {what}, found {place} with {found}: pad it in {OWN_COLLATE}"
    )
