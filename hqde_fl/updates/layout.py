"""The layout of a model: the roles of its entries, and its weights' places in one flat vector."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.updates.roles import VARIANCE, Role, Roles, inferred_role, is_complex

_CODES: dict[str, Role] = {
    "t": "trainable",
    "s": "statistics",
    "c": "counters",
    "f": "frozen",
    "b": "frozen",
}
"""Letter of an entry in ``Layout.codes`` -> role; ``b`` is a frozen buffer."""


@dataclass(frozen=True)
class Entry:
    """One entry of a model's state dict.

    Parameters
    ----------
    name : str
        The entry's key in the state dict.
    shape : tuple[int, ...]
        The dimensions; () for a scalar.
    dtype : str
        The dtype, in NumPy's spelling.
    offset : int or None
        Position of its first number in the flat vector; None unless it is trainable and not tied.
    role : Role
        The entry's role.
    tied_to : str or None
        The first name of the same tensor, if this is another one.
    buffer : bool
        True if clients who change the frozen entry make statistics or counters of it, not weights.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    offset: int | None
    role: Role = "trainable"
    tied_to: str | None = None
    buffer: bool = False

    @property
    def numbers(self) -> int:
        """The number of real numbers: two for each complex element."""
        return math.prod(self.shape) * (2 if is_complex(self.dtype) else 1)

    @property
    def span(self) -> slice:
        """The entry's part of the flat vector."""
        assert self.offset is not None
        return slice(self.offset, self.offset + self.numbers)

    @property
    def is_variance(self) -> bool:
        """True for real statistics that are never negative."""
        named = VARIANCE.fullmatch(self.name) is not None
        return named and self.role == "statistics" and not is_complex(self.dtype)

    def from_numbers(self, numbers: Tensor) -> Tensor:
        """Return real numbers as a tensor of the entry's shape and dtype."""
        dtype = getattr(torch, self.dtype)
        if is_complex(self.dtype):
            real = numbers.to(torch.float64 if dtype == torch.complex128 else torch.float32)
            # no view of the flat vector: torch allows none at an odd offset
            return torch.complex(real[::2], real[1::2]).reshape(self.shape)
        return numbers.to(dtype).reshape(self.shape)


def to_numbers(tensor: Tensor) -> Tensor:
    """Return a tensor as a flat vector of real numbers, complex ones as pairs."""
    return (torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor).flatten()


