"""Error feedback: each message adds the error of the last one (Seide et al. 2014).

Its convergence: Karimireddy et al. 2019.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, final

import numpy as np
import torch

from hqde_fl.codec.base import Codec, State
from hqde_fl.codec.payload import Part, join
from hqde_fl.codec.quantized import Quantized
from hqde_fl.codec.reader import Floats, Reader
from hqde_fl.errors import ConfigError

RESIDUAL = "residual"
"""Key of the residual in the state, a float32 (d,) tensor."""


@final
@dataclass(frozen=True)
class ErrorFeedback(Codec):
    """Another codec, applied to the vector plus the error of the last message.

    The error of the inner codec must be smaller than its input, or the residual grows without end:
    let it round to the nearest (``unbiased=False``), and below 4 bits rotate, or the largest
    numbers shrink in every message. ``EntropyCoded`` and ``TopK`` need no such care.

    Parameters
    ----------
    inner : Codec
        The codec for the sum; without memory of its own.
    """

    inner: Codec = field(default_factory=lambda: Quantized(4, unbiased=False))

    code: ClassVar[int] = 6
    stateful: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.inner.stateful:
            raise ConfigError(f"ErrorFeedback cannot hold {self.inner}: one memory is enough")

    @property
    def formats(self) -> Mapping[int, type[Codec]]:
        """Its own format and the inner codec's, by code."""
        return {self.code: ErrorFeedback, **self.inner.formats}

    def write(
        self, values: Floats, state: State, rng: np.random.Generator
    ) -> tuple[Sequence[Part], State]:
        """Return the inner codec's frame of values + residual, and a state with the new residual.

        Raises ``ValueError`` if the residual in ``state`` has another size than the values.
        """
        if RESIDUAL in state:
            if len(state[RESIDUAL]) != values.size:
                raise ValueError(
                    f"the residual has {len(state[RESIDUAL])} numbers, delta {values.size}: "
                    "start again with an empty state"
                )
            values = values + state[RESIDUAL].numpy()
        parts, _ = self.inner.frame(values, {}, rng)
        decoded = Reader(join(parts), self.inner.formats).frame(values.size)
        residual = torch.from_numpy((values - decoded).astype(np.float32, copy=False))
        return parts, {RESIDUAL: residual}

    @classmethod
    def read(cls, reader: Reader, size: int) -> Floats:
        """Return the inner codec's ``size`` values: only the sender has a memory."""
        return reader.frame(size)
