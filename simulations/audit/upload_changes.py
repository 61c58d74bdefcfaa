"""Builders of hostile uploads that change the objects of an honest upload in one way.

The id of each object is the hash of its bytes: Flower's SuperLink refuses any other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from flwr.app import Message

from hqde_fl.simulations.audit.catalogue_row import AnswerContext, Replies, UploadedReply
from hqde_fl.simulations.audit.message_objects import to_objects
from hqde_fl.simulations.engines.flower_internals import HEAD_BODY_DIVIDER


def with_upload(change: Callable[[UploadedReply], UploadedReply]) -> Replies:
    """Return a builder of an upload that ``change`` makes of an honest one."""

    def replies(case: AnswerContext) -> Sequence[UploadedReply]:
        return [change(to_objects(Message(case.content, reply_to=case.message)))]

    return replies


def encode_object(kind: str, children: Sequence[str], body: bytes) -> tuple[str, bytes]:
    """Return the id and the uploaded bytes of an object of a type, with its children's ids."""
    content = f"{kind} {','.join(children)} {len(body)}".encode() + HEAD_BODY_DIVIDER + body
    return hashlib.sha256(content).hexdigest(), content


def first_object(upload: UploadedReply, kind: str) -> tuple[str, bytes]:
    """Return the id and the bytes of an upload's first object of a type.

    ``StopIteration`` is raised if it has none.
    """
    return next((key, data) for key, data in upload.objects.items() if kind_of(data) == kind)


def kind_of(content: bytes) -> str:
    """Return the type that an object's head states."""
    return content.split(b" ", 1)[0].decode()


def body_of(content: bytes) -> bytes:
    """Return an object's bytes without its head."""
    return content.split(HEAD_BODY_DIVIDER, 1)[1]


def replace_object(upload: UploadedReply, old: str, content: bytes) -> UploadedReply:
    """Return an upload in which the object with id ``old`` is replaced by ``content``.

    The objects that refer to it are changed too, and so get new ids. The ``tree`` is left out.
    """
    new = hashlib.sha256(content).hexdigest()
    rest = {key: data for key, data in upload.objects.items() if key != old}
    changed = UploadedReply(new if upload.root == old else upload.root, {**rest, new: content})
    for key, data in rest.items():
        if old.encode() in data:
            changed = replace_object(changed, key, data.replace(old.encode(), new.encode()))
    return changed


def with_object(kind: str, change: Callable[[bytes], bytes]) -> Replies:
    """Return a builder of an upload in which the first object of a type is replaced as a whole.

    ``change`` makes the new bytes, head included, of the honest ones.
    """

    def rewrite(upload: UploadedReply) -> UploadedReply:
        key, content = first_object(upload, kind)
        return replace_object(upload, key, change(content))

    return with_upload(rewrite)


def with_body(kind: str, change: Callable[[bytes], bytes]) -> Replies:
    """Return a builder of an upload in which ``change`` makes another body of one object.

    It is the first object of type ``kind``; its head gets the right length.
    """

    def content(honest: bytes) -> bytes:
        ids = honest.split(HEAD_BODY_DIVIDER, 1)[0].decode().split(" ")[1]
        return encode_object(kind, ids.split(",") if ids else [], change(body_of(honest)))[1]

    return with_object(kind, content)


def with_single_object(kind: str, body: Callable[[bytes], bytes]) -> Replies:
    """Return a builder of an upload of a single object of type ``kind`` without children.

    ``body`` makes its body of that of the honest message.
    """

    def rewrite(upload: UploadedReply) -> UploadedReply:
        root, content = encode_object(kind, [], body(body_of(upload.objects[upload.root])))
        return UploadedReply(root, {root: content})

    return with_upload(rewrite)


def protobuf_field(number: int, *parts: bytes) -> bytes:
    """Return a length-delimited protobuf field with the given parts as its content."""
    content = b"".join(parts)
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + _varint(rest) if rest else bytes([low])
