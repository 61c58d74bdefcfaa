"""The IDX file format of the MNIST family: unsigned bytes in one to four dimensions."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hqde_fl.errors import DataError

UNSIGNED_BYTE = 0x08


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, gzipped if its name ends in ``.gz``.

    Raises
    ------
    DataError
        If the file is missing, damaged, or not an IDX file of unsigned bytes.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != UNSIGNED_BYTE:
        raise DataError(
            f"{path} is not an IDX file of unsigned bytes: it must begin with 000008, "
            f"found {content[:3].hex() or 'nothing'}"
        )
    dimensions = content[3]
    start = 4 + 4 * dimensions
    if not 1 <= dimensions <= 4 or len(content) < start:
        raise DataError(
            f"{path} must have 1 to 4 dimensions and their sizes, found {dimensions} "
            f"in {len(content)} bytes"
        )
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise DataError(
            f"{path} must hold {math.prod(shape)} bytes for its shape {shape}, "
            f"found {len(content) - start}"
        )
    # copied, because bytes are read-only and torch needs writable memory
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()
