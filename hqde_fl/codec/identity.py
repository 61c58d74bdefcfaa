"""The exact codec: the numbers' own bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from hqde_fl.codec.base import Codec, State
from hqde_fl.codec.payload import Part
from hqde_fl.codec.reader import Floats, Reader
from hqde_fl.errors import CodecError


@final
@dataclass(frozen=True)
class Identity(Codec):
    """The numbers as they are: float64 if they are float64, else float32."""

    code: ClassVar[int] = 0

    @property
    def unbiased(self) -> bool:
        """True: it is exact."""
        return True

    def write(
        self, values: Floats, state: State, rng: np.random.Generator
    ) -> tuple[Sequence[Part], State]:
        """Return the values' bytes as a frame, and an empty state."""
        return [bytes([values.itemsize]), values.astype(f"<f{values.itemsize}", copy=False)], {}

    @classmethod
    def read(cls, reader: Reader, size: int) -> Floats:
        """Return the ``size`` numbers of a frame."""
        (width,) = reader.array("<u1", 1)
        if width not in (4, 8):
            raise CodecError(f"no float has {width} bytes")
        return reader.array(f"<f{width}", size).astype(f"f{width}")
