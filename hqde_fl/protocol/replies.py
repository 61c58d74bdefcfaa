"""The replies of a round, which clients send while they are read.

A Strategy of Flower may read the replies that it is given several times, so that they are kept.
Whoever reads them once says so by ``read_once``: then each can be dropped before the next client
trains, and a round needs no memory for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import final

from flwr.app import Message


@final
class Replies:
    """Replies that are taken from an iterator as they are asked for, and kept for a second reading.

    Parameters
    ----------
    source : Iterator[Message]
        Yields the replies as they come.
    """

    def __init__(self, source: Iterator[Message]) -> None:
        self._source = source
        self._kept: list[Message] = []

    def __iter__(self) -> Iterator[Message]:
        place = 0
        while True:
            if place == len(self._kept):
                reply = next(self._source, None)
                if reply is None:
                    return
                self._kept.append(reply)
            yield self._kept[place]
            place += 1

    def once(self) -> Iterator[Message]:
        """Yield the replies without keeping them; nobody can read them afterwards."""
        kept, self._kept = self._kept[::-1], []
        while kept:
            yield kept.pop()
        yield from self._source


def read_once(replies: Iterable[Message]) -> Iterator[Message]:
    """Return an iterator over replies that keeps none of them, if they are ``Replies``."""
    return replies.once() if isinstance(replies, Replies) else iter(replies)
