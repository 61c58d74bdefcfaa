"""The payload of a codec: a header and one frame, readable without trust.

::

    magic "HQ" | version | 0 | CRC-32 of what follows | number of values | frame
    frame = code of the codec | the codec's own fields and bytes | the frame of its inner codec

A receiver needs no configuration, only the formats that it is willing to read and the number of
values that it expects. The checksum catches accidents; an attacker computes it as well, so reading
is safe without it: every length is compared with the bytes that are there and with the number of
values expected before anything is allocated, and no loop depends on the bytes received.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hqde_fl.codec.reader import Floats, FrameFormat, Reader
from hqde_fl.errors import CodecError

Part = bytes | NDArray[Any]
"""A piece of a frame, contiguous; only its bytes matter."""

VERSION = 1
MAX_MAGNITUDE = 2.0**120
"""The largest number that is coded: sums and differences of blocks of them stay finite in float32.
"""

_HEADER = struct.Struct("<2sBxIQ")
_MAGIC = b"HQ"


def flat(delta: Tensor) -> Floats:
    """Return a vector's numbers, float64 if it is float64, else float32; not copied if possible.

    Raises
    ------
    ValueError
        If it is no vector of finite floats up to ``MAX_MAGNITUDE``.
    """
    if delta.ndim != 1 or not delta.is_floating_point():
        raise ValueError(
            f"delta must be a vector of floats, found {tuple(delta.shape)} {delta.dtype}"
        )
    wide = delta.dtype == torch.float64
    delta = delta.detach().cpu().to(torch.float64 if wide else torch.float32).contiguous()
    if len(delta):
        low, high = (float(end) for end in delta.aminmax())
        if not max(-low, high) <= MAX_MAGNITUDE:  # NaN compares false, so it ends here too
            raise ValueError(f"delta must be finite and within +-2^120, found {low} to {high}")
    values: Floats = delta.numpy()
    return values


def join(parts: Sequence[Part]) -> bytes:
    """Return the bytes of a frame's parts, one after the other."""
    return b"".join(part if isinstance(part, bytes) else part.data for part in parts)


def seal(frame: bytes, size: int) -> bytes:
    """Return the payload of a frame that holds ``size`` values."""
    return _HEADER.pack(_MAGIC, VERSION, _checksum(frame, size), size) + frame


def decode(payload: bytes | memoryview, size: int, formats: Mapping[int, FrameFormat]) -> Tensor:
    """Return the (size,) finite numbers in a payload.

    Parameters
    ----------
    payload : bytes or memoryview
        The bytes received; not trusted.
    size : int
        The number of values expected.
    formats : Mapping[int, FrameFormat]
        The formats that it may be made of, by their code.

    Raises
    ------
    CodecError
        If it is not a sound payload of ``size`` values in these formats.
    """
    payload = memoryview(payload)
    if len(payload) < _HEADER.size:
        raise CodecError(f"{len(payload)} bytes are too few for a payload")
    magic, version, checksum, stated_size = _HEADER.unpack_from(payload)
    if magic != _MAGIC or version != VERSION:
        raise CodecError(f"expected a payload of version {VERSION}, found {bytes(payload[:3])!r}")
    if stated_size != size:
        raise CodecError(f"payload of {stated_size} values, expected {size}")
    frame = payload[_HEADER.size :]
    if _checksum(frame, size) != checksum:
        raise CodecError("the checksum does not match")
    reader = Reader(frame, formats)
    with np.errstate(all="ignore"):
        values = torch.from_numpy(reader.frame(size))
    reader.end()
    if size and not bool(torch.isfinite(torch.stack(values.aminmax())).all()):  # NaN survives it
        raise CodecError("the payload holds a number that is not finite")
    return values


def _checksum(frame: bytes | memoryview, size: int) -> int:
    return zlib.crc32(frame, zlib.crc32(size.to_bytes(8, "little")))
