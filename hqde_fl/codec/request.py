"""A codec as JSON: how a server says which one it wishes its clients to use."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from hqde_fl.codec import CODECS
from hqde_fl.codec.base import Codec
from hqde_fl.errors import ConfigError


def to_json(codec: Codec) -> str:
    """The codec's name in the registry and whatever differs from its defaults."""
    return json.dumps(_table(codec), separators=(",", ":"))


def from_json(text: str) -> Codec:
    """The inverse of ``to_json``.

    Raises
    ------
    ConfigError
        If the text describes no codec.
    """
    try:
        table = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"codec needs to be JSON, found {text[:80]!r}: {error}") from None
    if not isinstance(table, dict | str):
        raise ConfigError(f"codec needs to be a table or a name, found {text[:80]!r}")
    return CODECS.build(table)


def _table(codec: Codec) -> dict[str, Any]:
    name = CODECS.name_of(codec)
    table: dict[str, Any] = {"name": name}
    usual = CODECS.parameters(name)
    for field in dataclasses.fields(codec):  # type: ignore[arg-type]
        key, value = field.name.replace("_", "-"), getattr(codec, field.name)
        if value != usual[key]:
            table[key] = _table(value) if isinstance(value, Codec) else value
    return table
