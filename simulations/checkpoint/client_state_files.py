"""The table of files that hold the clients' states, so that only changed states are written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import final


@final
@dataclass(frozen=True)
class Shelf:
    """A table of the files that hold the newest states of the clients.

    Every checkpoint writes the states that have changed to one new file and refers to earlier files
    for the others. If fewer than half of the states in a file are still the newest, these move to
    the new file. So all files together hold at most two states per client, and on average each
    state is written at most twice.

    Parameters
    ----------
    places : Mapping[int, str]
        Partition id -> name of the file with its client's newest state.
    written : Mapping[str, int]
        File name -> number of states that were written to the file.
    checksums : Mapping[str, str]
        File name -> checksum of the file.
    """

    places: Mapping[int, str] = field(default_factory=dict)
    written: Mapping[str, int] = field(default_factory=dict)
    checksums: Mapping[str, str] = field(default_factory=dict)

    def due(self, changed: Collection[int]) -> list[int]:
        """Return the sorted ids of the clients whose states the next file has to hold.

        These are the clients in ``changed``, whose state may have changed, and those whose newest
        state is in a file that would have fewer than half of its states still in use.
        """
        unchanged = {client: name for client, name in self.places.items() if client not in changed}
        live = Counter(unchanged.values())
        moving = [part for part, name in unchanged.items() if 2 * live[name] < self.written[name]]
        return sorted({*changed, *moving})

    def with_file(self, due: Collection[int], stateful: Collection[int], name: str) -> Shelf:
        """Return a new table in which a new file is added and files without use are left out.

        Parameters
        ----------
        due : Collection[int]
            Ids of the clients that were due to be written.
        stateful : Collection[int]
            Ids of those of them that have a state: the file holds these.
        name : str
            The name of the file.
        """
        places = {client: file for client, file in self.places.items() if client not in due}
        places |= dict.fromkeys(stateful, name)
        kept = set(places.values()) - {name}
        written = {file: number for file, number in self.written.items() if file in kept}
        checksums = {file: value for file, value in self.checksums.items() if file in written}
        return Shelf(places, written | ({name: len(stateful)} if stateful else {}), checksums)

    def with_checksum(self, name: str, checksum: str) -> Shelf:
        """Return a copy of the table with the checksum of the file ``name`` set."""
        return Shelf(self.places, self.written, {**self.checksums, name: checksum})
