"""Which file has which client's state, so that a checkpoint writes only those that changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import final


@final
@dataclass(frozen=True)
class Shelf:
    """Where the clients' states are.

    Every checkpoint puts the states that have changed into one new file and refers to earlier files
    for the others. Of a file that is no longer worth it, less than half of its states being the
    newest, the rest moves on to the new file: so all files together hold at most twice as many
    states as there are clients, and each state is written twice at most, on average.

    Parameters
    ----------
    places : Mapping[int, str]
        Partition -> the name of the file with its newest state.
    written : Mapping[str, int]
        File -> how many states were written to it.
    checksums : Mapping[str, str]
        File -> its checksum.
    """

    places: Mapping[int, str] = field(default_factory=dict)
    written: Mapping[str, int] = field(default_factory=dict)
    checksums: Mapping[str, str] = field(default_factory=dict)

    def due(self, changed: Collection[int]) -> list[int]:
        """The clients to write now, in order, given those whose state may have changed."""
        rest = {client: name for client, name in self.places.items() if client not in changed}
        live = Counter(rest.values())
        moving = [client for client, name in rest.items() if 2 * live[name] < self.written[name]]
        return sorted({*changed, *moving})

    def holding(self, due: Collection[int], found: Collection[int], name: str) -> Shelf:
        """The shelf once a file holds those of the clients due that were found to have a state."""
        places = {client: at for client, at in self.places.items() if client not in due}
        places |= dict.fromkeys(found, name)
        kept = set(places.values())
        written = {at: number for at, number in self.written.items() if at in kept and at != name}
        sums = {at: each for at, each in self.checksums.items() if at in written}
        return Shelf(places, written | ({name: len(found)} if found else {}), sums)

    def signed(self, name: str, checksum: str) -> Shelf:
        """The shelf with the checksum of a file."""
        return Shelf(self.places, self.written, {**self.checksums, name: checksum})
