"""Uploads that are no message: lies in the objects of which a deployment's replies consist.

Each object has the id that its bytes have, or Flower's SuperLink would not take it. What reads them
is the Grid, before any strategy: Flower's own follows them, ``GuardedGrid`` does not.
"""

from __future__ import annotations

import json

from hqde_fl.simulations.audit.row import Replies, Row, Wire
from hqde_fl.simulations.audit.tamper import WEIGHT
from hqde_fl.simulations.audit.uploads import (
    alone,
    body_of,
    kind_of,
    object_of,
    other_body,
    swapped,
    uploaded,
)

FAILED = "failed: malformed reply"
CHUNK_BYTES, TIMES = 5 << 20, 200
NESTED = 5000


def _chunks(listed: str) -> Replies:
    """An array that lists other chunks than it has."""
    new = f'"arraychunk_ids": {listed}'.encode()
    return other_body("Array", lambda body: body.replace(b'"arraychunk_ids": [0]', new))


def _repeating(wire: Wire) -> Wire:
    """One chunk of 5 MiB, listed two hundred times as the weight matrix."""
    record = next(each for each in wire.objects.values() if kind_of(each) == "ArrayRecord")
    key, chunk = object_of("ArrayChunk", [], bytes(CHUNK_BYTES))
    fields = {"dtype": "float32", "shape": [8, 6], "stype": "numpy.ndarray"}
    text = json.dumps({**fields, "arraychunk_ids": [0] * TIMES}).encode()
    found = swapped(wire, json.loads(body_of(record))[WEIGHT], object_of("Array", [key], text)[1])
    return Wire(found.root, {**found.objects, key: chunk})


def _deep(wire: Wire) -> Wire:
    """Records inside records."""
    key, content = object_of("RecordDict", [], b"{}")
    chain = {key: content}
    for _ in range(NESTED):
        key, content = object_of("RecordDict", [key], json.dumps({"x": key}).encode())
        chain[key] = content
    root, message = object_of("Message", [key], body_of(wire.objects[wire.root]))
    return Wire(root, {**chain, root: message})


ROWS = (
    Row(
        "hollow-message",
        "uploads a message with neither a content nor an error",
        FAILED,
        alone("Message", lambda body: body),
    ),
    Row(
        "array-as-message",
        "uploads an array as its message",
        FAILED,
        alone(
            "Array", lambda _: b'{"dtype": "f4", "shape": [], "stype": "x", "arraychunk_ids": []}'
        ),
    ),
    Row(
        "records-as-message",
        "uploads records as its message",
        FAILED,
        alone("RecordDict", lambda _: b"{}"),
    ),
    Row("deep-records", f"nests {NESTED:,} records", FAILED, uploaded(_deep)),
    Row(
        "deep-json",
        "nests 100,000 brackets in an array",
        FAILED,
        other_body("Array", lambda _: b"[" * 100_000),
    ),
    Row(
        "no-json",
        "writes no JSON where JSON is due",
        FAILED,
        other_body("ArrayRecord", lambda _: b"\xff\xfe"),
    ),
    Row(
        "json-of-another-kind",
        "writes a list for a table",
        FAILED,
        other_body("RecordDict", lambda _: b"[1, 2, 3]"),
    ),
    Row(
        "shape-of-text",
        "writes text for a shape",
        FAILED,
        other_body("Array", lambda body: body.replace(b"[", b'["8", ', 1)),
    ),
    Row(
        "shape-of-null",
        "writes no shape",
        FAILED,
        other_body("Array", lambda body: body.replace(b'"shape"', b'"form"')),
    ),
    Row(
        "no-protobuf",
        "writes no protobuf where protobuf is due",
        FAILED,
        other_body("MetricRecord", lambda _: b"\xff" * 64),
    ),
    Row("chunk-out-of-range", "lists a chunk that it does not have", FAILED, _chunks("[7]")),
    Row("chunk-infinity", "lists the infinitieth chunk", FAILED, _chunks("[Infinity]")),
    Row(
        "repeating-chunk",
        "makes 1 GB of a chunk of 5 MiB",
        "failed: too large",
        uploaded(_repeating),
    ),
)
