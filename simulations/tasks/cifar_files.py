"""The files of CIFAR: binary records, or Python's pickles, of which nothing is run."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from hqde_fl.errors import DataError

PIXELS = 3 * 32 * 32
ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}
"""What a batch may name: arrays of NumPy, and nothing that acts."""

Batch = tuple[NDArray[np.uint8], NDArray[np.int64]]


def read_binary(path: Path, label_bytes: int) -> Batch:
    """Return the images (n, 3, 32, 32) and the last label of each record of a binary file.

    Parameters
    ----------
    path : Path
        A file of records: the labels, then 3,072 bytes of pixels.
    label_bytes : int
        Number of labels in a record: one in CIFAR-10, two in CIFAR-100, coarse and fine.

    Raises
    ------
    DataError
        If the file is missing or does not hold whole records.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}") from error
    size = label_bytes + PIXELS
    if not content or len(content) % size:
        raise DataError(f"{path} must hold records of {size} bytes, found {len(content)} bytes")
    records = np.frombuffer(content, np.uint8).reshape(-1, size)
    images = records[:, label_bytes:].reshape(-1, 3, 32, 32).copy()
    return images, records[:, label_bytes - 1].astype(np.int64)


def read_python(path: Path, key: str) -> Batch:
    """Return the images (n, 3, 32, 32) and labels of a batch that Python has pickled.

    The file is unpickled with nothing but arrays allowed, so that it runs no code.

    Parameters
    ----------
    path : Path
        The file.
    key : str
        The entry of the labels: ``labels`` or ``fine_labels``.

    Raises
    ------
    DataError
        If the file is missing, is no such batch, or names something else than arrays.
    """
    try:
        with path.open("rb") as file:
            batch = _ArraysOnly(file, encoding="bytes").load()
        images = np.asarray(batch[b"data"])
        labels = np.asarray(batch[key.encode()], np.int64)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}") from error
    except Exception as error:  # a damaged pickle raises nearly anything
        raise DataError(f"{path} is no batch of CIFAR with {key!r}: {error!r}") from error
    if images.dtype != np.uint8 or images.ndim != 2 or images.shape[1] != PIXELS:
        raise DataError(
            f"{path} must hold bytes of the shape (n, {PIXELS}), "
            f"found {images.dtype} of {images.shape}"
        )
    if labels.shape != images.shape[:1]:
        raise DataError(
            f"{path} must hold a label for each of {len(images)} images, found {labels.shape}"
        )
    return images.reshape(-1, 3, 32, 32), labels


@final
class _ArraysOnly(pickle.Unpickler):
    """An unpickler that builds NumPy's arrays and refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        """Return an allowed object; ``UnpicklingError`` for any other."""
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a batch")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)
