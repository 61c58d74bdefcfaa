"""All formats of payloads, by their number on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hqde_fl.codec.adaptive import AdaptiveQuantizer
from hqde_fl.codec.base import Codec
from hqde_fl.codec.entropy import EntropyCoded
from hqde_fl.codec.error_feedback import ErrorFeedback
from hqde_fl.codec.identity import Identity
from hqde_fl.codec.payload import decode
from hqde_fl.codec.quantized import Quantized
from hqde_fl.codec.reader import FIRST_OWN_CODE
from hqde_fl.codec.rotation import Rotated
from hqde_fl.codec.topk import TopK
from hqde_fl.errors import ConfigError

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

_own: dict[int, type[Codec]] = {}
"""The formats of codecs that are not ours."""


def register(codec: Codec) -> None:
    """Let ``decode_payload`` read the payloads of a codec of the user's own, in this process.

    Raises
    ------
    ConfigError
        If the codec, or one inside it, has no ``code``, or one that another codec has.
    """
    for cls in (type(codec), *codec.formats.values()):
        code: Any = getattr(cls, "code", None)
        if code not in FORMATS and not (type(code) is int and FIRST_OWN_CODE <= code <= 255):
            raise ConfigError(
                f"{cls.__name__}.code must be an integer in [{FIRST_OWN_CODE}, 255], found {code!r}"
            )
        known = FORMATS.get(code, cls)
        if known is not cls:
            raise ConfigError(
                f"{cls.__name__}.code must be in [{FIRST_OWN_CODE}, 255]: "
                f"{code} is that of {known.__name__}"
            )
        other = _own.get(code, cls)
        if other.__qualname__ != cls.__qualname__:
            raise ConfigError(
                f"{cls.__name__}.code must be one that no other codec has: "
                f"{code} is that of {other.__name__}"
            )
    _own.update({code: cls for code, cls in codec.formats.items() if code not in FORMATS})


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
    return decode(payload, size, {**_own, **FORMATS})
