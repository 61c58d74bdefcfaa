"""Reading of batches as a model's inputs and targets, by the parameters of its ``forward``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from logging import WARNING
from types import MethodType
from typing import Any, Self

from torch import Tensor, nn

from hqde_fl.clients.batches import Arguments, BatchWithoutTargets, map_tensors, moves_itself
from hqde_fl.errors import TaskError
from hqde_fl.protocol.flower_internals import log

TARGETS = ("labels", "label", "targets", "target", "y")
"""Names of the entry that holds the targets of a batch with names, by priority."""

_logged: set[tuple[str, frozenset[str]]] = set()
"""Models and the entries of batches that they do not get, as far as this process has logged."""


@dataclass(frozen=True)
class BatchReader:
    """A reader of batches as inputs and targets of a model.

    ``(x, y)`` are inputs and targets, ``(a, b, y)`` two inputs and targets, as ``((a, b), y)`` are
    where ``forward`` requires two. In a mapping ``labels``
    (or ``label``, ``targets``, ``target``, ``y``) are the targets, and ``forward`` gets the other
    entries that its parameters name; a ``forward`` with ``**kwargs`` gets all others that hold
    tensors too. If its parameters name none, ``forward`` gets one mapping. The targets are passed
    only to a ``forward`` that requires a parameter of their name. A batch that is a single tensor
    is both input and target, as for an autoencoder.

    Parameters
    ----------
    forward : str
        The model's class and the parameters of ``forward``, for messages.
    positional : tuple[str, ...]
        Parameters that can be given by position.
    keywords : frozenset[str]
        Parameters that can be given by name.
    required : frozenset[str]
        Parameters without a default.
    any_positional, any_keyword : bool
        True if ``forward`` has ``*args``; if it has ``**kwargs``.
    """

    forward: str
    positional: tuple[str, ...]
    keywords: frozenset[str]
    required: frozenset[str]
    any_positional: bool
    any_keyword: bool

    @classmethod
    def of(cls, model: nn.Module) -> Self:
        """Build the reader of batches for a model.

        The base model of a PEFT model counts, and the module that ``torch.compile`` has wrapped.
        """
        model = getattr(model, "_orig_mod", model)
        if callable(base_model := getattr(model, "get_base_model", None)):
            model = base_model()
        forward, name = model.forward, type(model).__name__
        if getattr(forward, "__self__", None) is model and hasattr(forward, "__func__"):
            return cls._of_method(name, forward.__func__)
        return cls._of_call(name, forward)

    @classmethod
    @lru_cache(maxsize=64)
    def _of_method(cls, name: str, forward: Callable[..., Any]) -> Self:
        """Return the reader for models of a class with this name and method ``forward``."""
        return cls._of_call(name, MethodType(forward, cls))

    @classmethod
    def _of_call(cls, name: str, forward: Callable[..., Any]) -> Self:
        name = f"{name}.forward"
        try:
            parameters = inspect.signature(forward).parameters.values()
        except (TypeError, ValueError):  # not written in Python
            return cls(name, (), frozenset(), frozenset(), True, True)
        kinds = {parameter.kind for parameter in parameters}
        plain = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        shown = ", ".join(p.name for p in plain)
        return cls(
            f"{name}({shown if len(shown) <= 80 else f'{shown[:80]}...'})",
            tuple(p.name for p in plain if p.kind is not p.KEYWORD_ONLY),
            frozenset(p.name for p in plain if p.kind is not p.POSITIONAL_ONLY),
            frozenset(p.name for p in plain if p.default is p.empty),
            inspect.Parameter.VAR_POSITIONAL in kinds,
            inspect.Parameter.VAR_KEYWORD in kinds,
        )

    def pair(self, batch: Any, *, labelled: bool = True) -> tuple[Any, Any]:
        """Return the inputs and the targets of a batch.

        Parameters
        ----------
        batch : Any
            A batch. The targets are the last entry of a tuple or list, or the field of a named
            tuple, the entry of a mapping or the tensor of another object with a name in
            ``TARGETS``. A batch without targets is its own target.
        labelled : bool, default=True
            False if a tuple of as many entries as ``forward`` requires may have no targets.

        Raises
        ------
        TaskError
            If ``forward`` cannot be called with the batch.
        """
        if type(batch) in (tuple, list) and len(batch) == 2 and self._takes_one:
            inputs, targets = batch
            if isinstance(inputs, Tensor):  # the usual case, in short
                return inputs, targets
        if isinstance(batch, Mapping):
            key = self.target_name(batch)
            if key is None:
                return self._inputs(batch), BatchWithoutTargets(batch)
            rest = {k: v for k, v in batch.items() if k != key or k in self.required}
            return self._inputs(rest, key), batch[key]
        if not _is_plain_sequence(batch) or not batch:
            found = (getattr(batch, name, None) for name in TARGETS)
            return batch, next((y for y in found if isinstance(y, Tensor)), batch)
        inputs = list(batch)
        unlabelled = not labelled and not self._fits(inputs[:-1]) and self._fits(inputs)
        if len(batch) > 1 and not unlabelled:
            names: tuple[str, ...] = getattr(batch, "_fields", ())
            key = self.target_name(names)
            targets = inputs.pop(-1 if key is None else names.index(key))
        else:
            targets = batch[0]
        if len(inputs) == 1 and isinstance(inputs[0], Arguments | Mapping):
            return self._inputs(inputs[0]), targets
        if not self._takes_one and len(inputs) == 1 and _is_plain_sequence(inputs[0]):
            inputs = list(inputs[0])  # of ((a, b), y)
        if not self._takes(len(inputs)):
            many = len(inputs) > len(self._needed)
            raise TaskError(
                f"{self.forward} needs {self._input_count}, found {len(inputs)} in a batch, "
                "besides its targets"
                + (", the last entry: give several targets as one tuple" if many else "")
            )
        return inputs[0] if len(inputs) == 1 else Arguments(tuple(inputs)), targets

    def target_name(self, names: Any) -> str | None:
        """Return the name of the targets among some names, best one that is no required input."""
        found = sorted((n for n in TARGETS if n in names), key=lambda n: n in self.required)
        return found[0] if found else None

    def used_entries(self, example: Any) -> Any:
        """Return an example or batch without the entries that ``forward`` does not take, if named.

        The targets stay. All entries stay where ``forward`` takes any, or one mapping, and where
        none is the targets: the loss gets all then.
        """
        if not isinstance(example, Mapping) or self.any_keyword:
            return example
        key = self.target_name(example)
        named = any(name in self.keywords for name in example if name != key)
        if key is None or not named:
            return example
        used = {k: v for k, v in example.items() if k in self.keywords or k == key}
        self._log_unused(example.keys() - used.keys())
        return used

    def _fits(self, inputs: list[Any]) -> bool:
        """Return True if ``forward`` may be called with the entries of a batch."""
        if len(inputs) == 1 and not isinstance(inputs[0], Tensor):
            return True  # perhaps of several inputs itself
        return self._takes(len(inputs))

    @cached_property
    def _takes_one(self) -> bool:
        return self._takes(1)

    def _takes(self, count: int) -> bool:
        """Return True if ``forward`` can be called with a number of positional arguments."""
        return len(self._needed) <= count and (self.any_positional or count <= len(self.positional))

    @cached_property
    def _needed(self) -> list[str]:
        """The parameters without a default that can be given by position."""
        return [name for name in self.positional if name in self.required]

    @property
    def _input_count(self) -> str:
        """The number of positional arguments that ``forward`` takes, as text."""
        low, high = len(self._needed), len(self.positional)
        if self.any_positional:
            return f"{low} inputs or more"
        return f"{low if low == high else f'{low} to {high}'} input{'s' if high != 1 else ''}"

    @property
    def _takes_one_mapping(self) -> bool:
        """True if ``forward`` can be called with one positional argument and nothing else."""
        if len(self._needed) == 1:
            return True
        optional = not self._needed and (len(self.positional) == 1 or self.any_positional)
        return optional and not self.any_keyword

    def _inputs(self, value: Any, target_name: str | None = None) -> Any:
        if not isinstance(value, Mapping):
            return value
        taken = {k: v for k, v in value.items() if k in self.keywords}
        if not taken and self._takes_one_mapping:
            return dict(value)
        if self.any_keyword:
            taken |= {k: v for k, v in value.items() if isinstance(k, str) and _holds_tensor(v)}
        missing = [name for name in self.positional if name in self.required - taken.keys()]
        missing += sorted(self.required - taken.keys() - set(missing))
        if missing or not taken:
            besides = f", and {target_name!r}, which are the targets" if target_name else ""
            raise TaskError(
                f"{self.forward} needs {', '.join(missing) or 'an entry of the batch'}, found a "
                f"batch with the entries {', '.join(map(str, value)) or 'none'}{besides}"
            )
        self._log_unused(value.keys() - taken.keys())
        return Arguments(named=taken)

    def _log_unused(self, names: Any) -> None:
        """Log the entries of a batch that the model does not get, once in a process."""
        if names and (entry := (self.forward, frozenset(names))) not in _logged:
            _logged.add(entry)
            listed = ", ".join(sorted(map(str, names)))
            log(WARNING, "%s does not get these entries of a batch: %s", self.forward, listed)


def _is_plain_sequence(value: Any) -> bool:
    """Return True for a tuple or list that is no object of its own, as a packed sequence is."""
    return isinstance(value, tuple | list) and not moves_itself(value)


def _holds_tensor(value: Any) -> bool:
    found: list[Any] = []
    map_tensors(value, found.append)
    return bool(found)
