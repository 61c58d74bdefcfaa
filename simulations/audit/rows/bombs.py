"""Hostile uploads whose parsing takes many times the memory of their bytes.

5 MB of JSON become 140 MB of Python objects, and 1 MiB of metrics more than 100 MiB. The Grid reads
them before any strategy does: Flower's Grid parses every upload, ``GuardedGrid`` estimates the
memory first. docs/hostile.md lists those that a SuperLink accepts at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping

from hqde_fl.simulations.audit.catalogue_row import CatalogueRow, Replies, UploadedReply
from hqde_fl.simulations.audit.upload_changes import (
    body_of,
    encode_object,
    first_object,
    protobuf_field,
    replace_object,
    with_body,
    with_object,
    with_upload,
)
from hqde_fl.simulations.engines.flower_internals import HEAD_BODY_DIVIDER

LARGE = "failed: too large: "
TEXT = f"{LARGE}its types, ids, names and shapes take more than"
MEMORY = f"{LARGE}reading it takes more than"
RECORDS = f"{LARGE}its metrics and configs take more than"
MALFORMED = "failed: malformed reply"
BYTES = 2 << 20
"""Bytes of JSON in the rows whose description says 2 MB."""
INTEGER = b"\x10\x02"
"""The metric value 1 in protobuf's encoding."""
RECORD_BYTES = 1_000_000
"""Bytes of metrics or configs, just below the limit of ``GuardedGrid``."""
FIELDS = {
    "dtype": '"float32"',
    "shape": "[8, 6]",
    "stype": '"numpy.ndarray"',
    "arraychunk_ids": "[0]",
}


