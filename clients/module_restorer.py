"""Put a model that has been used back to how it was, where that costs less than a copy."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any, final

from torch import Tensor, nn

from hqde_fl.clients.module_copy import INTERNAL, is_immutable, is_plain


@final
class ModuleRestorer:
    """Restores the attributes of a model's modules, all but the values of its tensors.

    Parameters
    ----------
    model : nn.Module
        The model, as it is to be restored; see ``is_restorable``.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._modules: list[tuple[dict[str, Any], list[str], list[Any]]] = []
        self._filled: list[tuple[Any, Any, list[Any]]] = []
        self._empty: list[Any] = []
        for module in model.modules():
            values = vars(module)
            self._modules.append((values, list(values), list(values.values())))
            for name in INTERNAL & values.keys():
                if isinstance(container := values[name], dict | set):
                    if container:
                        content = list(container.items() if isinstance(container, dict) else [])
                        self._filled.append((container, container.copy(), content))
                    else:
                        self._empty.append(container)

    @property
    def is_unchanged(self) -> bool:
        """True if all attributes are as they are to be."""
        for attributes, names, values in self._modules:
            if list(attributes) != names or any(map(operator.is_not, attributes.values(), values)):
                return False
        return not any(self._empty) and all(_holds(*filled) for filled in self._filled)

    def restore(self) -> None:
        """Restore all attributes."""
        if self.is_unchanged:
            return
        for attributes, names, values in self._modules:
            attributes.clear()
            attributes.update(zip(names, values, strict=True))
        for container in self._empty:
            container.clear()
        for container, copied, _ in self._filled:
            container.clear()
            container.update(copied)


def _holds(container: Any, copied: Any, content: list[Any]) -> bool:
    """Return True if a dict holds the same objects in the same order; if a set is as it was."""
    if isinstance(container, set):
        return bool(container == copied)
    return len(container) == len(content) and all(
        name == known and value is same
        for (name, value), (known, same) in zip(container.items(), content, strict=True)
    )


def is_restorable(model: nn.Module, shared: Iterable[Tensor]) -> bool:
    """Return True if a model's modules keep nothing that could change within.

    That is, besides what torch gives every module: shared tensors, other modules of the model, and
    values that are immutable.

    Parameters
    ----------
    model : nn.Module
        The model.
    shared : Iterable[Tensor]
        Its tensors whose values come with each message.
    """
    known = {id(tensor) for tensor in shared}
    modules = list(model.modules())
    parts = known | {id(module) for module in modules}
    for module in modules:
        if not is_plain(module):
            return False
        for name, value in vars(module).items():
            if id(value) in parts or is_immutable(value):
                continue
            if name not in INTERNAL or not _holds_parts(value, parts):
                return False
    return True


def _holds_parts(value: Any, parts: set[int]) -> bool:
    """Return True for a dict of parts of a model and None, and for a set of strings."""
    if isinstance(value, dict):
        return all(entry is None or id(entry) in parts for entry in value.values())
    return type(value) is set and all(type(entry) is str for entry in value)
