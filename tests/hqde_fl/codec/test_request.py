"""A codec as JSON and back."""

import pytest

from hqde_fl.codec import (
    CODECS,
    AdaptiveQuantizer,
    EntropyCoded,
    ErrorFeedback,
    Identity,
    Quantized,
    Rotated,
    TopK,
)
from hqde_fl.codec.request import from_json, to_json
from hqde_fl.errors import ConfigError


@pytest.mark.parametrize(
    "codec",
    [
        Identity(),
        Quantized(3, unbiased=False),
        AdaptiveQuantizer(2, 0, 12),
        EntropyCoded(1.5),
        ErrorFeedback(),
        ErrorFeedback(TopK(0.1, Rotated(Quantized(4, levels="lloyd-max")))),
    ],
)
def test_from_json_undoes_to_json(codec):
    assert from_json(to_json(codec)) == codec


def test_defaults_are_left_out():
    assert to_json(Quantized()) == '{"name":"quantized"}'
    assert all(from_json(f'"{name}"') for name in CODECS if name not in ("rotated", "top-k"))


@pytest.mark.parametrize("text", ["", "[]", "3", '{"nme": 1}', '{"name": "quantized", "bits": 99}'])
def test_text_that_describes_no_codec_is_refused(text):
    with pytest.raises(ConfigError):
        from_json(text)
