"""Codecs of the user's own: their numbers on the wire, and what they do wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from hqde_fl.codec import Codec, ErrorFeedback, decode_payload
from hqde_fl.codec.formats import register
from hqde_fl.codec.request import from_json, to_json
from hqde_fl.errors import CodecError, ConfigError


@dataclass(frozen=True)
class Half(Codec):
    code: ClassVar[int] = 201
    result: ClassVar[Any] = None

    def write(self, values: Any, state: Any, rng: Any) -> Any:
        return [values.astype("<f2")], {}

    @classmethod
    def read(cls, reader: Any, size: int) -> Any:
        values = reader.array("<f2", size).astype(np.float32)
        if cls.result == "raises":
            raise KeyError("x")
        return {"short": values[:-1], "ints": values.astype(int)}.get(str(cls.result), values)


@dataclass(frozen=True)
class Other(Half):
    """Another codec of the same number."""


@dataclass(frozen=True)
class Low(Half):
    code: ClassVar[int] = 7


@dataclass(frozen=True)
class TooLarge(Half):
    code: ClassVar[int] = 256


def payload() -> bytes:
    return Half().encode(torch.ones(5), {}, np.random.default_rng(0))[0]


def test_its_payloads_are_read_once_it_is_registered() -> None:
    codec = ErrorFeedback(Half())
    register(codec)
    bytes_, _ = codec.encode(torch.ones(5), {}, np.random.default_rng(0))
    assert decode_payload(bytes_, 5).tolist() == [1.0] * 5
    assert from_json(to_json(codec)) == codec
    with pytest.raises(ConfigError, match="unknown codec"):
        from_json('{"name": "os:path"}')


@pytest.mark.parametrize(
    ("codec", "message"),
    [
        (Other(), "201 is that of Half"),
        (TooLarge(), "TooLarge.code must be an integer in .128, 255"),
        (Low(), "found 7"),
    ],
)
def test_numbers_that_are_refused(codec: Codec, message: str) -> None:
    register(Half())
    with pytest.raises(ConfigError, match=message):
        register(codec)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("raises", "codec 201 raised KeyError: 'x'"),
        ("short", r"codec 201 must read \(5,\) values, found \(4,\)"),
        ("ints", "codec 201 must read an array of float32 or float64"),
    ],
)
def test_what_it_reads_is_checked(
    result: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(Half())
    monkeypatch.setattr(Half, "result", result)
    with pytest.raises(CodecError, match=message):
        decode_payload(payload(), 5)
