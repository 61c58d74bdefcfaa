"""Data sets of the Hugging Face Hub as columns of arrays, fetched by flwr-datasets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hqde_fl.errors import DataError


def load_columns(dataset: str, split: str, columns: Mapping[str, str]) -> dict[str, Any]:
    """Return columns of a split of a data set, in the order of the data set.

    Parameters
    ----------
    dataset : str
        Name of the data set on the Hub.
    split : str
        Name of the split.
    columns : Mapping[str, str]
        Name in the result -> name of the column in the data set.

    Returns
    -------
    dict[str, Any]
        Name -> list or array of n values; images are arrays of bytes.

    Raises
    ------
    DataError
        If the data set cannot be fetched, or has no such split or column.
    """
    from flwr_datasets import FederatedDataset  # slow, and no other data need it

    try:
        rows = FederatedDataset(dataset=dataset, partitioners={}, shuffle=False).load_split(split)
    except Exception as error:  # of datasets, huggingface_hub, httpx: they share no base class
        text = " ".join(str(error).split())
        raise DataError(f"cannot fetch the data set {dataset!r} ({split}): {text}") from error
    if absent := [name for name in columns.values() if name not in rows.column_names]:
        raise DataError(
            f"the data set {dataset!r} must have the column {absent[0]!r}, "
            f"found {', '.join(rows.column_names)}"
        )
    return {name: _values(rows, column) for name, column in columns.items()}


def _values(rows: Any, column: str) -> Any:
    """Return a column's values; each image is decoded on its own, so that none is kept twice."""
    if type(rows.features[column]).__name__ == "Image":
        plain = rows.with_format(None).select_columns([column])
        return np.stack([np.asarray(row[column], np.uint8) for row in plain])
    return rows.with_format("numpy")[column][:]


def image_tensor(
    images: NDArray[np.uint8], shape: tuple[int, int, int], dataset: str
) -> torch.Tensor:
    """Return images (n, height, width) or (n, height, width, channels) as bytes (n, *shape).

    Raises
    ------
    DataError
        If they have another shape than (channels, height, width).
    """
    grey = images[:, None] if images.ndim == 3 else np.moveaxis(images, -1, 1)
    if grey.shape[1:] != shape:
        raise DataError(
            f"images of {dataset!r} must have the shape {shape}, found {grey.shape[1:]}"
        )
    return torch.from_numpy(np.ascontiguousarray(grey))
