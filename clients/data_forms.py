"""Forms of data sets: what counts as one, and those that are read as torch tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset

from hqde_fl.clients.user_code import user_code
from hqde_fl.errors import DataError


def example_total(data: Any) -> int:
    """Return the number of examples of a data set.

    Raises
    ------
    DataError
        If it is no map-style data set.
    """
    check_map_style(data)
    with user_code("the data set"):
        return len(data)


def check_map_style(data: Any) -> None:
    """Raise ``DataError`` unless an object is a data set with a length, indexed by integers."""
    kind = type(data).__name__
    if isinstance(data, Mapping) and 0 not in data:
        names = ", ".join(map(repr, data))
        raise DataError(f"a data set is needed, found a {kind} of {names or 'nothing'}: choose one")
    if hasattr(data, "iloc"):  # of pandas
        raise DataError(
            f"a data set is needed, found a {kind}: datasets.Dataset.from_pandas makes one of it"
        )
    if isinstance(data, DataLoader):
        raise DataError(f"a data set is needed, found a {kind}: give its data set")
    if not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        raise DataError(
            f"a map-style data set is needed, with __getitem__ and __len__, found {kind}"
        )


def check_loader(loader: Any) -> None:
    """Raise ``DataError`` if what should yield batches does not, or is a data set of examples."""
    if not (hasattr(loader, "__iter__") or hasattr(loader, "__getitem__")):
        raise DataError(f"a loader of batches is needed, found a {type(loader).__name__}")
    data_set = isinstance(loader, Dataset) and not isinstance(loader, IterableDataset)
    if data_set or callable(getattr(loader, "with_format", None)):
        raise DataError(
            f"a loader of batches is needed, found a {type(loader).__name__}: "
            "torch.utils.data.DataLoader(data, batch_size=...) makes one of a data set"
        )


def in_torch_format(data: Any) -> Any:
    """Return a data set that gives torch tensors where it is a ``datasets.Dataset``.

    A format that the user has set stays. The parts of ``Subset`` and ``ConcatDataset`` count;
    any other data set is returned as it is.
    """
    if type(data) is Subset:
        whole = in_torch_format(data.dataset)
        return data if whole is data.dataset else Subset(whole, data.indices)
    if type(data) is ConcatDataset:
        parts = [in_torch_format(part) for part in data.datasets]
        same = all(part is before for part, before in zip(parts, data.datasets, strict=True))
        return data if same else ConcatDataset(parts)
    if not callable(getattr(data, "with_format", None)):
        return data
    if hasattr(data, "_formatting"):  # datasets.IterableDataset
        return data.with_format("torch") if data._formatting is None else data
    form = getattr(data, "format", {})
    if not isinstance(form, Mapping) or form.get("type", "") is not None:
        return data
    every = form["output_all_columns"]
    return data.with_format("torch", columns=form["columns"], output_all_columns=every)


def loader_with(
    loader: DataLoader[Any], data: Any, collate: Callable[[list[Any]], Any]
) -> DataLoader[Any]:
    """Return a loader with the order and sizes of another, but other data and collate function."""
    changed = copy.copy(loader)
    changed.__dict__ |= {"dataset": data, "collate_fn": collate, "_iterator": None}
    return changed
