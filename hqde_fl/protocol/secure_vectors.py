"""The vector of integers that stands for a client's models under masks, and back.

Weights are fixed-point numbers of a few bits (``privacy/secure_sums/fixed_point.py``). Statistics
and counters, which are few, are integers of 64 bits: their change, statistics in units of 2^-32, so
that their sum over clients has no error to speak of. Frozen entries are not sent, tied ones are
their first name's. At the end are two counts: 1 if the update was clipped, and the client's number
of examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np
import torch
from torch import Tensor

from hqde_fl.errors import SecureAggregationError
from hqde_fl.privacy.secure_sums.fixed_point import FixedPoint
from hqde_fl.privacy.secure_sums.ring import RingVector
from hqde_fl.updates.layout import Entry, Layout, to_numbers

STATISTICS_BITS = 32
"""Bits after the point of statistics."""

MAX_CHANGE = 2.0**24
"""Largest magnitude of a change of statistics; larger ones are cut, so that sums fit in 64 bits."""

MAX_EXAMPLES = 1_000_000_000
COUNTS = 2

State = Mapping[str, Tensor]


@final
@dataclass(frozen=True)
class ClientVector:
    """The form in which the models of one client are added to those of others.

    Parameters
    ----------
    layouts : tuple[Layout, ...]
        The layouts of the members that the client trains.
    fixed_point : FixedPoint
        The form of the weights.
    bits : int
        Bits of a sum.
    """

    layouts: tuple[Layout, ...]
    fixed_point: FixedPoint
    bits: int

    @property
    def words(self) -> int:
        """The number of weights."""
        return sum(layout.size for layout in self.layouts)

    @property
    def wide(self) -> int:
        """The number of integers of 64 bits."""
        return sum(e.numbers for part in self._moving for e in part) + COUNTS

    @cached_property
    def _moving(self) -> list[list[Entry]]:
        """The statistics and counters of each member."""
        return [[e for e in layout.others if e.role != "frozen"] for layout in self.layouts]

    def encode(
        self,
        sent: Sequence[State],
        trained: Sequence[State],
        examples: int,
        rotation: int,
        rng: np.random.Generator,
    ) -> RingVector:
        """Return the vector of a client.

        Parameters
        ----------
        sent, trained : Sequence[State]
            State dict of each member, as it was sent and as it was trained.
        examples : int
            The client's number of examples.
        rotation : int
            Seed of the rotation of the weights.
        rng : Generator
            For rounding.

        Raises
        ------
        SecureAggregationError
            If a number is not finite: nobody else could see it.
        """
        words, wide, clipped = [], [], False
        pairs = zip(self.layouts, self._moving, sent, trained, strict=True)
        for layout, moving, before, after in pairs:
            delta = (layout.flatten(after)[0] - layout.flatten(before)[0]).double().numpy()
            if not np.isfinite(delta).all():
                raise SecureAggregationError("an update that is not finite cannot be masked")
            encoded, too_long = self.fixed_point.encode(delta, rotation, rng)
            words.append(encoded)
            clipped |= too_long
            wide += [_change(entry, before[entry.name], after[entry.name]) for entry in moving]
        counts = [int(clipped), min(max(examples, 0), MAX_EXAMPLES)]
        integers = np.concatenate([*wide, np.array(counts, np.int64)])
        return RingVector(np.concatenate(words), integers.view(np.uint64), self.bits)

    def decode(
        self, total: RingVector, clients: int, sent: Sequence[State], rotation: int
    ) -> MeanOfClients:
        """Return what the sum over some clients tells.

        Parameters
        ----------
        total : RingVector
            The sum.
        clients : int
            The number of clients in it.
        sent : Sequence[State]
            Statistics and counters of each member, as they were sent.
        rotation : int
            Seed of the rotation of the weights.

        Raises
        ------
        SecureAggregationError
            If it cannot be the sum of so many clients: one of them went beyond the range.
        """
        largest = clients * self.fixed_point.levels
        if total.words.size and int(total.words.max()) > largest:
            raise SecureAggregationError("a client has sent numbers beyond the range")
        integers = total.wide.view(np.int64)
        clipped, examples = int(integers[-2]), int(integers[-1])
        if not (0 <= clipped <= clients and 0 <= examples <= clients * MAX_EXAMPLES):
            raise SecureAggregationError("a client has sent counts beyond the range")
        deltas, others, word, place = [], [], 0, 0
        for layout, moving, before in zip(self.layouts, self._moving, sent, strict=True):
            words = total.words[word : word + layout.size]
            mean = self.fixed_point.mean(words, clients, rotation)
            deltas.append(torch.from_numpy(mean).to(layout.dtype))
            word += layout.size
            values = {}
            for entry in moving:
                numbers = integers[place : place + entry.numbers]
                values[entry.name] = _changed(entry, before[entry.name], numbers / clients)
                place += entry.numbers
            others.append(values)
        return MeanOfClients(deltas, others, clipped, examples)


@final
@dataclass(frozen=True, eq=False)
class MeanOfClients:
    """The mean of some clients' models.

    Parameters
    ----------
    deltas : list[Tensor]
        (d,) the mean update of each member.
    others : list[dict[str, Tensor]]
        The mean statistics and counters of each member, by name.
    clipped : int
        The number of clients whose update was clipped.
    examples : int
        The number of examples of all of them.
    """

    deltas: list[Tensor]
    others: list[dict[str, Tensor]]
    clipped: int
    examples: int


def _change(entry: Entry, before: Tensor, after: Tensor) -> np.ndarray:
    """Return the change of statistics or counters as integers."""
    if entry.role == "counters":
        difference = after.to(torch.int64) - before.to(torch.int64)
        integers: np.ndarray = to_numbers(difference).numpy()
        return integers
    change = (to_numbers(after).double() - to_numbers(before).double()).numpy()
    if not np.isfinite(change).all():
        raise SecureAggregationError(f"{entry.name!r} is not finite and cannot be masked")
    bounded = np.clip(change, -MAX_CHANGE, MAX_CHANGE)
    scaled: np.ndarray = np.rint(bounded * 2.0**STATISTICS_BITS).astype(np.int64)
    return scaled


def _changed(entry: Entry, before: Tensor, mean: np.ndarray) -> Tensor:
    """Return statistics or counters after the mean change of some clients."""
    if entry.role == "counters":
        moved = to_numbers(before).to(torch.int64) + torch.from_numpy(np.rint(mean)).to(torch.int64)
        return moved.reshape(before.shape).to(before.dtype)
    moved = to_numbers(before).double() + torch.from_numpy(mean * 2.0**-STATISTICS_BITS)
    if entry.is_variance and bool((moved < 0).any()):
        moved = moved.clamp(min=0.0)
    return entry.from_numbers(moved)
