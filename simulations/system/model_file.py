"""Files with the weights of an ``HQDESystem``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from flwr.app import ArrayRecord
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from hqde_fl.errors import DataError
from hqde_fl.protocol.records import from_record, to_record


def save_weights(path: str | Path, arrays: ArrayRecord, epochs: int, members: int) -> None:
    """Save the members' weights, with the numbers of epochs and members, as a safetensors file.

    Raises
    ------
    DataError
        If the file cannot be written.
    """
    about = {"epochs": str(epochs), "members": str(members)}
    state = {name: tensor.contiguous() for name, tensor in from_record(arrays).items()}
    try:
        save_file(state, path, metadata={"hqde-fl": json.dumps(about)})
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be written: {error}") from None


def load_weights(path: str | Path, current: ArrayRecord) -> tuple[ArrayRecord, int]:
    """Return the weights and the number of epochs in a file of ``save_weights``.

    The number is 0 if the file does not state it.

    Parameters
    ----------
    path : str or Path
        The file.
    current : ArrayRecord
        The system's weights, whose names, shapes and dtypes the file must have.

    Raises
    ------
    DataError
        If the file cannot be read, or holds the weights of other models.
    """
    try:
        state = load_file(path)
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get("hqde-fl", "{}"))
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be loaded: {error}") from None
    expected = from_record(current)
    _check_same_models(path, expected, state)
    arrays = to_record({name: state[name] for name in expected})
    return arrays, int(about.get("epochs", 0))


def _check_same_models(
    path: str | Path, expected: Mapping[str, Tensor], loaded: Mapping[str, Tensor]
) -> None:
    """Raise ``DataError`` unless a file has the expected names, shapes and dtypes."""
    for name in sorted(expected.keys() | loaded.keys()):
        own, other = _shape_and_dtype(expected.get(name)), _shape_and_dtype(loaded.get(name))
        if own != other:
            raise DataError(f"{path} holds other models: {name!r} is {other}, expected {own}")


def _shape_and_dtype(tensor: Tensor | None) -> str:
    return "missing" if tensor is None else f"{tuple(tensor.shape)} {tensor.dtype}"
