"""Read a SuperLink's list of replies without parsing the messages and object trees in it.

Both were written by the node that sends the reply. A parsed tree of empty objects takes a hundred
times as much memory as its bytes, so only the few fields that are needed are read from the bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, final

from hqde_fl.simulations.engines.deployment.limits import ID_LENGTH, ReplyError
from hqde_fl.simulations.engines.deployment.memory_estimate import fields
from hqde_fl.simulations.engines.flower_internals import (
    ObjectTree,
    ProtoMessage,
    ProtoMetadata,
    PullAppMessagesResponse,
)

_LENGTH = 2  # protobuf's wire type of strings, bytes and messages


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
    """A message that a SuperNode has sent and whose objects can be pulled.

    Parameters
    ----------
    answers : str
        The id of the message that it answers; empty if it answers none.
    tree : bytes
        The serialised tree of the ids of its objects.
    """

    answers: str
    tree: bytes

    @property
    def root(self) -> str:
        """The id of the object at the root of the tree: the message itself; "" if it has none."""
        return _first(self.tree, _parts(self.tree, 0, len(self.tree), _ID))

    def object_ids(self, max_objects: int) -> list[str]:
        """Return the distinct object ids in ``tree``.

        ``ReplyError`` is raised if the tree has more than ``max_objects`` entries.
        """
        return object_ids(self.tree, max_objects)


def object_ids(tree: bytes, max_objects: int) -> list[str]:
    """Return the distinct object ids in a serialised ``ObjectTree``, that of its root first.

    An entry without an id, or with one that is too long, counts as an id of "".

    Raises
    ------
    ReplyError
        If the tree has more than ``max_objects`` entries; repeated ids count each time.
    """
    ids: dict[str, None] = {}
    waiting = [(0, len(tree))]  # a list instead of recursion: the tree may be deep
    entries = 1
    while waiting:
        key = ""
        for number, wire, start, end in fields(tree, *waiting.pop()):
            if number == _ID and wire == _LENGTH:
                key = _text(tree, start, end)
            elif number == _CHILDREN and wire == _LENGTH:
                entries += 1
                if entries > max_objects:
                    raise ReplyError(f"too large: more than {max_objects} objects")
                waiting.append((start, end))
        ids[key] = None
    return list(ids)


@final
@dataclass
class Announcements:
    """The messages listed in one response; takes the place of the response's protobuf class."""

    messages: list[Announced] = field(default_factory=list)

    def ParseFromString(self, data: bytes) -> None:  # noqa: N802  # protobuf's name
        """Set ``messages`` to those that a serialised ``PullAppMessagesResponse`` lists."""
        size = len(data)
        answers = [_answered_id(data, *part) for part in _parts(data, 0, size, _MESSAGES)]
        trees = [data[start:end] for start, end in _parts(data, 0, size, _TREES)]
        self.messages = [Announced(*pair) for pair in zip(answers, trees, strict=True)]


def _answered_id(data: bytes, start: int, end: int) -> str:
    """Return the id of the message that the serialised message in ``data[start:end]`` answers.

    The result is "" if it answers none.
    """
    metadata = _parts(data, start, end, _METADATA)
    return _first(data, (part for place in metadata for part in _parts(data, *place, _ANSWERS)))


def _parts(data: bytes, start: int, end: int, number: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of each value of a field of the message in ``data[start:end]``.

    ``number`` is that of the field; values that are not length-delimited are left out.
    """
    for field_number, wire, begin, stop in fields(data, start, end):
        if field_number == number and wire == _LENGTH:
            yield begin, stop


def _first(data: bytes, parts: Iterator[tuple[int, int]]) -> str:
    """Return the first of the ``parts`` (start, end) of ``data`` as a string; "" if there is none.

    The result is "" too if the part is too long to be an id.
    """
    return next((_text(data, *part) for part in parts), "")


def _text(data: bytes, start: int, end: int) -> str:
    """Return ``data[start:end]`` as a string; "" if it is too long to be an id."""
    return data[start:end].decode() if end - start <= ID_LENGTH else ""
