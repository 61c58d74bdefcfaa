"""The place of a training in its run, by which a node finds the state it kept of its client.

Flower gives a resumed run new contexts, and a node that was restarted has lost those of its run. A
record in every training message lets the node know the state of its client from its own files. The
client takes the record out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self, final

from flwr.app import ConfigRecord, Message, RecordDict

PLACE = "hqde.run-place"
"""Name of the record."""

_ID = re.compile(r"[0-9a-f]{32}")


@final
@dataclass(frozen=True)
class RunPlace:
    """The place of a training in a run that may have been resumed.

    Parameters
    ----------
    run : str
        32 hexadecimal digits that name the run, also after it was resumed.
    resumed : tuple[int, ...]
        The round after which the run went on, for each time that it was resumed; 0 if it began
        again.
    round : int
        The round of the training, from 1.
    oldest : int
        The earliest round after which the run may still have to go on.
    """

    run: str
    resumed: tuple[int, ...]
    round: int
    oldest: int

    @property
    def attempt(self) -> int:
        """The number of times that the run was resumed."""
        return len(self.resumed)

    def belongs(self, attempt: int, number: int) -> bool:
        """Return True if what an attempt did in a round is a part of this run's past.

        Parameters
        ----------
        attempt : int
            How often the run had been resumed then.
        number : int
            The round.
        """
        if attempt > self.attempt or number >= self.round:
            return False
        return number <= min(self.resumed[attempt:], default=number)

    def added_to(self, content: RecordDict) -> RecordDict:
        """Return a message's content with this place."""
        record = ConfigRecord({**vars(self), "resumed": list(self.resumed)})
        return RecordDict({**content, PLACE: record})

    @classmethod
    def taken_from(cls, message: Message) -> Self | None:
        """Take the place out of a message; None if it has none, or one that cannot be read."""
        record = message.content.config_records.get(PLACE) if message.has_content() else None
        if record is None:
            return None
        del message.content[PLACE]
        run, resumed, number, oldest = (
            record.get(key) for key in ("run", "resumed", "round", "oldest")
        )
        if not isinstance(run, str) or _ID.fullmatch(run) is None:  # it names a folder
            return None
        numbers = [number, oldest, *(resumed if isinstance(resumed, list) else ["?"])]
        if not all(type(one) is int and one >= 0 for one in numbers):
            return None
        return cls(run, tuple(resumed), number, oldest)  # type: ignore[arg-type]
