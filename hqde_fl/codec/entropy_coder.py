"""Entropy-code integers that share one histogram.

Asymmetric numeral systems (Duda 2013) by ``constriction`` reach the entropy of the histogram. The
histogram travels in one byte for each symbol. An index with many values is split: its high bits are
the symbol, the low ones, nearly uniform within a symbol, follow as they are. Values out of reach of
255 symbols escape and travel exactly, so that one outlier costs four bytes and nothing else.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from constriction import stream
from numpy.typing import NDArray

from hqde_fl.codec.bitpack import MAX_BITS, pack, packed_bytes, unpack
from hqde_fl.codec.payload import Part
from hqde_fl.codec.reader import Reader
from hqde_fl.codec.symbol_split import MAX_INDEX, MAX_SYMBOLS, Indices, Plan, symbols_of
from hqde_fl.errors import CodecError

_FIELDS = struct.Struct("<BHiII")
_CENTRED = 8  # indices up to here are decoded to the mean of their cell
_CENTRE_UNIT = np.float32(1 / 128)
_ABSENT = 255
_PER_OCTAVE = 10  # resolution of the histogram; a tenth of an octave costs 0.0004 bits
_CHANCES = np.append(2.0 ** -(np.arange(_ABSENT) / _PER_OCTAVE), 0.0).astype(np.float32)


def write(values: NDArray[np.float32], indices: Indices, step: np.float32) -> list[Part]:
    """Return the bytes from which ``read`` returns values close to ``index * step``.

    Parameters
    ----------
    values : ndarray
        (n,) the numbers before quantisation.
    indices : ndarray
        (n,) the numbers quantised, at most ``MAX_INDEX`` in magnitude.
    step : float32
        The distance of neighbouring indices.
    """
    plan = Plan.of(indices, indices.size)
    symbols = symbols_of(indices, plan.shift, plan.first, plan.symbols)
    counts = np.bincount(symbols, minlength=plan.symbols + 1)
    escapes = int(counts[plan.symbols])
    if not escapes:
        counts = counts[: plan.symbols]
    histogram = _histogram(counts)
    words = np.empty(0, np.uint32)
    if counts.size > 1:
        coder = stream.stack.AnsCoder()
        coder.encode_reverse(symbols, stream.model.Categorical(_CHANCES[histogram], perfect=False))
        words = coder.get_compressed()
    fields = _FIELDS.pack(plan.shift, plan.symbols, plan.first, escapes, len(words))
    parts: list[Part] = [fields, histogram, words.astype("<u4")]
    if plan.shift:
        low = (indices & ((1 << plan.shift) - 1)).astype(np.uint16)
        parts.append(pack(low, plan.shift))
    else:
        parts.append(_centres(values, indices, step))
    if escapes:
        parts.append(values[symbols == plan.symbols].astype("<f4"))
    return parts


def read(reader: Reader, count: int, step: np.float32) -> NDArray[np.float32]:
    """Return the ``count`` values that ``write`` coded with this step.

    Raises
    ------
    CodecError
        If the bytes are not those of as many values.
    """
    shift, width, first, escapes, length = reader.fields(_FIELDS)
    if shift > MAX_BITS or not 0 < width <= MAX_SYMBOLS or escapes > count:
        raise CodecError(f"no source has {width} symbols, {shift} low bits and {escapes} escapes")
    if abs(first) > 4 * MAX_INDEX:
        raise CodecError(f"index {first} is out of range")
    histogram = reader.array("<u1", width + (escapes > 0))
    symbols = _decode(reader.array("<u4", length), histogram, count)
    if shift:
        low = unpack(reader.array("<u1", packed_bytes(count, shift)), shift, count)
        indices = (symbols + np.int32(first)).astype(np.int64)
        indices <<= shift
        indices |= low
        values = indices.astype(np.float32)
        values *= step
    else:
        levels = np.arange(first, first + width + 1, dtype=np.float32)
        near = np.arange(-_CENTRED, _CENTRED + 1)
        known = (near >= first) & (near < first + width)
        levels[near[known] - first] += reader.array("i1", near.size)[known] * _CENTRE_UNIT
        values = (levels * step).take(symbols)
    escaped = reader.array("<f4", escapes)
    if escapes:
        where = np.flatnonzero(symbols == width)
        if where.size != escapes:
            raise CodecError(f"{where.size} values escape, expected {escapes}")
        values[where] = escaped
    return values


def _histogram(counts: NDArray[Any]) -> NDArray[np.uint8]:
    """Return by how many tenths of an octave each count is below the largest; 255 for a zero."""
    depth = np.full(counts.size, float(_ABSENT))
    seen = counts > 0
    depth[seen] = np.rint(np.log2(counts.max() / counts[seen]) * _PER_OCTAVE)
    codes: NDArray[np.uint8] = np.minimum(depth, _ABSENT).astype(np.uint8)
    return codes


def _decode(words: NDArray[Any], histogram: NDArray[np.uint8], count: int) -> Indices:
    """Return the ``count`` symbols in an entropy stream.

    Raises
    ------
    CodecError
        If the words are not those of exactly so many symbols.
    """
    chances = _CHANCES[histogram]
    if not chances.any():
        raise CodecError("a histogram of nothing")
    if chances.size == 1 or not count:
        if len(words):
            raise CodecError("an entropy stream that says nothing")
        return np.zeros(count, np.int32)
    try:
        coder = stream.stack.AnsCoder(words.astype(np.uint32))
    except ValueError as error:
        raise CodecError(str(error)) from None
    symbols: Indices = coder.decode(stream.model.Categorical(chances, perfect=False), count)
    if not coder.is_empty():
        raise CodecError("the entropy stream goes on after the last value")
    return symbols


def _centres(values: NDArray[np.float32], indices: Indices, step: np.float32) -> NDArray[np.int8]:
    """Return (17,) means of the values with index -8 to 8 minus index * step, in 1/128 steps.

    Zero for an index without values.
    """
    stride = max(1, values.size >> 15)  # a sample is enough to estimate the means
    near = indices[::stride] + _CENTRED
    inside = near.view(np.uint32) <= 2 * _CENTRED
    near = near[inside]
    size = 2 * _CENTRED + 1
    sums = np.bincount(near, values[::stride][inside], minlength=size)
    counts = np.bincount(near, minlength=size)
    means = sums / np.maximum(counts, 1) / float(step)
    offsets = np.where(counts > 0, means - np.arange(-_CENTRED, _CENTRED + 1), 0.0)
    centres: NDArray[np.int8] = np.clip(np.rint(offsets * 128), -127, 127).astype(np.int8)
    return centres
