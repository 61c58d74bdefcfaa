"""Codecs for updates, one file each; ``CODECS`` holds the name of each in TOML files."""

from hqde_fl import catalogue
from hqde_fl.codec.adaptive import AdaptiveQuantizer
from hqde_fl.codec.base import Codec, State
from hqde_fl.codec.entropy import EntropyCoded
from hqde_fl.codec.error_feedback import ErrorFeedback
from hqde_fl.codec.formats import FORMATS, decode_payload
from hqde_fl.codec.identity import Identity
from hqde_fl.codec.quantized import Quantized
from hqde_fl.codec.rotation import Rotated
from hqde_fl.codec.topk import TopK
from hqde_fl.registry import Registry

CODECS: Registry[Codec] = catalogue.CODECS

__all__ = [
    "CODECS",
    "FORMATS",
    "AdaptiveQuantizer",
    "Codec",
    "EntropyCoded",
    "ErrorFeedback",
    "Identity",
    "Quantized",
    "Rotated",
    "State",
    "TopK",
    "decode_payload",
]
