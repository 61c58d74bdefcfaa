"""The vector of integers that stands for a client's models under masks, and back.

Weights are fixed-point numbers of a few bits (``privacy/secure_sums/fixed_point.py``). Statistics
and counters, which are few, are integers of 64 bits: their change, statistics in units of 2^-32, so
that their sum over clients has no error to speak of. Frozen entries are not sent, tied ones are
their first name's. At the end are two counts: 1 if the update was clipped, and the client's number
of examples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np
import torch
from torch import Tensor

from hqde_fl.errors import SecureAggregationError
from hqde_fl.privacy.secagg import SecureAggregation
from hqde_fl.privacy.secure_sums.fixed_point import FixedPoint
from hqde_fl.privacy.secure_sums.noise import MIN_DEVIATION, TAIL, noise_share, sum_deviation
from hqde_fl.privacy.secure_sums.ring import RingVector
from hqde_fl.updates.layout import Entry, Layout, to_numbers

STATISTICS_BITS = 32
"""Bits after the point of statistics."""

MAX_CHANGE = 2.0**24
"""Largest magnitude of a change of statistics; larger ones are cut, so that sums fit in 64 bits."""

MAX_RING_BITS = 32

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
    settings : SecureAggregation
        The form of the weights, and the noise.
    clients : int
        The number of clients that have advertised keys.
    threshold : int
        The number of them that must stay.
    """

    layouts: tuple[Layout, ...]
    settings: SecureAggregation
    clients: int
    threshold: int

    @property
    def fixed_point(self) -> FixedPoint:
        """The form of the weights."""
        return self.settings.fixed_point

    @cached_property
    def noise(self) -> float:
        """The deviation of a client's noise, in integers; 0 without noise.

        ``SecureAggregationError`` is raised if it is too small for its rounding to be harmless.
        """
        if not (multiplier := self.settings.noise_multiplier):
            return 0.0
        norm = self.fixed_point.integer_norm(self.words)
        share = sum_deviation(multiplier, norm, self.words) / math.sqrt(self.threshold)
        if share < MIN_DEVIATION:
            raise SecureAggregationError(
                f"a client's noise needs a deviation of {MIN_DEVIATION:g} integers, found "
                f"{share:.3g}: choose more bits or a larger noise-multiplier"
            )
        return share

    @cached_property
    def margin(self) -> int:
        """The room that noise has above and below the sums of integers."""
        return math.ceil(TAIL * self.noise * math.sqrt(self.clients))

    @cached_property
    def bits(self) -> int:
        """The bits of a sum.

        ``SecureAggregationError`` is raised if they are more than 32.
        """
        bits = (self.clients * self.fixed_point.levels + 2 * self.margin).bit_length()
        if bits > MAX_RING_BITS:
            raise SecureAggregationError(
                f"a sum needs {bits} bits, at most {MAX_RING_BITS}: choose fewer bits or a smaller "
                "noise-multiplier"
            )
        return bits

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
        exact = np.concatenate([*wide, np.array(counts, np.int64)])
        if self.noise:  # what has no noise would tell of the data
            exact[:] = 0
        integers = exact.view(np.uint64)
        numbers = np.concatenate(words)
        if self.noise:
            noised = (numbers + noise_share(self.noise, self.words)).view(np.uint64)
            numbers = (noised & np.uint64((1 << self.bits) - 1)).astype(np.uint32)
        return RingVector(numbers, integers, self.bits)

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
        largest = clients * self.fixed_point.levels + self.margin
        sums = total.words.astype(np.int64)
        sums[sums >= (1 << self.bits) - self.margin] -= 1 << self.bits
        if sums.size and int(sums.max()) > largest:
            raise SecureAggregationError("a client has sent numbers beyond the range")
        integers = total.wide.view(np.int64)
        clipped, examples = int(integers[-2]), int(integers[-1])
        if not (0 <= clipped <= clients and 0 <= examples <= clients * MAX_EXAMPLES):
            raise SecureAggregationError("a client has sent counts beyond the range")
        deltas, others, word, place = [], [], 0, 0
        for layout, moving, before in zip(self.layouts, self._moving, sent, strict=True):
            own = sums[word : word + layout.size]
            mean = self.fixed_point.mean(own, clients, rotation)
            deltas.append(torch.from_numpy(mean).to(layout.dtype))
            word += layout.size
            values = {}
            for entry in moving:
                numbers = integers[place : place + entry.numbers]
                values[entry.name] = _changed(entry, before[entry.name], numbers / clients)
                place += entry.numbers
            others.append(values)
        return MeanOfClients(deltas, others, clipped, clients if self.noise else examples)


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
