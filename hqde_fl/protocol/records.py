"""Convert state dicts to Flower records and back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from flwr.app import Array, ArrayRecord
from torch import Tensor

from hqde_fl.protocol.npy import BFLOAT16, decode_array
from hqde_fl.updates.layout import Layout
from hqde_fl.updates.roles import Roles


def to_array(tensor: Tensor) -> Array:
    """Return a Flower ``Array`` with the tensor's values, shape and dtype."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        data = tensor.view(torch.int16).numpy().tobytes()
        return Array("bfloat16", tuple(tensor.shape), BFLOAT16, data)
    return Array(tensor.numpy())


def to_record(state: Mapping[str, Tensor]) -> ArrayRecord:
    """Return a state dict as an ``ArrayRecord``, in the same order."""
    return ArrayRecord({name: to_array(tensor) for name, tensor in state.items()})


def from_record(record: Mapping[str, Array]) -> dict[str, Tensor]:
    """Return the state dict in a trusted ``ArrayRecord``; the tensors own their memory.

    Raises
    ------
    ValueError
        If an array is malformed.
    """
    return {name: decode_array(array) for name, array in record.items()}


def triples(record: Mapping[str, Array]) -> list[tuple[str, tuple[int, ...], str]]:
    """Return (name, shape, dtype) of the arrays of a trusted record, as layouts are made of."""
    return [(name, tuple(array.shape), array.dtype) for name, array in record.items()]


def layout_of(record: Mapping[str, Array], roles: Roles | None = None) -> Layout:
    """Return the layout of the model that a trusted record holds.

    Parameters
    ----------
    record : Mapping[str, Array]
        The model.
    roles : Roles, optional
        The roles of its entries; inferred from names and dtypes if not given.
    """
    return Layout.of(triples(record), roles)
