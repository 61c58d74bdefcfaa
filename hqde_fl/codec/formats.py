"""All formats of payloads, by their number on the wire."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from hqde_fl.codec.adaptive import AdaptiveQuantizer
from hqde_fl.codec.base import Codec
from hqde_fl.codec.entropy import EntropyCoded
from hqde_fl.codec.error_feedback import ErrorFeedback
from hqde_fl.codec.identity import Identity
from hqde_fl.codec.payload import decode
from hqde_fl.codec.quantized import Quantized
from hqde_fl.codec.rotation import Rotated
from hqde_fl.codec.topk import TopK

FORMATS: Mapping[int, type[Codec]] = {
    0: Identity,
    1: Quantized,
    2: Rotated,
    3: EntropyCoded,
    4: AdaptiveQuantizer,
    5: TopK,
    6: ErrorFeedback,
}
"""Number on the wire -> codec. A number is never reused."""


def decode_payload(payload: bytes | memoryview, size: int) -> Tensor:
    """Return the numbers in a payload of any codec, trusting nothing in it.

    Parameters
    ----------
    payload : bytes or memoryview
        The bytes received.
    size : int
        The number of values expected.

    Returns
    -------
    Tensor
        (size,) finite numbers, float32 unless the payload says float64.

    Raises
    ------
    CodecError
        If the payload is anything but sound.
    """
    return decode(payload, size, FORMATS)
