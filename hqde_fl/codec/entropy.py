"""A uniform quantiser and an entropy coder: within a quarter of a bit of the best possible.

At high rate nothing that codes numbers one by one comes nearer to the rate-distortion bound than
uniform steps with an entropy coder, 1.53 dB from it (Gish and Pierce 1968); at low rate the gap
closes. One step for all numbers also divides the bits among numbers of unequal size as it should
(reverse water-filling), provided that the coder tells them apart: blocks are sorted into classes by
size, an octave each, and every class has a histogram of its own.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from hqde_fl.codec import entropy_coder
from hqde_fl.codec.base import Codec, State
from hqde_fl.codec.bitpack import pack, packed_bytes, unpack
from hqde_fl.codec.parallel import each, extremes, tiles
from hqde_fl.codec.payload import MAX_MAGNITUDE, Part
from hqde_fl.codec.reader import Floats, Reader
from hqde_fl.codec.size_classes import (
    BLOCK,
    CLASS_BITS,
    CLASSES,
    Classes,
    Sample,
    Values,
    classes_of,
    one_class,
    sample_classes,
    values_of_class,
)
from hqde_fl.codec.symbol_split import MAX_INDEX, Indices, Plan
from hqde_fl.errors import CodecError, ConfigError

_FIELDS = struct.Struct("<fB")
_HEADER_BITS, _SOURCE_BITS = 8 * 22, 8 * 36  # about
_TOLERANCE = 0.003  # bits
_MAX_TRIES = 24
_GAUSSIAN = 2.37  # entropy in bits of Gaussian numbers whose mean magnitude is one
_MIN_STEP = 2.0**-149  # of float32


@final
@dataclass(frozen=True)
class EntropyCoded(Codec):
    """A uniform quantiser followed by an entropy coder.

    Parameters
    ----------
    bits : float
        The rate wanted, in (0, 16]: bits of the whole payload for each number. The step is chosen
        on a sample, so the rate is met to 1 or 2 % if the numbers allow it.
    step : float
        A fixed step instead; 0 to choose it by ``bits``.
    dead_zone : float
        Steps by which the cell around zero is wider on either side, in [0, 0.5).
    """

    bits: float = 2.0
    step: float = 0.0
    dead_zone: float = 0.0

    code: ClassVar[int] = 3

    def __post_init__(self) -> None:
        if not 0 < self.bits <= 16:
            raise ConfigError(f"EntropyCoded needs bits in (0, 16], found {self.bits}")
        if not 0 <= self.step < MAX_MAGNITUDE:
            raise ConfigError(f"EntropyCoded needs step 0 or positive, found {self.step}")
        if not 0 <= self.dead_zone < 0.5:
            raise ConfigError(f"EntropyCoded needs dead_zone in [0, 0.5), found {self.dead_zone}")

    def write(
        self, values: Floats, state: State, rng: np.random.Generator
    ) -> tuple[Sequence[Part], State]:
        """Return the frame of values, quantised and coded class by class, and an empty state."""
        values = values.astype(np.float32, copy=False)
        low, high = extremes(values) if values.size else (0.0, 0.0)
        largest = max(high, -low)
        classes, step = self._choose(values, largest) if largest else (one_class(values), 0.0)
        if np.float32(step) == 0:
            return [_FIELDS.pack(0.0, 0)], {}
        exact = np.float32(step)
        count = int(classes.max()) + 1
        parts: list[Part] = [_FIELDS.pack(exact, count)]
        if count > 1:
            parts.append(pack(classes, CLASS_BITS))
        for number in range(count):
            source = values if count == 1 else values_of_class(values, classes, number)
            parts += entropy_coder.write(source, self._quantise(source, exact), exact)
        return parts, {}

    @classmethod
    def read(cls, reader: Reader, size: int) -> Floats:
        """Return the ``size`` values of a frame, decoded class by class."""
        step, count = reader.fields(_FIELDS)
        step = np.float32(step)
        if not 0 <= step <= 8 * MAX_MAGNITUDE or count > CLASSES or (step > 0) != (count > 0):
            raise CodecError(f"no entropy code has step {step} and {count} classes")
        if count < 2:
            return entropy_coder.read(reader, size, step) if count else np.zeros(size, np.float32)
        blocks = size // BLOCK
        if not blocks:
            raise CodecError(f"{count} classes of {size} values")
        packed = reader.array("<u1", packed_bytes(blocks, CLASS_BITS))
        classes = unpack(packed, CLASS_BITS, blocks)
        if int(classes.max()) >= count:
            raise CodecError(f"class {classes.max()}, expected less than {count}")
        values = np.empty(size, np.float32)
        rows = values[: blocks * BLOCK].reshape(-1, BLOCK)
        for number in range(count):
            chosen = classes == number
            whole = int(np.count_nonzero(chosen)) * BLOCK
            rest = size - rows.size if chosen[-1] else 0
            source = entropy_coder.read(reader, whole + rest, step)
            rows[chosen] = source[:whole].reshape(-1, BLOCK)
            if rest:
                values[-rest:] = source[whole:]
        return values

    def _quantise(self, values: Values, step: np.float32) -> Indices:
        """Return the index of the cell that each value is in."""
        indices = np.empty(values.size, np.int32)

        def quantise(span: slice) -> None:
            steps = values[span] / step
            if self.dead_zone:
                steps += np.copysign(np.float32(0.5 - self.dead_zone), steps)
            else:
                np.rint(steps, out=steps)
            indices[span] = steps  # cuts the fraction off

        each(quantise, tiles(values.size), values.size)
        return indices

    def _choose(self, values: Values, largest: float) -> tuple[Classes, float]:
        """Return the blocks' classes, all 0 if several would cost more, and the step."""
        whole, classes = one_class(values), classes_of(values)
        plain = sample_classes(values, whole)
        if not classes.any():
            return whole, self._find(plain, values.size, largest)
        split = sample_classes(values, classes)
        step = self._find(split, values.size, largest)
        if self._cost(split, values.size, step) < self._cost(plain, values.size, step):
            return classes, step
        return whole, self._find(plain, values.size, largest)

    def _cost(self, sample: Sample, size: int, step: float) -> float:
        """Return the estimated payload bits for each of ``size`` numbers quantised by ``step``."""
        exact = np.float32(step)
        coded = sum(
            part * Plan.of(self._quantise(source, exact), round(part * size)).cost
            for source, part in sample
        )
        map_bits = CLASS_BITS / BLOCK if len(sample) > 1 else 0.0
        headers = (_HEADER_BITS + _SOURCE_BITS * len(sample)) / size
        return coded + map_bits + min(headers, self.bits / 2)  # so that few numbers get bits, too

    def _find(self, sample: Sample, size: int, largest: float) -> float:
        """Return the step that gives ``bits`` for each number, by secants; ``self.step`` if set."""
        finest = max(largest / MAX_INDEX, _MIN_STEP)
        if self.step:
            return max(self.step, finest)
        low, high = math.log2(finest), math.log2(4 * largest)
        sizes = [max(float(np.abs(source).mean(dtype=np.float64)), finest) for source, _ in sample]
        at = sum(part * math.log2(size) for size, (_, part) in zip(sizes, sample, strict=True))
        at = min(max(at + _GAUSSIAN - self.bits, low), high)
        slope = -1.0  # bits for each octave, as at high rate
        before: tuple[float, float] | None = None
        for _ in range(_MAX_TRIES):
            excess = self._cost(sample, size, 2**at) - self.bits
            if abs(excess) < _TOLERANCE:
                break
            low, high = (at, high) if excess > 0 else (low, at)
            if before is not None and at != before[0]:
                slope = min((excess - before[1]) / (at - before[0]), -1e-3)
            before = at, excess
            at -= excess / slope
            if not low < at < high:
                at = (low + high) / 2
        return 2**at
