"""Send the objects that a program gave to an experiment to other processes, pickled by value.

Classes and functions of modules are sent by their names, those of notebooks and scripts with their
code.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.system.pickling import unpicklable_part


def require_picklable(objects: Mapping[str, Any]) -> None:
    """Raise ``ConfigError`` if an object cannot be pickled; the message names the part of it.

    Parameters
    ----------
    objects : Mapping[str, Any]
        The objects by name.
    """
    for name, value in objects.items():
        if (found := unpicklable_part(value)) is not None:
            path, part = found
            where = f"its {path}" if path else "it"
            raise ConfigError(
                f"{name!r} cannot be sent to other processes: {where} cannot be pickled, "
                f"{part!r:.80}; use engine inline, or put it into a module and name it "
                "'module:attribute'"
            )


def objects_to_text(objects: Mapping[str, Any]) -> str:
    """Return objects by name as a text, "" for none; raise ``ConfigError`` if it cannot be made."""
    if not objects:
        return ""
    from ray import cloudpickle

    require_picklable(objects)
    data: bytes = cloudpickle.dumps(dict(objects))  # type: ignore[no-untyped-call]
    return base64.b64encode(data).decode()


def objects_from_text(text: str) -> dict[str, Any]:
    """Return the objects in a text from ``objects_to_text``, by name."""
    if not text:
        return {}
    from ray import cloudpickle

    objects: dict[str, Any] = cloudpickle.loads(base64.b64decode(text))
    return objects
