"""Convert values to strict JSON: ``null`` for numbers that are not finite, kebab-case keys."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def to_json_value(value: Any) -> Any:
    """Return a copy of a value that strict JSON can hold.

    NaN and infinity become None, tensors and sets become lists, and objects of unknown type their
    text.
    """
    if isinstance(value, Mapping):
        return {str(key): to_json_value(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_json_value(entry) for entry in value]
    if hasattr(value, "tolist"):  # tensors, arrays and their scalars
        return to_json_value(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def to_kebab_case(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of fields as strict JSON values, with hyphens for underscores in their names.

    Names inside of the values are not changed.
    """
    return {key.replace("_", "-"): to_json_value(value) for key, value in fields.items()}


def parse_json(data: bytes) -> Any:
    """Return the value of a JSON document, or None if the bytes are no JSON document."""
    try:
        return json.loads(data.decode())
    except ValueError:
        return None
