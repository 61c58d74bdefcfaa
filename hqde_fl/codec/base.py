"""The base of all codecs: both ends in one object; ``payload`` describes the bytes in between."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import numpy as np
from torch import Tensor

from hqde_fl.codec.payload import Part, decode, flat, join, seal
from hqde_fl.codec.reader import Floats, Reader

State = Mapping[str, Any]
"""A codec's memory between messages: tensors, and mappings of them."""


class Codec(ABC):
    """A codec for vectors of finite numbers, lossy or exact.

    Concrete codecs are final frozen dataclasses: ``write`` is the client's end, ``read`` the
    server's. ``read`` is a class method because the payload holds every parameter that it needs.
    """

    code: ClassVar[int]
    """Its number on the wire; never reused. Codecs of users have numbers in [128, 255]."""
    stateful: ClassVar[bool] = False
    """True if it remembers anything between messages."""

    @property
    def unbiased(self) -> bool:
        """True if the mean of many decoded messages tends to the input."""
        return False

    @property
    def formats(self) -> Mapping[int, type[Codec]]:
        """The codecs that its payloads are made of, itself among them, by their code."""
        return {self.code: type(self)}

    @abstractmethod
    def write(
        self, values: Floats, state: State, rng: np.random.Generator
    ) -> tuple[Sequence[Part], State]:
        """Return the frame of finite values, without its code, and the state for the next message.

        Parameters
        ----------
        values : ndarray
            (d,) float32 or float64, not to be written to.
        state : State
            The state that the last call returned; empty at first.
        rng : Generator
            The source of random numbers.
        """

    @classmethod
    @abstractmethod
    def read(cls, reader: Reader, size: int) -> Floats:
        """Return the ``size`` values of a frame whose code was just read, in their own memory.

        Raises
        ------
        CodecError
            If the frame is not one of ``size`` values.
        """

    @final
    def encode(self, delta: Tensor, state: State, rng: np.random.Generator) -> tuple[bytes, State]:
        """Return the payload of a vector, and the state for the next call.

        Parameters
        ----------
        delta : Tensor
            (d,) finite numbers of any floating dtype, at most 2^120 in magnitude. Not written to.
        state : State
            The state that the last call returned; empty at first.
        rng : Generator
            The source of random numbers.
        """
        values = flat(delta)
        parts, state = self.frame(values, state, rng)
        return seal(join(parts), values.size), state

    @final
    def decode(self, payload: bytes | memoryview, size: int) -> Tensor:
        """Return the (size,) vector in a payload of this codec, float32 unless it holds float64.

        Raises
        ------
        CodecError
            If it is not a sound payload of ``size`` values made of this codec's ``formats``.
        """
        return decode(payload, size, self.formats)

    def frame(
        self, values: Floats, state: State, rng: np.random.Generator
    ) -> tuple[list[Part], State]:
        """Return the frame that ``write`` makes, with its code before it, and the new state."""
        parts, state = self.write(values, state, rng)
        return [bytes([self.code]), *parts], state

    @final
    def payload_bits(self, payload: bytes | memoryview) -> int:
        """Return the number of bits that a payload takes, its header included."""
        return 8 * len(payload)
