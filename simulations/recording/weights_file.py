"""Read files of weights in the safetensors format, whose content ``weights_to_bytes`` makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from hqde_fl.errors import DataError
from hqde_fl.updates.weights_bytes import weights_to_bytes, with_complex

__all__ = ["read_weights", "weights_to_bytes"]


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the state dict and the facts in a file whose content ``weights_to_bytes`` made.

    A file of another origin has no facts.

    Raises
    ------
    DataError
        If the file cannot be read, or its metadata do not fit.
    """
    try:
        with safe_open(path, "pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata()
    except Exception as error:  # a file may hold anything
        raise DataError(f"{path} cannot be loaded: {error}") from None
    try:
        return with_complex(state, metadata)
    except Exception as error:
        reason = f"{type(error).__name__}: {error!s:.80}"
        raise DataError(f"{path} cannot be loaded: malformed metadata ({reason})") from None
