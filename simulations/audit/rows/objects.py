"""Hostile uploads whose objects do not form a valid message.

The id of each object is the hash of its bytes: Flower's SuperLink refuses any other. The Grid reads
them before any strategy does: Flower's Grid trusts them, ``GuardedGrid`` does not.
"""

from __future__ import annotations

import json

from hqde_fl.simulations.audit.catalogue_row import CatalogueRow, Replies, UploadedReply
from hqde_fl.simulations.audit.message_changes import WEIGHT
from hqde_fl.simulations.audit.upload_changes import (
    body_of,
    encode_object,
    kind_of,
    replace_object,
    with_body,
    with_single_object,
    with_upload,
)

FAILED = "failed: malformed reply"
CHUNK_BYTES, TIMES = 5 << 20, 200
NESTED = 5000


def _chunks(ids: str) -> Replies:
    """Return a builder of an upload whose first array lists other chunks than it has.

    ``ids`` is the list of the chunks' indices as JSON.
    """
    new = f'"arraychunk_ids": {ids}'.encode()
    return with_body("Array", lambda body: body.replace(b'"arraychunk_ids": [0]', new))


def _repeating(upload: UploadedReply) -> UploadedReply:
    """Return an upload whose weight matrix is one chunk of 5 MiB that is listed 200 times."""
    record = next(data for data in upload.objects.values() if kind_of(data) == "ArrayRecord")
    key, chunk = encode_object("ArrayChunk", [], bytes(CHUNK_BYTES))
    fields = {"dtype": "float32", "shape": [8, 6], "stype": "numpy.ndarray"}
    text = json.dumps({**fields, "arraychunk_ids": [0] * TIMES}).encode()
    changed = replace_object(
        upload, json.loads(body_of(record))[WEIGHT], encode_object("Array", [key], text)[1]
    )
    return UploadedReply(changed.root, {**changed.objects, key: chunk})


def _deep(upload: UploadedReply) -> UploadedReply:
    """Return an upload whose content is a chain of 5,000 records, each nested in the next."""
    key, content = encode_object("RecordDict", [], b"{}")
    chain = {key: content}
    for _ in range(NESTED):
        key, content = encode_object("RecordDict", [key], json.dumps({"x": key}).encode())
        chain[key] = content
    root, message = encode_object("Message", [key], body_of(upload.objects[upload.root]))
    return UploadedReply(root, {**chain, root: message})


ROWS = (
    CatalogueRow(
        "hollow-message",
        "uploads a message with neither a content nor an error",
        FAILED,
        with_single_object("Message", lambda body: body),
    ),
    CatalogueRow(
        "array-as-message",
        "uploads an array as its message",
        FAILED,
        with_single_object(
            "Array", lambda _: b'{"dtype": "f4", "shape": [], "stype": "x", "arraychunk_ids": []}'
        ),
    ),
    CatalogueRow(
        "records-as-message",
        "uploads records as its message",
        FAILED,
        with_single_object("RecordDict", lambda _: b"{}"),
    ),
    CatalogueRow("deep-records", f"nests {NESTED:,} records", FAILED, with_upload(_deep)),
    CatalogueRow(
        "deep-json",
        "nests 100,000 brackets in an array",
        FAILED,
        with_body("Array", lambda _: b"[" * 100_000),
    ),
    CatalogueRow(
        "no-json",
        "writes no JSON where JSON is due",
        FAILED,
        with_body("ArrayRecord", lambda _: b"\xff\xfe"),
    ),
    CatalogueRow(
        "json-of-another-kind",
        "writes a list for a table",
        FAILED,
        with_body("RecordDict", lambda _: b"[1, 2, 3]"),
    ),
    CatalogueRow(
        "shape-of-text",
        "writes text for a shape",
        FAILED,
        with_body("Array", lambda body: body.replace(b"[", b'["8", ', 1)),
    ),
    CatalogueRow(
        "shape-of-null",
        "writes no shape",
        FAILED,
        with_body("Array", lambda body: body.replace(b'"shape"', b'"form"')),
    ),
    CatalogueRow(
        "no-protobuf",
        "writes no protobuf where protobuf is due",
        FAILED,
        with_body("MetricRecord", lambda _: b"\xff" * 64),
    ),
    CatalogueRow(
        "chunk-out-of-range", "lists a chunk that it does not have", FAILED, _chunks("[7]")
    ),
    CatalogueRow("chunk-infinity", "lists the infinitieth chunk", FAILED, _chunks("[Infinity]")),
    CatalogueRow(
        "repeating-chunk",
        "makes 1 GB of a chunk of 5 MiB",
        "failed: too large",
        with_upload(_repeating),
    ),
)
