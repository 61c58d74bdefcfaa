"""From the objects of an honest upload to those of a bad one, in one step.

Each object has the id that its bytes have, or Flower's SuperLink would not take it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from flwr.app import Message

from hqde_fl.simulations.audit.row import Case, Replies, Wire
from hqde_fl.simulations.audit.wire import to_wire
from hqde_fl.simulations.engines.flower_internals import HEAD_BODY_DIVIDER


def uploaded(change: Callable[[Wire], Wire]) -> Replies:
    """The objects of an honest reply, changed."""

    def replies(case: Case) -> Sequence[Wire]:
        return [change(to_wire(Message(case.content, reply_to=case.message)))]

    return replies


def object_of(kind: str, children: Sequence[str], body: bytes) -> tuple[str, bytes]:
    """An object as it is uploaded, and its id."""
    content = f"{kind} {','.join(children)} {len(body)}".encode() + HEAD_BODY_DIVIDER + body
    return hashlib.sha256(content).hexdigest(), content


def first(wire: Wire, kind: str) -> tuple[str, bytes]:
    """The first object of a kind: its id and its content."""
    return next((key, each) for key, each in wire.objects.items() if kind_of(each) == kind)


def kind_of(content: bytes) -> str:
    """The type that an object's head says it has."""
    return content.split(b" ", 1)[0].decode()


def body_of(content: bytes) -> bytes:
    """An object without its head."""
    return content.split(HEAD_BODY_DIVIDER, 1)[1]


def swapped(wire: Wire, old: str, content: bytes) -> Wire:
    """Another object in place of one; whatever refers to it refers to the new one."""
    new = hashlib.sha256(content).hexdigest()
    rest = {key: each for key, each in wire.objects.items() if key != old}
    found = Wire(new if wire.root == old else wire.root, {**rest, new: content})
    for key, each in rest.items():
        if old.encode() in each:
            found = swapped(found, key, each.replace(old.encode(), new.encode()))
    return found


def other_content(kind: str, change: Callable[[bytes], bytes]) -> Replies:
    """Another object in place of the first of a kind, head and all."""

    def rewrite(wire: Wire) -> Wire:
        key, content = first(wire, kind)
        return swapped(wire, key, change(content))

    return uploaded(rewrite)


def other_body(kind: str, change: Callable[[bytes], bytes]) -> Replies:
    """Another body in the first object of a kind, its children as before."""

    def content(honest: bytes) -> bytes:
        listed = honest.split(HEAD_BODY_DIVIDER, 1)[0].decode().split(" ")[1]
        return object_of(kind, listed.split(",") if listed else [], change(body_of(honest)))[1]

    return other_content(kind, content)


def alone(kind: str, body: Callable[[bytes], bytes]) -> Replies:
    """One object, without any below it."""

    def rewrite(wire: Wire) -> Wire:
        root, content = object_of(kind, [], body(body_of(wire.objects[wire.root])))
        return Wire(root, {root: content})

    return uploaded(rewrite)


def to_field(number: int, *parts: bytes) -> bytes:
    """A protobuf field that holds other fields, text, or numbers."""
    content = b"".join(parts)
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + _varint(rest) if rest else bytes([low])