@dataclass(frozen=True)
class Layout:
    """The entries of a model, with the places of its weights in one flat vector.

    Parameters
    ----------
    entries : tuple[Entry, ...]
        The entries, in the model's order.
    inferred : bool
        True if the roles were inferred from names and dtypes, False if they are known.
    """

    entries: tuple[Entry, ...]
    inferred: bool = True

    @classmethod
    def of(
        cls, arrays: Iterable[tuple[str, tuple[int, ...], str]], roles: Roles | None = None
    ) -> Self:
        """Return the layout of arrays, given as (name, shape, dtype) in their order.

        Parameters
        ----------
        arrays : Iterable[tuple[str, tuple[int, ...], str]]
            The arrays of a state dict.
        roles : Roles, optional
            Their roles, where they are known; inferred from names and dtypes if not given.

        Raises
        ------
        UnknownNameError
            If a role is given for an entry that there is not.
        ConfigError
            If two entries are tied that differ in shape or dtype.
        """
        arrays = list(arrays)
        if roles is not None:
            roles.require_names(name for name, _, _ in arrays)
        known = roles or Roles()
        entries = []
        for name, shape, dtype in arrays:
            role = inferred_role(name, dtype) if roles is None else roles.of(name, dtype)
            buffer = name in known.buffers
            entries.append(Entry(name, shape, dtype, None, role, known.tied.get(name), buffer))
        by_name = {entry.name: entry for entry in entries}
        for place, entry in enumerate(entries):
            if entry.tied_to is None:
                continue
            first = by_name[entry.tied_to]
            if (entry.shape, entry.dtype) != (first.shape, first.dtype):
                raise ConfigError(
                    f"Roles.tied needs names of one tensor, found {entry.name!r} {entry.dtype} "
                    f"{entry.shape} and {first.name!r} {first.dtype} {first.shape}"
                )
            entries[place] = replace(entry, role=first.role)
        return cls(_placed(entries), roles is None)

    @classmethod
    def from_codes(
        cls, arrays: Iterable[tuple[str, tuple[int, ...], str]], codes: str, tied: Sequence[int]
    ) -> Self:
        """Return the layout whose ``codes`` and ``tied_pairs`` are given, of arrays in their order.

        Raises
        ------
        ValueError
            If they do not fit the arrays.
        """
        arrays = list(arrays)
        first_of = dict(zip(tied[::2], tied[1::2], strict=True))
        entries = [
            Entry(name, shape, dtype, None, _CODES[code], None, code == "b")
            for (name, shape, dtype), code in zip(arrays, codes, strict=True)
        ]
        for place, first in first_of.items():
            entries[place] = replace(entries[place], tied_to=entries[first].name)
        return cls(_placed(entries), inferred=False)

    @cached_property
    def codes(self) -> str:
        """One letter for each entry, which names its role to clients."""
        return "".join("b" if e.role == "frozen" and e.buffer else e.role[0] for e in self.entries)

    @cached_property
    def tied_pairs(self) -> list[int]:
        """The places of a tied entry and of the first name of its tensor, pair after pair."""
        places = {entry.name: place for place, entry in enumerate(self.entries)}
        pairs = [(places[e.name], places[e.tied_to]) for e in self.entries if e.tied_to is not None]
        return [place for pair in pairs for place in pair]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of all entries, in the model's order."""
        return tuple(entry.name for entry in self.entries)

    @cached_property
    def by_name(self) -> Mapping[str, Entry]:
        """The entries by name."""
        return {entry.name: entry for entry in self.entries}

    @cached_property
    def weights(self) -> tuple[Entry, ...]:
        """The entries that are in the flat vector, in its order."""
        placed = [entry for entry in self.entries if entry.offset is not None]
        return tuple(sorted(placed, key=lambda entry: entry.offset or 0))

    @cached_property
    def others(self) -> tuple[Entry, ...]:
        """The statistics, counters and frozen entries that are not tied, in the model's order."""
        return tuple(e for e in self.entries if e.offset is None and e.tied_to is None)

    @property
    def tied(self) -> tuple[Entry, ...]:
        """The entries that are another name of a tensor."""
        return tuple(entry for entry in self.entries if entry.tied_to is not None)

    @cached_property
    def size(self) -> int:
        """The length d of the flat vector."""
        return sum(entry.numbers for entry in self.weights)

    @cached_property
    def dtype(self) -> torch.dtype:
        """The dtype of the flat vector: float64 if a weight has such numbers, else float32."""
        wide = any(entry.dtype in ("float64", "complex128") for entry in self.weights)
        return torch.float64 if wide else torch.float32

    def flatten(self, state: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the flat vector (d,) of a state dict's weights, and its other entries by name."""
        flat = torch.empty(self.size, dtype=self.dtype)
        for entry in self.weights:
            flat[entry.span] = to_numbers(state[entry.name])
        return flat, {entry.name: state[entry.name] for entry in self.others}

    def restore(self, flat: Tensor, others: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the state dict that ``flatten`` took apart, in the original order and dtypes."""
        state: dict[str, Tensor] = {}
        for entry in self.entries:
            if entry.offset is not None:
                state[entry.name] = entry.from_numbers(flat[entry.span])
            elif entry.tied_to is None:
                state[entry.name] = others[entry.name]
        return self.with_ties(state)

    def with_ties(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a state dict in the model's order, its tied names with their tensors' first."""
        return {entry.name: state[entry.tied_to or entry.name] for entry in self.entries}

    def with_roles(self, roles: Mapping[str, Role], tied: Mapping[str, str | None]) -> Layout:
        """Return the layout with other roles and ties of some entries.

        The weights that stay keep their order; new ones follow after them. A tied entry has the
        role of the first name of its tensor.
        """
        changed = [
            replace(e, role=roles.get(e.name, e.role), tied_to=tied.get(e.name, e.tied_to))
            for e in self.entries
        ]
        role_of = {entry.name: entry.role for entry in changed}
        followed = [
            e if e.tied_to is None else replace(e, role=role_of[e.tied_to]) for e in changed
        ]
        return replace(self, entries=_placed(followed))


def common_layout(layouts: Sequence[Layout]) -> Layout:
    """Return a layout in which an entry is frozen or tied only if it is so in all of the layouts.

    They must be layouts of the same arrays.
    """
    common = layouts[0]
    for layout in layouts[1:]:
        pairs = [(own, layout.by_name[own.name]) for own in common.entries]
        roles = {own.name: e.role for own, e in pairs if own.role == "frozen" != e.role}
        tied: dict[str, str | None] = {
            own.name: None for own, e in pairs if own.tied_to != e.tied_to
        }
        if roles or tied:
            common = common.with_roles(roles, tied)
    return common


def _placed(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """Return entries with their places in the flat vector: first those that had one before."""
    weights = [e for e in entries if e.role == "trainable" and e.tied_to is None]
    weights.sort(key=lambda e: math.inf if e.offset is None else e.offset)
    offsets, offset = {}, 0
    for entry in weights:
        offsets[entry.name] = offset
        offset += entry.numbers
    return tuple(replace(entry, offset=offsets.get(entry.name)) for entry in entries)
