"""Write the bytes of Flower's arrays, and read them without ``numpy.load``, which would trust them.

Every length is checked before anything is allocated.
"""

from __future__ import annotations

import ast
import io
import math
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from flwr.app import Array
from torch import Tensor

BFLOAT16 = "hqde.bfloat16"
"""Serialisation type of bfloat16 arrays, which NumPy does not have: raw little-endian bytes."""
NUMPY = "numpy.ndarray"
"""Flower's own serialisation type: the bytes of an .npy file."""

MAX_HEADER_BYTES = 4096
"""Length of an .npy header, at most."""
_MAX_CACHED_HEADER_BYTES = 256
"""Longer headers are not cached, so that clients cannot fill the memory with them."""
_MAX_DTYPE_NAME = 16
"""Characters in the name of a dtype that is parsed, at most."""
_NUMBERS = "biufc"
"""Kinds of NumPy dtypes that hold numbers: boolean, integer, floating-point and complex ones."""
MAX_SHOWN_DIMENSIONS = 64
"""Dimensions of a shape in an error message, at most."""


class MalformedError(ValueError):
    """Bytes or fields from a client are malformed. The message is the reason of its rejection."""


class ViewArray(Array):
    """An ``Array`` of numbers that are in memory; the bytes of its .npy file are made when used.

    It is made by ``plain_array``, and its ``values`` are added to its fields.
    """

    @property
    def viewed(self) -> npt.NDArray[Any] | None:
        """The numbers; None once the bytes were set to others."""
        return self.__dict__.get("values")

    @property
    def data(self) -> bytes:
        """The bytes of the .npy file."""
        fields = self.__dict__
        if not fields["data"] and (values := self.viewed) is not None:
            fields["data"] = npy_bytes(values)
        return fields["data"]  # type: ignore[no-any-return]

    @data.setter
    def data(self, value: bytes) -> None:
        self.__dict__.pop("values", None)
        self.__dict__["data"] = value

    def numpy(self) -> npt.NDArray[Any]:
        """Return a copy of the array as a NumPy array."""
        return super().numpy() if (values := self.viewed) is None else values.copy()


def native_dtype(name: str) -> str:
    """Return the plain name of a dtype of numbers, whatever its byte order: 'float32' for '>f4'.

    Anything else, such as a name that cannot be parsed, is returned as it is.
    """
    return _native_dtype(name) if len(name) <= _MAX_DTYPE_NAME else name


@lru_cache(maxsize=256)
def _native_dtype(name: str) -> str:
    try:
        dtype = np.dtype(name)
    except Exception:  # NumPy raises several kinds
        return name
    return dtype.name if dtype.kind in _NUMBERS else name


def npy_bytes(values: npt.NDArray[Any]) -> bytes:
    """Return the bytes of the .npy file of an array of numbers in C order, as ``numpy.save`` does.

    They are copied once, ``numpy.save`` and Flower copy them three times.
    """
    header = _npy_header(values.dtype.str, values.shape)
    return b"".join((header, values.reshape(-1).view(np.uint8).data))


@lru_cache(maxsize=1024)
def _npy_header(descr: str, shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    fields = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, fields)
    return buffer.getvalue()


def decode_array(array: Array) -> Tensor:
    """Return the values of an array, in memory of their own and in this machine's byte order.

    Raises
    ------
    MalformedError
        If its bytes do not fit its shape and dtype. A dtype or header that cannot be parsed raises
        another exception.
    """
    size = math.prod(array.shape)
    if array.stype == BFLOAT16 and array.dtype == "bfloat16":
        if len(array.data) != 2 * size:
            raise MalformedError(f"{len(array.data)} bytes for {size} bfloat16 numbers")
        raw = _copied(np.frombuffer(array.data, dtype="<i2"))
        return raw.view(torch.bfloat16).reshape(tuple(array.shape))
    values = view_array(array)
    return _copied(values)


def _copied(values: npt.NDArray[Any]) -> Tensor:
    tensor = torch.from_numpy(np.array(values, dtype=values.dtype.newbyteorder("="), order="C"))
    # with NumPy's strides of an empty array, torch could not view it as bytes
    return tensor if values.size else torch.empty(tensor.shape, dtype=tensor.dtype)


def view_array(array: Array) -> npt.NDArray[Any]:
    """Return a read-only view of an array's bytes as numbers, in the byte order of the .npy header.

    Raises
    ------
    MalformedError
        If they are not an .npy file that fits the array's shape and dtype. A dtype or header that
        cannot be parsed raises another exception.
    """
    viewed = array.viewed if type(array) is ViewArray else None
    if viewed is not None and (viewed.shape, viewed.dtype.name) == (array.shape, array.dtype):
        return viewed
    size = math.prod(array.shape)
    if array.stype != NUMPY:
        raise MalformedError(f"unknown serialisation type {array.stype[:40]!r}")
    dtype = np.dtype(array.dtype)
    if dtype.kind not in _NUMBERS:
        raise MalformedError(f"dtype {array.dtype[:40]!r} holds no numbers")
    start, dtype, fortran = _check_header(array, dtype)
    if len(array.data) - start != size * dtype.itemsize:
        raise MalformedError(f"{len(array.data) - start} bytes for {size} numbers of {dtype}")
    values = np.frombuffer(array.data, dtype=dtype, offset=start)
    return values.reshape(array.shape, order="F" if fortran else "C")


def header_span(data: bytes) -> tuple[int, int]:
    """Return the positions at which the header text and the numbers of an .npy file begin.

    Raises
    ------
    MalformedError
        If the bytes do not begin as an .npy file does.
    """
    if data[:6] != b"\x93NUMPY" or data[6:8] not in (b"\x01\x00", b"\x02\x00", b"\x03\x00"):
        raise MalformedError("not the bytes of an .npy array")
    text = 8 + (2 if data[6] == 1 else 4)
    return text, text + int.from_bytes(data[8:text], "little")


def _check_header(array: Array, dtype: np.dtype[Any]) -> tuple[int, np.dtype[Any], bool]:
    """Return where the numbers in an .npy file begin, their dtype, and if in Fortran order.

    Raises ``MalformedError`` if the header is too long, or differs from the array's shape or dtype
    in more than the byte order.
    """
    data = array.data
    text, start = header_span(data)
    if start > min(len(data), MAX_HEADER_BYTES):
        raise MalformedError("the .npy header is longer than the array's bytes")
    header = bytes(data[text:start])
    parse = _parse_header if len(header) <= _MAX_CACHED_HEADER_BYTES else _parse_header.__wrapped__
    shape, descr, fortran = parse(header)
    if shape != tuple(array.shape) or descr.newbyteorder("=") != dtype.newbyteorder("="):
        raise MalformedError(
            f"the .npy header says {descr!s:.60} {shape[:MAX_SHOWN_DIMENSIONS]!s:.60}, "
            f"the message {array.shape}"
        )
    return start, descr, fortran


@lru_cache(maxsize=1024)
def _parse_header(header: bytes) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    fields = ast.literal_eval(header.decode("latin1").strip())
    return tuple(fields["shape"]), np.dtype(fields["descr"]), bool(fields["fortran_order"])
