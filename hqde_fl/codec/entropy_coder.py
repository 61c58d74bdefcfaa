"""Entropy-code integers that share one histogram.

Asymmetric numeral systems (Duda 2013) by ``constriction`` reach the entropy of the histogram. The
histogram travels in one byte for each symbol. An index with many values is split: its high bits are
the symbol, the low ones, nearly uniform within a symbol, follow as they are. Values out of reach of
255 symbols escape and travel exactly, so that one outlier costs four bytes and nothing else.

A stream can only be read from one end to the other. More than ``PART`` numbers are therefore coded
as several streams with one histogram, which are worked on at once; the flag ``_SPLIT`` says so, and
the streams' lengths follow the histogram.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hqde_fl.codec import ans
from hqde_fl.codec.bitpack import MAX_BITS, pack, packed_bytes, unpack
from hqde_fl.codec.compiled import worthwhile
from hqde_fl.codec.parallel import each
from hqde_fl.codec.payload import Part
from hqde_fl.codec.reader import Reader
from hqde_fl.codec.symbol_split import MAX_INDEX, MAX_SYMBOLS, Indices, Plan, symbols_of
from hqde_fl.errors import CodecError

PART = 1 << 19
"""Numbers in each stream but the last, a multiple of 8. It is part of the format."""

MIN_COMPILED = 1 << 18
"""With fewer numbers, finding out how constriction rounds the chances costs more than it saves."""

_SPLIT = 0x80
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
    size = indices.size
    compiled = size >= MIN_COMPILED and worthwhile(size)
    plan, spans = Plan.of(indices, size), _spans(size, split=size > PART)
    found = np.empty((len(spans), plan.symbols + 1), np.int64)

    def count(number: int) -> None:
        found[number] = ans.count(indices[spans[number]], plan, compiled=compiled)

    each(count, range(len(spans)), size)
    counts = found.sum(axis=0)
    escapes = int(counts[plan.symbols])
    if not escapes:
        counts = counts[: plan.symbols]
    histogram = _histogram(counts)
    chances, streams = _CHANCES[histogram], [np.empty(0, np.uint32)] * len(spans)
    bounds = ans.bounds_of(chances) if compiled and chances.size > 1 else None
    low = np.empty(packed_bytes(size, plan.shift), np.uint8)

    def encode(number: int) -> None:
        piece = indices[spans[number]]
        if counts.size > 1:
            streams[number] = ans.encode(piece, plan, chances, bounds)
        if plan.shift:
            bits = (piece & ((1 << plan.shift) - 1)).astype(np.uint16)
            _store_low_bits(low, plan.shift, size, spans[number], bits)

    each(encode, range(len(spans)), size)
    lengths = np.array([len(words) for words in streams], "<u4")
    is_split = len(spans) > 1
    fields = _FIELDS.pack(
        plan.shift | _SPLIT * is_split, plan.symbols, plan.first, escapes, lengths.sum()
    )
    parts: list[Part] = [fields, histogram]
    if is_split:
        parts.append(lengths)
    parts += [words.astype("<u4", copy=False) for words in streams]
    parts.append(low if plan.shift else _centres(values, indices, step))
    if escapes:
        symbols = symbols_of(indices, plan.shift, plan.first, plan.symbols)
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
    is_split, shift = shift >= _SPLIT, shift % _SPLIT
    if shift > MAX_BITS or not 0 < width <= MAX_SYMBOLS or escapes > count:
        raise CodecError(f"no source has {width} symbols, {shift} low bits and {escapes} escapes")
    if abs(first) > 4 * MAX_INDEX:
        raise CodecError(f"index {first} is out of range")
    chances = _CHANCES[reader.array("<u1", width + (escapes > 0))]
    if not chances.any():
        raise CodecError("a histogram of nothing")
    spans = _spans(count, split=is_split)
    lengths = reader.array("<u4", len(spans)) if is_split else np.array([length])
    if int(lengths.sum(dtype=np.int64)) != length:
        raise CodecError(f"streams of {lengths.sum(dtype=np.int64)} words, expected {length}")
    is_coded = chances.size > 1 and count > 0
    if length and not is_coded:
        raise CodecError("an entropy stream that says nothing")
    words = reader.array("<u4", length).astype(np.uint32)
    ends = np.cumsum(lengths, dtype=np.int64)
    low = reader.array("<u1", packed_bytes(count, shift))
    table = np.arange(width + 1, dtype=np.int32) if shift or escapes else None
    levels = np.arange(first, first + width + 1, dtype=np.float32)
    if not shift:
        near = np.arange(-_CENTRED, _CENTRED + 1)
        known = (near >= first) & (near < first + width)
        levels[near[known] - first] += reader.array("i1", near.size)[known] * _CENTRE_UNIT
    levels *= step
    escaped = reader.array("<f4", escapes)
    values, escaping = np.empty(count, np.float32), [np.empty(0, np.intp)] * len(spans)
    compiled = count >= MIN_COMPILED and worthwhile(count)
    bounds = ans.bounds_of(chances) if is_coded and compiled else None

    def decode(number: int) -> None:
        span = spans[number]
        out = values[span]
        stream = words[ends[number] - lengths[number] : ends[number]]
        if table is None:
            if is_coded:
                ans.decode(stream, chances, bounds, levels, out)
            else:
                out[...] = levels[0]
            return
        symbols = np.zeros(out.size, np.int32)
        if is_coded:
            ans.decode(stream, chances, bounds, table, symbols)
        if shift:
            indices = (symbols + np.int32(first)).astype(np.int64)
            indices <<= shift
            indices |= _low_bits(low, shift, count, span)
            np.multiply(indices.astype(np.float32), step, out=out)
        else:
            np.take(levels, symbols, out=out, mode="clip")
        if escapes:
            escaping[number] = np.flatnonzero(symbols == width) + span.start

    each(decode, range(len(spans)), count)
    if escapes:
        where = np.concatenate(escaping)
        if where.size != escapes:
            raise CodecError(f"{where.size} values escape, expected {escapes}")
        values[where] = escaped
    return values


def _spans(size: int, *, split: bool) -> list[slice]:
    """Return the numbers of each stream: ``PART`` of them if they are split, else all."""
    if not split:
        return [slice(0, size)]
    return [slice(start, min(start + PART, size)) for start in range(0, size, PART)]


def _low_bits(data: NDArray[Any], shift: int, size: int, span: slice) -> NDArray[Any]:
    """Return a span's low bits from the bytes of those of ``size`` numbers, as ``pack`` makes."""
    length = span.stop - span.start
    if shift <= 8:
        part = data[packed_bytes(span.start, shift) : packed_bytes(span.stop, shift)]
        return unpack(part, shift, length)
    bits = _low_bits(data[size:], shift - 8, size, span).astype(np.uint16)
    bits <<= np.uint16(8)
    bits |= data[span]
    return bits


def _store_low_bits(
    data: NDArray[np.uint8], shift: int, size: int, span: slice, bits: NDArray[Any]
) -> None:
    """Put a span's low bits to where ``_low_bits`` reads them."""
    if shift > 8:
        data[span] = bits.astype(np.uint8)  # the cast keeps the low byte
        data, shift, bits = data[size:], shift - 8, bits >> 8
    part = pack(bits.astype(np.uint8), shift)
    data[packed_bytes(span.start, shift) : packed_bytes(span.stop, shift)] = part


def _histogram(counts: NDArray[Any]) -> NDArray[np.uint8]:
    """Return by how many tenths of an octave each count is below the largest; 255 for a zero."""
    depth = np.full(counts.size, float(_ABSENT))
    seen = counts > 0
    depth[seen] = np.rint(np.log2(counts.max() / counts[seen]) * _PER_OCTAVE)
    codes: NDArray[np.uint8] = np.minimum(depth, _ABSENT).astype(np.uint8)
    return codes


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
