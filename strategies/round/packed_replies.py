"""Screen packed replies in threads, in the order in which they came.

Decoding is most of the work on a packed reply. While the next replies are awaited, as many are
decoded at a time as torch may use threads; each by one thread, and all others wait for their turn,
so that a round holds no more than these few beside what it accepts, and comes to the same result.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import TypeVar

from flwr.app import ArrayRecord, Message

from hqde_fl.codec.parallel import threads
from hqde_fl.protocol.members import records_of
from hqde_fl.protocol.packed_updates import is_packed
from hqde_fl.protocol.reply_block import untouched_row
from hqde_fl.strategies.state import ModelState

T = TypeVar("T")

MIN_DECODED = 1 << 16
"""With fewer numbers, handing a reply to a thread costs more than it saves."""


def decoding_threads(models: Sequence[ModelState]) -> int:
    """Return how many replies are decoded at a time: one if these models are small."""
    return threads() if sum(model.layout.size for model in models) >= MIN_DECODED else 1


def has_packed_update(reply: Message) -> bool:
    """Return whether a reply, which is not trusted, has a content with a packed array."""
    if reply.has_error() or not reply.has_content() or untouched_row(reply) is not None:
        return False
    try:
        records = records_of(reply.content, ArrayRecord).values()
        return any(is_packed(array) for record in records for array in record.values())
    except Exception:  # screening finds the reason
        return False


def in_order(
    replies: Iterable[Message], begin: Callable[[Message], Future[T] | None], limit: int
) -> Iterator[tuple[Message, float, Future[T] | None]]:
    """Yield each reply with the time when it came and what ``begin`` made of it.

    At most ``limit`` replies are begun and not yet yielded while the next one is awaited. One that
    is done, or of which nothing was begun, does not wait for others but those before it.

    Parameters
    ----------
    replies : Iterable of Message
        The replies as they come.
    begin : Callable
        Returns the future of a reply's result, or None.
    limit : int
        At least 1.
    """
    waiting: deque[tuple[Message, float, Future[T] | None]] = deque()
    for reply in replies:
        waiting.append((reply, time.monotonic(), begin(reply)))
        del reply  # not kept while the next one is awaited
        while waiting:
            future = waiting[0][2]
            if future is not None and len(waiting) <= limit and not future.done():
                break
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()
