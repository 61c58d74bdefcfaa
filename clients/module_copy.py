"""Copy the modules of a model, but not its tensors, faster than ``copy.deepcopy`` does."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable
from types import BuiltinFunctionType, FunctionType
from typing import Any, final

import torch
from torch import Tensor, nn

IMMUTABLE = frozenset(
    (
        *(int, float, complex, bool, str, bytes, type(None)),
        *(type, FunctionType, BuiltinFunctionType, torch.dtype, torch.device, torch.Size),
    )
)
"""Types whose values need no copy, as exact types."""

INTERNAL = frozenset(vars(nn.Module()))
"""Attributes that torch gives every module: dicts and sets that nothing but the module holds."""

OWN_WAYS = (
    *("__deepcopy__", "__copy__", "__reduce__", "__reduce_ex__", "__getnewargs__"),
    *("__getnewargs_ex__", "__getstate__", "__setstate__", "__slots__", "__new__"),
)
"""Names that a class defines if its objects are to be copied in a way of their own."""


@final
class ModuleCopier:
    """Makes copies of a model that share some tensors with it.

    A copy equals that of ``copy.deepcopy`` with those tensors in its memo, also where modules,
    attributes or functions are shared between modules. The model must not be changed after this.

    Parameters
    ----------
    model : nn.Module
        The model.
    shared : Iterable[Tensor]
        Tensors that the copies share with the model.
    """

    def __init__(self, model: nn.Module, shared: Iterable[Tensor]) -> None:
        self._model = model
        self._shared = {id(tensor): tensor for tensor in shared}
        self._plans = [_Plan(m, self._shared) for m in model.modules() if is_plain(m)]

    def copy(self) -> nn.Module:
        """Return a new copy of the model; raise an exception if a value cannot be copied."""
        memo: dict[int, Any] = dict(self._shared)
        for plan in self._plans:
            memo[id(plan.module)] = plan.kind.__new__(plan.kind)
        for plan in self._plans:
            plan.fill(memo)
        return copy.deepcopy(self._model, memo)


class _Plan:
    """The treatment of each attribute of a module in a copy.

    Parameters
    ----------
    module : nn.Module
        The module.
    shared : dict[int, Tensor]
        Tensors by their ids that the copies share.
    """

    __slots__ = ("children", "copied", "dicts", "kind", "module", "values")

    def __init__(self, module: nn.Module, shared: dict[int, Tensor]) -> None:
        self.module, self.kind = module, type(module)
        self.values: dict[str, Any] = {}
        self.children: dict[str, Any] | None = None
        self.dicts: list[tuple[str, Any]] = []
        self.copied: list[tuple[str, Any]] = []
        for name, value in vars(module).items():
            self.values[name] = value  # in the order of the original, most are replaced
            if id(value) in shared or is_immutable(value):
                continue
            if name == "_modules" and type(value) in (dict, OrderedDict):
                self.children = value
            elif name in INTERNAL and _holds_shared_alone(value, shared):
                self.dicts.append((name, value))
            else:
                self.copied.append((name, value))

    def fill(self, memo: dict[int, Any]) -> None:
        """Give the copy in a memo of ``copy.deepcopy`` its attributes."""
        new = memo[id(self.module)].__dict__
        new.update(self.values)
        for name, value in self.dicts:
            new[name] = memo[id(value)] = value.copy()
        for name, value in self.copied:
            new[name] = copy.deepcopy(value, memo)
        if self.children is not None:
            new["_modules"] = memo[id(self.children)] = type(self.children)(
                (name, copy.deepcopy(child, memo)) for name, child in self.children.items()
            )


def is_immutable(value: Any) -> bool:
    """Return True if a copy of a value can be the value itself, by its exact type."""
    if type(value) is tuple:
        return all(map(is_immutable, value))
    return type(value) in IMMUTABLE


def _holds_shared_alone(value: Any, shared: dict[int, Tensor]) -> bool:
    """Return True for a dict of shared tensors and None, and for a set of strings."""
    if type(value) in (dict, OrderedDict):
        return all(entry is None or id(entry) in shared for entry in value.values())
    return type(value) is set and all(type(entry) is str for entry in value)


def is_plain(module: nn.Module) -> bool:
    """Return True if a module's class leaves it to Python how its objects are copied.

    The ways of ``nn.Module`` itself count as Python's: they leave out a compiled forward, which
    must not be there, and complete what old versions of torch have saved.
    """
    return vars(module).get("_compiled_call_impl") is None and not any(
        name in vars(base)
        for base in type(module).__mro__
        if base not in (object, nn.Module)
        for name in OWN_WAYS
    )
