"""Uploads that are no message: lies in the objects of which a deployment's replies consist.

Each object has the id that its bytes have, or Flower's SuperLink would not take it. What reads them
is the Grid, before any strategy: Flower's own follows them, ``GuardedGrid`` does not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence

from flwr.app import Message
from flwr.supercore.constant import HEAD_BODY_DIVIDER

from simulations.audit.row import Case, Replies, Row, Wire
from simulations.audit.tamper import WEIGHT
from simulations.audit.wire import to_wire

FAILED = "failed: malformed reply"
CHUNK_BYTES, TIMES = 5 << 20, 200
NESTED = 5000


def _uploaded(change: Callable[[Wire], Wire]) -> Replies:
    """The objects of an honest reply, changed."""

    def replies(case: Case) -> Sequence[Wire]:
        return [change(to_wire(Message(case.content, reply_to=case.message)))]

    return replies


def _object(kind: str, children: Sequence[str], body: bytes) -> tuple[str, bytes]:
    """An object as it is uploaded, and its id."""
    content = f"{kind} {','.join(children)} {len(body)}".encode() + HEAD_BODY_DIVIDER + body
    return hashlib.sha256(content).hexdigest(), content


def _kind(content: bytes) -> str:
    return content.split(b" ", 1)[0].decode()


def _body(content: bytes) -> bytes:
    return content.split(HEAD_BODY_DIVIDER, 1)[1]


def _swapped(wire: Wire, old: str, content: bytes) -> Wire:
    """Another object in place of one; whatever refers to it refers to the new one."""
    new = hashlib.sha256(content).hexdigest()
    rest = {key: each for key, each in wire.objects.items() if key != old}
    found = Wire(new if wire.root == old else wire.root, {**rest, new: content})
    for key, each in rest.items():
        if old.encode() in each:
            found = _swapped(found, key, each.replace(old.encode(), new.encode()))
    return found


def _other_body(kind: str, change: Callable[[bytes], bytes]) -> Replies:
    """Another body in the first object of a kind, its children as before."""

    def rewrite(wire: Wire) -> Wire:
        key = next(key for key, content in wire.objects.items() if _kind(content) == kind)
        head = wire.objects[key].split(HEAD_BODY_DIVIDER, 1)[0].decode()
        children = [child for child in head.split(" ")[1].split(",") if child]
        return _swapped(wire, key, _object(kind, children, change(_body(wire.objects[key])))[1])

    return _uploaded(rewrite)


def _chunks(listed: str) -> Replies:
    """An array that lists other chunks than it has."""
    new = f'"arraychunk_ids": {listed}'.encode()
    return _other_body("Array", lambda body: body.replace(b'"arraychunk_ids": [0]', new))


def _repeating(wire: Wire) -> Wire:
    """One chunk of 5 MiB, listed two hundred times as the weight matrix."""
    record = next(each for each in wire.objects.values() if _kind(each) == "ArrayRecord")
    key, chunk = _object("ArrayChunk", [], bytes(CHUNK_BYTES))
    fields = {"dtype": "float32", "shape": [8, 6], "stype": "numpy.ndarray"}
    text = json.dumps({**fields, "arraychunk_ids": [0] * TIMES}).encode()
    found = _swapped(wire, json.loads(_body(record))[WEIGHT], _object("Array", [key], text)[1])
    return Wire(found.root, {**found.objects, key: chunk})


def _deep(wire: Wire) -> Wire:
    """Records inside records."""
    key, content = _object("RecordDict", [], b"{}")
    chain = {key: content}
    for _ in range(NESTED):
        key, content = _object("RecordDict", [key], json.dumps({"x": key}).encode())
        chain[key] = content
    root, message = _object("Message", [key], _body(wire.objects[wire.root]))
    return Wire(root, {**chain, root: message})


def _alone(kind: str, body: Callable[[bytes], bytes]) -> Replies:
    """One object, without any below it."""

    def rewrite(wire: Wire) -> Wire:
        root, content = _object(kind, [], body(_body(wire.objects[wire.root])))
        return Wire(root, {root: content})

    return _uploaded(rewrite)


ROWS = (
    Row(
        "hollow-message",
        "uploads a message with neither a content nor an error",
        FAILED,
        _alone("Message", lambda body: body),
    ),
    Row(
        "array-as-message",
        "uploads an array as its message",
        FAILED,
        _alone(
            "Array", lambda _: b'{"dtype": "f4", "shape": [], "stype": "x", "arraychunk_ids": []}'
        ),
    ),
    Row(
        "records-as-message",
        "uploads records as its message",
        FAILED,
        _alone("RecordDict", lambda _: b"{}"),
    ),
    Row("deep-records", f"nests {NESTED:,} records", FAILED, _uploaded(_deep)),
    Row(
        "deep-json",
        "nests 100,000 brackets in an array",
        FAILED,
        _other_body("Array", lambda _: b"[" * 100_000),
    ),
    Row(
        "no-json",
        "writes no JSON where JSON is due",
        FAILED,
        _other_body("ArrayRecord", lambda _: b"\xff\xfe"),
    ),
    Row(
        "json-of-another-kind",
        "writes a list for a table",
        FAILED,
        _other_body("RecordDict", lambda _: b"[1, 2, 3]"),
    ),
    Row(
        "shape-of-text",
        "writes text for a shape",
        FAILED,
        _other_body("Array", lambda body: body.replace(b"[", b'["8", ', 1)),
    ),
    Row(
        "shape-of-null",
        "writes no shape",
        FAILED,
        _other_body("Array", lambda body: body.replace(b'"shape"', b'"form"')),
    ),
    Row(
        "no-protobuf",
        "writes no protobuf where protobuf is due",
        FAILED,
        _other_body("MetricRecord", lambda _: b"\xff" * 64),
    ),
    Row("chunk-out-of-range", "lists a chunk that it does not have", FAILED, _chunks("[7]")),
    Row("chunk-infinity", "lists the infinitieth chunk", FAILED, _chunks("[Infinity]")),
    Row(
        "repeating-chunk",
        "makes 1 GB of a chunk of 5 MiB",
        "failed: too large",
        _uploaded(_repeating),
    ),
)
