"""What a SuperLink says of replies before their objects are pulled, read without parsing it.

A message and its tree of objects were written by the node that sends them. Parsed, a tree of empty
objects weighs a hundred times its bytes; here only the few fields that are needed are looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, final

from hqde_fl.simulations.engines.deployment.limits import ID_LENGTH, ReplyError
from hqde_fl.simulations.engines.deployment.weighing import fields
from hqde_fl.simulations.engines.flower_internals import (
    ObjectTree,
    ProtoMessage,
    ProtoMetadata,
    PullAppMessagesResponse,
)

_LENGTH = 2  # the wire type of whatever says its length


def _number(kind: Any, name: str) -> int:
    return int(kind.DESCRIPTOR.fields_by_name[name].number)


_MESSAGES = _number(PullAppMessagesResponse, "messages_list")
_TREES = _number(PullAppMessagesResponse, "message_object_trees")
_METADATA = _number(ProtoMessage, "metadata")
_ANSWERS = _number(ProtoMetadata, "reply_to_message_id")
_ID, _CHILDREN = _number(ObjectTree, "object_id"), _number(ObjectTree, "children")


@final
@dataclass(frozen=True)
class Announced:
    """A message that a SuperNode handed in, whose objects can be pulled.

    Parameters
    ----------
    answers : str
        The id of the message that it answers; empty if it answers none.
    tree : bytes
        The serialised tree of its objects.
    """

    answers: str
    tree: bytes

    @property
    def root(self) -> str:
        """The id of the message's own object."""
        return _first(self.tree, _parts(self.tree, 0, len(self.tree), _ID))

    def object_ids(self, most: int) -> list[str]:
        """Return the distinct ids of the tree's objects.

        Raises
        ------
        ReplyError
            If there are more than ``most``, each counted as often as it is listed.
        """
        return object_ids(self.tree, most)


def object_ids(tree: bytes, most: int) -> list[str]:
    """Return the distinct ids in a serialised tree of objects, walked without recursion.

    Raises
    ------
    ReplyError
        If there are more than ``most`` objects, each counted as often as it is listed.
    """
    found: dict[str, None] = {}
    waiting = [(0, len(tree))]
    seen = 1
    while waiting:
        key = ""
        for number, wire, start, end in fields(tree, *waiting.pop()):
            if number == _ID and wire == _LENGTH:
                key = _text(tree, start, end)
            elif number == _CHILDREN and wire == _LENGTH:
                seen += 1
                if seen > most:
                    raise ReplyError(f"too large: more than {most} objects")
                waiting.append((start, end))
        found[key] = None
    return list(found)


@final
@dataclass
class Announcements:
    """All messages of one answer; stands in for the protobuf message of the answer."""

    messages: list[Announced] = field(default_factory=list)

    def ParseFromString(self, data: bytes) -> None:  # noqa: N802  # protobuf's name
        """Read an answer."""
        size = len(data)
        answers = [_answers(data, *part) for part in _parts(data, 0, size, _MESSAGES)]
        trees = [data[start:end] for start, end in _parts(data, 0, size, _TREES)]
        self.messages = [Announced(*both) for both in zip(answers, trees, strict=True)]


def _answers(data: bytes, start: int, end: int) -> str:
    """Return the id of the message that a message answers."""
    metadata = _parts(data, start, end, _METADATA)
    return _first(data, (part for each in metadata for part in _parts(data, *each, _ANSWERS)))


def _parts(data: bytes, start: int, end: int, number: int) -> Iterator[tuple[int, int]]:
    """Yield where each value of one field of a message starts and ends."""
    for found, wire, begin, stop in fields(data, start, end):
        if found == number and wire == _LENGTH:
            yield begin, stop


def _first(data: bytes, parts: Iterator[tuple[int, int]]) -> str:
    """Return the first of some values, or an empty one: a SuperLink writes a field once."""
    return next((_text(data, *part) for part in parts), "")


def _text(data: bytes, start: int, end: int) -> str:
    """Return a value that is an id, or an empty one if it is too long for that."""
    return data[start:end].decode() if end - start <= ID_LENGTH else ""
