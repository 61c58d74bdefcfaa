"""Weights as bytes in the safetensors format, which any of its readers opens.

Complex entries are stored as pairs of reals, with one more dimension of size 2, because readers
know no complex numbers of twice 64 bits, and older ones none at all. The metadata name them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

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
        The entries by name; those that share memory, as tied weights do, are stored apart.
    facts : Mapping[str, str or int], optional
        What the metadata say besides.
    """
    complex_names = sorted(name for name, tensor in state.items() if tensor.is_complex())
    about: dict[str, Any] = dict(facts or {})
    if complex_names:
        about[_COMPLEX] = complex_names
    stored: dict[str, Tensor] = {}
    memories: set[int] = set()
    for name, t in state.items():
        real = (torch.view_as_real(t.resolve_conj()) if t.is_complex() else t).contiguous()
        memory = real.untyped_storage().data_ptr()
        stored[name] = real.clone() if memory in memories else real
        memories.add(memory)
    return save(stored, metadata={_KEY: json.dumps(about)} if about else None)


def weights_from_bytes(content: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the state dict and the facts in what ``weights_to_bytes`` made.

    Raises
    ------
    ValueError
        If the bytes are nothing of the kind.
    """
    try:
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        return with_complex(load(content), header.get("__metadata__"))
    except (SafetensorError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise ValueError(f"malformed weights ({type(error).__name__}: {error!s:.80})") from None


def with_complex(
    state: dict[str, Tensor], metadata: Mapping[str, str] | None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a state dict with its complex entries, and the facts in the metadata of its file."""
    about = json.loads((metadata or {}).get(_KEY, "{}"))
    names = about.pop(_COMPLEX, [])
    if not isinstance(names, list):
        raise TypeError(f"{_COMPLEX} needs a list of names, found {names!r:.40}")
    for name in names:
        state[name] = torch.view_as_complex(state[name])
    return state, about
