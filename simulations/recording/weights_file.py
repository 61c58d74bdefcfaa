"""Files of weights in the safetensors format, which any of its readers opens.

Complex entries are stored as pairs of reals, with one more dimension of size 2, because readers
know no complex numbers of twice 64 bits, and older ones none at all. The metadata name them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from hqde_fl.errors import DataError

_KEY = "hqde-fl"
"""The one key of the metadata, with a JSON object."""
_COMPLEX = "complex"
"""The key in that object with the names of complex entries."""


def weights_to_bytes(
    state: Mapping[str, Tensor], facts: Mapping[str, str | int] | None = None
) -> bytes:
    """Return the content of a file with a state dict, the same bytes for the same values.

    Parameters
    ----------
    state : Mapping[str, Tensor]
        The entries by name, which share no memory.
    facts : Mapping[str, str or int], optional
        What the metadata say besides.
    """
    complex_names = sorted(name for name, tensor in state.items() if tensor.is_complex())
    about: dict[str, Any] = dict(facts or {})
    if complex_names:
        about[_COMPLEX] = complex_names
    stored = {
        name: (torch.view_as_real(t.resolve_conj()) if t.is_complex() else t).contiguous()
        for name, t in state.items()
    }
    return save(stored, metadata={_KEY: json.dumps(about)} if about else None)


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
            text = (file.metadata() or {}).get(_KEY, "{}")
    except Exception as error:  # a file may hold anything
        raise DataError(f"{path} cannot be loaded: {error}") from None
    try:
        about = json.loads(text)
        names = about.pop(_COMPLEX, [])
        if not isinstance(names, list):
            raise TypeError(f"{_COMPLEX} needs a list of names, found {names!r:.40}")
        for name in names:
            state[name] = torch.view_as_complex(state[name])
    except Exception as error:
        reason = f"{type(error).__name__}: {error!s:.80}"
        raise DataError(f"{path} cannot be loaded: malformed metadata ({reason})") from None
    return state, about
