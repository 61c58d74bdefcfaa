"""Read bytes of untrusted origin piece by piece, and never past their end."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hqde_fl.errors import CodecError
from hqde_fl.terminal_text import describe_error

Floats = NDArray[np.floating[Any]]

FIRST_OWN_CODE = 128
"""The first number on the wire that is left to codecs of users."""

MAX_DEPTH = 4
"""Codecs inside each other, at most."""


class FrameFormat(Protocol):
    """An object, such as a ``Codec`` class, that reads the frames of one format."""

    def read(self, reader: Reader, size: int) -> Floats:
        """Return the ``size`` values of a frame, of which the reader has read the code byte."""
        ...


class Reader:
    """A cursor over the bytes of a frame.

    Parameters
    ----------
    data : bytes or memoryview
        The bytes after the payload's header.
    formats : Mapping[int, FrameFormat]
        The formats that may be read, by the code that a frame begins with.
    """

    def __init__(self, data: bytes | memoryview, formats: Mapping[int, FrameFormat]) -> None:
        self._data, self._formats, self._at, self._depth = memoryview(data), formats, 0, 0

    def array(self, dtype: str, count: int) -> NDArray[Any]:
        """Return the next ``count`` little-endian numbers, not copied.

        Raises
        ------
        CodecError
            If fewer bytes are left.
        """
        width = np.dtype(dtype).itemsize
        if count * width > len(self._data) - self._at:
            raise CodecError(
                f"payload ends early: needs {count * width} more bytes, "
                f"found {len(self._data) - self._at}"
            )
        values = np.frombuffer(self._data, dtype, count, self._at)
        self._at += count * width
        return values

    def fields(self, layout: struct.Struct) -> tuple[Any, ...]:
        """Return the next fields, unpacked by ``layout``; ``CodecError`` if bytes are missing."""
        return layout.unpack(self.array("<u1", layout.size).tobytes())

    def frame(self, size: int) -> Floats:
        """Return the ``size`` values of the next frame, in the format that its first byte names.

        Raises
        ------
        CodecError
            If that format is not among ``formats``, the frame is not one of ``size`` values, or
            more than ``MAX_DEPTH`` frames lie inside each other.
        """
        (code,) = self.array("<u1", 1)
        if int(code) not in self._formats:
            raise CodecError(f"unknown codec {int(code)}, expected one of {sorted(self._formats)}")
        if self._depth == MAX_DEPTH:
            raise CodecError(f"more than {MAX_DEPTH} codecs inside each other")
        self._depth += 1
        values = self._read(int(code), size)
        self._depth -= 1
        return values

    def _read(self, code: int, size: int) -> Floats:
        """Return the values of a frame; whatever a user's own codec does wrong is a CodecError."""
        if code < FIRST_OWN_CODE:
            return self._formats[code].read(self, size)
        try:
            values = self._formats[code].read(self, size)
        except CodecError:
            raise
        except Exception as error:
            raise CodecError(f"codec {code} raised {describe_error(error)}") from error
        if not isinstance(values, np.ndarray) or values.dtype not in (np.float32, np.float64):
            raise CodecError(f"codec {code} must read an array of float32 or float64")
        if values.shape != (size,):
            raise CodecError(f"codec {code} must read ({size},) values, found {values.shape}")
        return values

    def end(self) -> None:
        """Raise ``CodecError`` if bytes are left."""
        if self._at != len(self._data):
            raise CodecError(f"{len(self._data) - self._at} bytes too many")
