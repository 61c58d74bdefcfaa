"""Convert state dicts to Flower records and back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from flwr.app import Array, ArrayRecord
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from hqde_fl.errors import ConfigError
from hqde_fl.protocol.npy import BFLOAT16, NUMPY, decode_array, native_dtype, npy_bytes
from hqde_fl.updates.layout import Layout
from hqde_fl.updates.roles import SUPPORTED_DTYPES, Roles


def to_array(tensor: Tensor, name: str | None = None) -> Array:
    """Return a Flower ``Array`` with the tensor's values, shape and dtype.

    Raises
    ------
    ConfigError
        If the dtype cannot be carried; the message has the entry's ``name``, if it is given.
    """
    if (dtype := str(tensor.dtype).removeprefix("torch.")) not in SUPPORTED_DTYPES:
        which = "a tensor" if name is None else f"entry {name!r}"
        raise ConfigError(f"{which} needs a dtype that can be carried, found {dtype}")
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    if tensor.dtype == torch.bfloat16:
        data = tensor.view(torch.int16).numpy().tobytes()
        return plain_array("bfloat16", tuple(tensor.shape), BFLOAT16, data)
    return plain_array(dtype, tuple(tensor.shape), NUMPY, npy_bytes(tensor.numpy()))


def plain_array(
    dtype: str, shape: tuple[int, ...], stype: str, data: bytes, kind: type[Array] = Array
) -> Array:
    """Return an ``Array`` of fields of the right types, which Flower's constructor would check."""
    array = kind.__new__(kind)
    array.__dict__.update(dtype=dtype, shape=shape, stype=stype, data=data)
    return array


def to_record(state: Mapping[str, Tensor]) -> ArrayRecord:
    """Return a state dict as an ``ArrayRecord``, in the same order.

    Raises
    ------
    ConfigError
        If the dtype of an entry cannot be carried; the message has its name.
    """
    record = ArrayRecord()  # its constructor would make every array once more
    for name, tensor in state.items():
        record[name] = to_array(tensor, name)
    return record


def model_record(state: Mapping[str, Tensor], layout: Layout) -> ArrayRecord:
    """Return a model's state dict as a read-only ``ArrayRecord``, in the layout's order.

    Frozen entries have the same arrays as long as their tensors live, so that a large frozen part
    of a model is neither converted nor hashed in every round.
    """
    record = ArrayRecord()
    for entry in layout.entries:
        tensor = state[entry.name]
        record[entry.name] = _lasting_array(tensor) if entry.role == "frozen" else to_array(tensor)
    return record


def _lasting_array(tensor: Tensor) -> Array:
    """Return the same array for a tensor, which must not be changed, as long as it lives."""
    known: Array | None = _LASTING.get(tensor)
    if known is None:
        known = _LASTING[tensor] = to_array(tensor)
    return known


_LASTING: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""Frozen tensor -> its array."""


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
    return [(name, tuple(a.shape), native_dtype(a.dtype)) for name, a in record.items()]


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
