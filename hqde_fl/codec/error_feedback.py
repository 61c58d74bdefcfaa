"""What one message leaves out, the next one makes up for.

Seide et al. 2014; why it converges: Karimireddy et al. 2019.
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
"""The key of the state under which the residual lies, a float32 (d,) tensor."""


@final
@dataclass(frozen=True)
class ErrorFeedback(Codec):
    """Another codec that is sent the vector plus what the last message missed.

    The error of the inner codec must be smaller than what it codes, or the residual grows without
    end: let it round to the nearest (``unbiased=False``), and below 4 bits rotate, or the largest
    numbers lose a part of themselves every time. ``EntropyCoded`` and ``TopK`` are right as they
    are.

    Parameters
    ----------
    inner : Codec
        What codes the sum.
    """

    inner: Codec = field(default_factory=lambda: Quantized(4, unbiased=False))

    code: ClassVar[int] = 6
    stateful: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.inner.stateful:
            raise ConfigError(f"ErrorFeedback cannot hold {self.inner}: one memory is enough")

    @property
    def formats(self) -> Mapping[int, type[Codec]]:
        """Its own and the inner codec's."""
        return {self.code: ErrorFeedback, **self.inner.formats}

    def write(
        self, values: Floats, state: State, rng: np.random.Generator
    ) -> tuple[Sequence[Part], State]:
        """Add the residual, code, and keep what decoding would miss."""
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
        """What the inner codec decodes: only the sender remembers."""
        return reader.frame(size)
