"""A codec as JSON, in which a server requests it from its clients."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from hqde_fl.codec import CODECS
from hqde_fl.codec.base import Codec
from hqde_fl.errors import ConfigError


def to_json(codec: Codec) -> str:
    """Return JSON with a codec's registered name and the parameters that are not its defaults."""
    return json.dumps(_table(codec), separators=(",", ":"))


def from_json(text: str) -> Codec:
    """Return the codec that ``to_json`` described.

    A codec of the user's own must have been used in this process before: nothing that the text
    names is imported.

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
    return CODECS.build(table, imports=False)


def _table(codec: Codec) -> dict[str, Any]:
    """Return a codec's registered name and its parameters that are not defaults, in kebab-case.

    A codec among the parameters becomes such a table, too.
    """
    name = CODECS.name_of(codec)
    table: dict[str, Any] = {"name": name}
    defaults = CODECS.parameters(name)
    for field in dataclasses.fields(codec):  # type: ignore[arg-type]
        key, value = field.name.replace("_", "-"), getattr(codec, field.name)
        if value != defaults[key]:
            table[key] = _table(value) if isinstance(value, Codec) else value
    return table
