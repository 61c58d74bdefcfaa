"""Replies are read lazily, again if someone must, and once without being kept."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

from hqde_fl.protocol.replies import Replies, read_once


class Reply:
    """Stands for a message."""

    def __init__(self, number: int) -> None:
        self.number = number


def numbered(count: int, asked: list[int]) -> Iterator[Any]:
    for number in range(count):
        asked.append(number)
        yield Reply(number)


def test_replies_are_made_when_they_are_asked_for_and_can_be_read_again() -> None:
    asked: list[int] = []
    replies: Any = Replies(numbered(3, asked))
    assert asked == []
    first = iter(replies)
    next(first)
    assert asked == [0]
    again = list(replies)
    assert [reply.number for reply in again] == [0, 1, 2]
    assert [*first] == again[1:]
    assert asked == [0, 1, 2]


def test_replies_that_are_read_once_are_not_kept() -> None:
    replies: Any = Replies(numbered(3, []))
    stream = read_once(replies)
    alive = weakref.ref(next(stream))
    assert alive() is None
    assert len(list(stream)) == 2
    assert list(replies) == []


def test_what_was_read_before_comes_first() -> None:
    replies: Any = Replies(numbered(3, []))
    first = next(iter(replies))
    assert next(read_once(replies)) is first
    assert [*read_once([first, first])] == [first, first]