def _filled(text: str, size: int = BYTES) -> str:
    """Return a JSON list of about ``size`` bytes that repeats a text with a comma at its end."""
    return "[" + text * (size // len(text)) + "0]"


def _described(**changes: Callable[[], str]) -> Replies:
    """Return a builder of an upload in whose first array some fields are described by other JSON.

    ``changes`` are the names of fields, old or new, with functions that return the JSON.
    """

    def body(_: bytes) -> bytes:
        return _fields({name: make() for name, make in changes.items()})

    return with_body("Array", body)


def _fields(changes: Mapping[str, str]) -> bytes:
    fields = (f'"{name}": {text}' for name, text in {**FIELDS, **changes}.items())
    return f"{{{', '.join(fields)}}}".encode()


def _table(kind: str, entry: Callable[[int, str], str], entries: int) -> Replies:
    """Return a builder of an upload whose first record of a type has many more entries.

    ``entry`` returns the JSON of an entry from its index and the id of the record's first child.
    """

    def body(honest: bytes) -> bytes:
        child = next(iter(json.loads(honest).values()))
        more = ", ".join(entry(index, child) for index in range(entries))
        return f"{honest.decode().removesuffix('}')}, {more}}}".encode()

    return with_body(kind, body)


def _head(make: Callable[[str, str], str]) -> Replies:
    """Return a builder of an upload whose record of arrays has another head.

    ``make`` returns the head from the honest one's list of children and length.
    """

    def content(honest: bytes) -> bytes:
        _, children, length = honest.split(HEAD_BODY_DIVIDER, 1)[0].decode().split(" ")
        return make(children, length).encode() + HEAD_BODY_DIVIDER + body_of(honest)

    return with_object("ArrayRecord", content)


def _unlimited(_: bytes) -> bytes:
    """Return 2 MiB of a record of arrays without the byte that ends its head."""
    return b"ArrayRecord " + b"," * BYTES


def _metric(key: bytes, value: bytes) -> bytes:
    return protobuf_field(1, protobuf_field(1, key), protobuf_field(2, value))


def _distinct(value: bytes, size: int = RECORD_BYTES) -> bytes:
    """Return as many encoded metrics as fit into ``size`` bytes: distinct names, the same value."""
    return b"".join(
        _metric(b"%05x" % i, value) for i in range(size // len(_metric(b"00000", value)))
    )


def _values(make: Callable[[], bytes], kind: str = "MetricRecord") -> Replies:
    """Return a builder of an upload with another record in place of that of the metrics.

    ``make`` returns the body of the record, whose type is ``kind``.
    """
    return with_object("MetricRecord", lambda _: encode_object(kind, [], make())[1])


def _message(make: Callable[[], bytes]) -> Replies:
    """Return a builder of an upload whose message has the body ``make()``, but the same content."""
    return with_body("Message", lambda _: make())


def _listed(upload: UploadedReply, kind: str, more: Iterable[tuple[str, bytes]]) -> UploadedReply:
    """Return an upload with objects, given as (id, bytes), added to the first record of a type."""
    key, record = first_object(upload, kind)
    names, objects = json.loads(body_of(record)), dict(upload.objects)
    for index, (child, content) in enumerate(more):
        names[f"more.{index}"], objects[child] = child, content
    children = list(dict.fromkeys(names.values()))
    body = json.dumps(names).encode()
    return replace_object(
        UploadedReply(upload.root, objects), key, encode_object(kind, children, body)[1]
    )


def _many_arrays(upload: UploadedReply) -> UploadedReply:
    """Return an upload with 100 more arrays, each described by 100 KB of JSON."""
    chunk, content = encode_object("ArrayChunk", [], b"x")
    names = (f'"{"x" * (100_000 + count)}"' for count in range(100))
    arrays = (encode_object("Array", [chunk], _fields({"dtype": name})) for name in names)
    return _listed(
        UploadedReply(upload.root, {**upload.objects, chunk: content}), "ArrayRecord", arrays
    )


def _many_records(upload: UploadedReply) -> UploadedReply:
    """Return an upload with 200 more records of metrics of 4 KB each."""
    bodies = (_metric(b"n%d" % count, INTEGER) + _distinct(INTEGER, 4000) for count in range(200))
    records = (encode_object("MetricRecord", [], body) for body in bodies)
    return _listed(upload, "RecordDict", records)


def _tree(make: Callable[[], bytes]) -> Replies:
    """Return a builder of an honest upload that is announced with another tree of objects.

    In the tree, ``make()`` follows the id of the root.
    """

    def rewrite(upload: UploadedReply) -> UploadedReply:
        return UploadedReply(
            upload.root, upload.objects, protobuf_field(1, upload.root.encode()) + make()
        )

    return with_upload(rewrite)


def _wide_tree() -> bytes:
    return b"".join(
        protobuf_field(2, protobuf_field(1, b"%064x" % count)) for count in range(20_000)
    )


def _deep_tree() -> bytes:
    tree = b""
    for count in range(2000):
        tree = protobuf_field(2, protobuf_field(1, b"%064x" % count) + tree)
    return tree


ROWS = (
    CatalogueRow(
        "shape-of-objects",
        "writes 5 MB of {}, {}, ... for a shape",
        TEXT,
        _described(shape=lambda: _filled("{}, ", 5 << 20)),
    ),
    CatalogueRow(
        "shape-of-lists",
        "writes 2 MB of lists in lists for a shape",
        TEXT,
        _described(shape=lambda: _filled("[[[[[]]]]],")),
    ),
    CatalogueRow(
        "shape-of-integers",
        "writes 2 MB of integers for a shape",
        TEXT,
        _described(shape=lambda: _filled("1234, ")),
    ),
    CatalogueRow(
        "dtype-of-objects",
        "writes 2 MB of objects in objects for a dtype",
        TEXT,
        _described(dtype=lambda: _filled('{"": {"": {}}}, ')),
    ),
    CatalogueRow(
        "dtype-of-2-MB",
        "names a dtype with 2 MB and one emoji",
        TEXT,
        _described(dtype=lambda: f'"{"x" * BYTES}\\ud83d\\ude00"'),
    ),
    CatalogueRow(
        "stype-of-lists",
        "writes 2 MB of [], [], ... for a serialisation",
        TEXT,
        _described(stype=lambda: _filled("[],")),
    ),
    CatalogueRow(
        "a-million-chunks",
        "lists its one chunk a million times",
        TEXT,
        _described(arraychunk_ids=lambda: _filled("0,")),
    ),
    CatalogueRow(
        "chunks-of-objects",
        "lists 2 MB of objects for chunks",
        TEXT,
        _described(arraychunk_ids=lambda: _filled('{"":0},')),
    ),
    CatalogueRow(
        "repeated-fields",
        "says its dtype 100,000 times",
        TEXT,
        _described(more=lambda: "0" + ', "dtype": "float32"' * 100_000),
    ),
    CatalogueRow(
        "head-of-100-KB",
        "describes an array by 100 KB of lists in lists",
        MALFORMED,
        _described(shape=lambda: _filled("[[[[[]]]]],", 100_000)),
    ),
    CatalogueRow(
        "1001-dimensions",
        "claims 1,001 dimensions",
        f"{MALFORMED}: an array of 1001 dimensions",
        _described(shape=lambda: _filled("1234,", 5000)),
    ),
    CatalogueRow(
        "digits-in-a-shape",
        "writes a dimension of 100,000 digits",
        f"{MALFORMED} (ValueError",
        _described(shape=lambda: f"[{'9' * 100_000}]"),
    ),
    CatalogueRow(
        "digits-of-a-chunk",
        "numbers a chunk with 4,000 digits",
        f"{MALFORMED} (IndexError",
        _described(arraychunk_ids=lambda: f"[{'9' * 4000}]"),
    ),
    CatalogueRow(
        "deep-2-MB",
        "nests 2 million brackets",
        TEXT,
        _described(shape=lambda: "[" * BYTES),
    ),
    CatalogueRow(
        "a-hundred-heads-of-100-KB",
        "describes a hundred arrays by 100 KB each",
        TEXT,
        with_upload(_many_arrays),
    ),
    CatalogueRow(
        "100000-names",
        "names its arrays 100,000 times",
        TEXT,
        _table("ArrayRecord", lambda count, child: f'"{count:06x}": "{child}"', 100_000),
    ),
    CatalogueRow(
        "100000-records",
        "names its records 100,000 times",
        TEXT,
        _table("RecordDict", lambda count, child: f'"{count:06x}": "{child}"', 100_000),
    ),
    CatalogueRow(
        "one-name-again-and-again",
        "names one array 100,000 times by the same name",
        TEXT,
        _table("ArrayRecord", lambda _, child: f'"x": "{child}"', 100_000),
    ),
    CatalogueRow(
        "names-of-objects",
        "names objects for arrays, in 200 KB",
        MEMORY,
        _table("ArrayRecord", lambda count, _: f'"{count:04x}": {{"": {{}}}}', 10_000),
    ),
    CatalogueRow(
        "names-in-four-bytes",
        "names an array with 200 KB and one emoji",
        "rejected: ",
        _table("ArrayRecord", lambda _, child: f'"{"x" * 200_000}\\ud83d\\ude00": "{child}"', 1),
    ),
    CatalogueRow(
        "half-a-name",
        "names a thousand arrays with half characters",
        "rejected: unknown array",
        _table("ArrayRecord", lambda count, child: f'"\\ud800{count}": "{child}"', 1000),
    ),
    CatalogueRow(
        "names-of-lists",
        "names lists for arrays",
        MALFORMED,
        _table("ArrayRecord", lambda count, _: f'"{count}": []', 1000),
    ),
    CatalogueRow(
        "50000-children",
        "lists 50,000 objects below a record",
        TEXT,
        _head(
            lambda _, length: (
                f"ArrayRecord {','.join(map('{:064x}'.format, range(50_000)))} {length}"
            )
        ),
    ),
    CatalogueRow(
        "one-child-again-and-again",
        "lists one object below a record 50,000 times",
        TEXT,
        _head(lambda some, length: f"ArrayRecord {','.join([some[:64]] * 50_000)} {length}"),
    ),
    CatalogueRow(
        "commas-for-children",
        "lists 2 million children without a name",
        TEXT,
        _head(lambda _, length: f"ArrayRecord {',' * BYTES} {length}"),
    ),
    CatalogueRow(
        "short-children",
        "lists children by two letters",
        f"{MALFORMED}: its ArrayRecord lists what is no id",
        _head(lambda _, length: f"ArrayRecord {'ab,' * 50_000} {length}"),
    ),
    CatalogueRow(
        "spaces-in-a-head",
        "writes 2 million spaces into a head",
        TEXT,
        _head(lambda some, length: f"ArrayRecord {some}{' ' * BYTES}{length}"),
    ),
    CatalogueRow(
        "digits-in-a-head",
        "claims a length of 100,000 digits",
        f"{MALFORMED}: the length of its ArrayRecord",
        _head(lambda some, _: f"ArrayRecord {some} {'9' * 100_000}"),
    ),
    CatalogueRow(
        "head-without-end",
        "sends 2 MB without the end of a head",
        f"{MALFORMED}: an object without a head",
        with_object("ArrayRecord", _unlimited),
    ),
    CatalogueRow(
        "reason-of-16-MiB",
        "uploads an error with 16 MiB of reasons",
        f"{LARGE}its message takes more than",
        _message(lambda: protobuf_field(3, protobuf_field(2, b"x" * 2**24))),
    ),
    CatalogueRow(
        "many-reasons",
        "uploads an error with 150,000 reasons",
        MEMORY,
        _message(lambda: protobuf_field(3, protobuf_field(2, b"x")) * 150_000),
    ),
    CatalogueRow(
        "records-in-a-message",
        "uploads a message that holds 500,000 empty records itself",
        MEMORY,
        _message(lambda: protobuf_field(2, protobuf_field(1) * 500_000)),
    ),
    CatalogueRow(
        "metadata-of-1-MB",
        "uploads a message with 300,000 fields that there are not",
        MEMORY,
        _message(lambda: protobuf_field(1, protobuf_field(100) * 300_000)),
    ),
    CatalogueRow(
        "metrics-of-nothing",
        "sends 500,000 empty metrics",
        MEMORY,
        _values(lambda: protobuf_field(1) * 500_000),
    ),
    CatalogueRow(
        "metrics-of-1-MB", "sends 80,000 metrics", MEMORY, _values(lambda: _distinct(INTEGER))
    ),
    CatalogueRow(
        "lists-in-metrics",
        "sends 60,000 metrics that are lists",
        MEMORY,
        _values(lambda: _distinct(protobuf_field(22, protobuf_field(1, b"\x02\x02")))),
    ),
    CatalogueRow(
        "a-million-integers",
        "sends a metric of a million small integers",
        MEMORY,
        _values(
            lambda: _metric(b"x", protobuf_field(22, protobuf_field(1, b"\x02" * RECORD_BYTES)))
        ),
    ),
    CatalogueRow(
        "integers-one-by-one",
        "sends a metric of 500,000 integers, not packed",
        MEMORY,
        _values(lambda: _metric(b"x", protobuf_field(22, b"\x08\x02" * (RECORD_BYTES // 2)))),
    ),
    CatalogueRow(
        "one-metric-again-and-again",
        "sends one metric 70,000 times by the same name",
        MEMORY,
        _values(lambda: _metric(b"x", INTEGER) * 70_000),
    ),
    CatalogueRow(
        "strings-in-a-config",
        "sends a config of 250,000 strings",
        MEMORY,
        _values(
            lambda: _metric(b"x", protobuf_field(25, protobuf_field(1, b"ab") * 250_000)),
            "ConfigRecord",
        ),
    ),
    CatalogueRow(
        "2-MB-of-metrics",
        "sends 2 MB of metrics",
        RECORDS,
        _values(lambda: _distinct(INTEGER, BYTES)),
    ),
    CatalogueRow(
        "many-records-of-metrics",
        "sends 200 records of 4 KB of metrics",
        MEMORY,
        with_upload(_many_records),
    ),
    CatalogueRow(
        "1000-metrics",
        "uploads 1,000 metrics",
        "rejected: expected at most 64 metrics",
        _values(lambda: _distinct(INTEGER, 13_000)),
    ),
    CatalogueRow(
        "wide-tree",
        "announces 20,000 objects",
        f"{LARGE}more than 256 objects",
        _tree(_wide_tree),
    ),
    CatalogueRow(
        "deep-tree",
        "announces objects in objects, 2,000 deep",
        f"{LARGE}more than 256 objects",
        _tree(_deep_tree),
    ),
    CatalogueRow(
        "empty-tree",
        "announces a million objects without a name",
        f"{LARGE}more than 256 objects",
        _tree(lambda: protobuf_field(2) * (BYTES // 2)),
    ),
    CatalogueRow(
        "evaluation-of-lists",
        "reports 60,000 metrics that are lists",
        MEMORY,
        _values(lambda: _distinct(protobuf_field(22, protobuf_field(1, b"\x02\x02")))),
        request="evaluate",
    ),
)
