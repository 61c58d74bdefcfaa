"""Uploads whose parsing takes many times the memory of their bytes.

5 MB of JSON become 140 MB of Python objects, and 1 MiB of metrics more than 100 MiB. What reads
them is the Grid, before any strategy: Flower's own parses whatever it is sent, ``GuardedGrid``
weighs it first. docs/hostile.md says which of them a SuperLink takes at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping

from hqde_fl.simulations.audit.row import Replies, Row, Wire
from hqde_fl.simulations.audit.uploads import (
    body_of,
    first,
    object_of,
    other_body,
    other_content,
    swapped,
    to_field,
    uploaded,
)
from hqde_fl.simulations.engines.flower_internals import HEAD_BODY_DIVIDER

LARGE = "failed: too large: "
TEXT = f"{LARGE}its types, ids, names and shapes take more than"
MEMORY = f"{LARGE}reading it takes more than"
RECORDS = f"{LARGE}its metrics and configs take more than"
MALFORMED = "failed: malformed reply"
BYTES = 2 << 20
"""Of JSON, in the rows that say 2 MB."""
INTEGER = b"\x10\x02"
"""The value of a metric, as protobuf writes it: 1."""
RECORD_BYTES = 1_000_000
"""Of metrics or configs, just below what ``GuardedGrid`` reads of them."""
FIELDS = {
    "dtype": '"float32"',
    "shape": "[8, 6]",
    "stype": '"numpy.ndarray"',
    "arraychunk_ids": "[0]",
}


def _filled(text: str, size: int = BYTES) -> str:
    """A list of the same values over and over."""
    return "[" + text * (size // len(text)) + "0]"


def _described(**changes: Callable[[], str]) -> Replies:
    """An array with JSON of a client's own making in place of a field."""

    def body(_: bytes) -> bytes:
        return _fields({name: make() for name, make in changes.items()})

    return other_body("Array", body)


def _fields(changes: Mapping[str, str]) -> bytes:
    fields = (f'"{name}": {text}' for name, text in {**FIELDS, **changes}.items())
    return f"{{{', '.join(fields)}}}".encode()


def _table(kind: str, entry: Callable[[int, str], str], entries: int) -> Replies:
    """A record with more entries, of a client's own making; what is in it it still has."""

    def body(honest: bytes) -> bytes:
        child = next(iter(json.loads(honest).values()))
        more = ", ".join(entry(count, child) for count in range(entries))
        return f"{honest.decode().removesuffix('}')}, {more}}}".encode()

    return other_body(kind, body)


def _head(make: Callable[[str, str], str]) -> Replies:
    """The record of arrays behind another head, made from its children and its length."""

    def content(honest: bytes) -> bytes:
        _, children, length = honest.split(HEAD_BODY_DIVIDER, 1)[0].decode().split(" ")
        return make(children, length).encode() + HEAD_BODY_DIVIDER + body_of(honest)

    return other_content("ArrayRecord", content)


def _made_up(count: int) -> str:
    """Ids of children that there are not."""
    return ",".join(f"{each:064x}" for each in range(count))


def _unlimited(_: bytes) -> bytes:
    """A record of arrays without the byte that ends its head."""
    return b"ArrayRecord " + b"," * BYTES


def _metric(key: bytes, value: bytes) -> bytes:
    return to_field(1, to_field(1, key), to_field(2, value))


def _distinct(value: bytes, size: int = RECORD_BYTES) -> bytes:
    """As many metrics of one value, with names of their own, as fit."""
    return b"".join(
        _metric(b"%05x" % i, value) for i in range(size // len(_metric(b"00000", value)))
    )


def _values(make: Callable[[], bytes], kind: str = "MetricRecord") -> Replies:
    """Another record in place of the metrics, or a config."""
    return other_content("MetricRecord", lambda _: object_of(kind, [], make())[1])


def _message(make: Callable[[], bytes]) -> Replies:
    """Another body of the message, its content as before."""
    return other_body("Message", lambda _: make())


def _listed(wire: Wire, kind: str, more: Iterable[tuple[str, bytes]]) -> Wire:
    """More objects in the first record of a kind."""
    key, record = first(wire, kind)
    names, objects = json.loads(body_of(record)), dict(wire.objects)
    for count, (child, content) in enumerate(more):
        names[f"more.{count}"], objects[child] = child, content
    children = list(dict.fromkeys(names.values()))
    body = json.dumps(names).encode()
    return swapped(Wire(wire.root, objects), key, object_of(kind, children, body)[1])


def _many_arrays(wire: Wire) -> Wire:
    """More arrays, each described by 100 KB of JSON."""
    chunk, content = object_of("ArrayChunk", [], b"x")
    names = (f'"{"x" * (100_000 + count)}"' for count in range(100))
    arrays = (object_of("Array", [chunk], _fields({"dtype": name})) for name in names)
    return _listed(Wire(wire.root, {**wire.objects, chunk: content}), "ArrayRecord", arrays)


def _many_records(wire: Wire) -> Wire:
    """More records of metrics, each of 4 KB."""
    bodies = (_metric(b"n%d" % count, INTEGER) + _distinct(INTEGER, 4000) for count in range(200))
    records = (object_of("MetricRecord", [], body) for body in bodies)
    return _listed(wire, "RecordDict", records)


def _tree(make: Callable[[], bytes]) -> Replies:
    """An honest upload, announced with another tree of objects."""

    def rewrite(wire: Wire) -> Wire:
        return Wire(wire.root, wire.objects, to_field(1, wire.root.encode()) + make())

    return uploaded(rewrite)


def _wide_tree() -> bytes:
    return b"".join(to_field(2, to_field(1, b"%064x" % count)) for count in range(20_000))


def _deep_tree() -> bytes:
    tree = b""
    for count in range(2000):
        tree = to_field(2, to_field(1, b"%064x" % count) + tree)
    return tree


ROWS = (
    Row(
        "shape-of-objects",
        "writes 5 MB of {}, {}, ... for a shape",
        TEXT,
        _described(shape=lambda: _filled("{}, ", 5 << 20)),
    ),
    Row(
        "shape-of-lists",
        "writes 2 MB of lists in lists for a shape",
        TEXT,
        _described(shape=lambda: _filled("[[[[[]]]]],")),
    ),
    Row(
        "shape-of-integers",
        "writes 2 MB of integers for a shape",
        TEXT,
        _described(shape=lambda: _filled("1234, ")),
    ),
    Row(
        "dtype-of-objects",
        "writes 2 MB of objects in objects for a dtype",
        TEXT,
        _described(dtype=lambda: _filled('{"": {"": {}}}, ')),
    ),
    Row(
        "dtype-of-2-MB",
        "names a dtype with 2 MB and one emoji",
        TEXT,
        _described(dtype=lambda: f'"{"x" * BYTES}\\ud83d\\ude00"'),
    ),
    Row(
        "stype-of-lists",
        "writes 2 MB of [], [], ... for a serialisation",
        TEXT,
        _described(stype=lambda: _filled("[],")),
    ),
    Row(
        "a-million-chunks",
        "lists its one chunk a million times",
        TEXT,
        _described(arraychunk_ids=lambda: _filled("0,")),
    ),
    Row(
        "chunks-of-objects",
        "lists 2 MB of objects for chunks",
        TEXT,
        _described(arraychunk_ids=lambda: _filled('{"":0},')),
    ),
    Row(
        "repeated-fields",
        "says its dtype 100,000 times",
        TEXT,
        _described(more=lambda: "0" + ', "dtype": "float32"' * 100_000),
    ),
    Row(
        "head-of-100-KB",
        "describes an array by 100 KB of lists in lists",
        MALFORMED,
        _described(shape=lambda: _filled("[[[[[]]]]],", 100_000)),
    ),
    Row(
        "1001-dimensions",
        "claims 1,001 dimensions",
        f"{MALFORMED}: an array of 1001 dimensions",
        _described(shape=lambda: _filled("1234,", 5000)),
    ),
    Row(
        "digits-in-a-shape",
        "writes a dimension of 100,000 digits",
        f"{MALFORMED} (ValueError",
        _described(shape=lambda: f"[{'9' * 100_000}]"),
    ),
    Row(
        "digits-of-a-chunk",
        "numbers a chunk with 4,000 digits",
        f"{MALFORMED} (IndexError",
        _described(arraychunk_ids=lambda: f"[{'9' * 4000}]"),
    ),
    Row(
        "deep-2-MB",
        "nests 2 million brackets",
        TEXT,
        _described(shape=lambda: "[" * BYTES),
    ),
    Row(
        "a-hundred-heads-of-100-KB",
        "describes a hundred arrays by 100 KB each",
        TEXT,
        uploaded(_many_arrays),
    ),
    Row(
        "100000-names",
        "names its arrays 100,000 times",
        TEXT,
        _table("ArrayRecord", lambda count, child: f'"{count:06x}": "{child}"', 100_000),
    ),
    Row(
        "100000-records",
        "names its records 100,000 times",
        TEXT,
        _table("RecordDict", lambda count, child: f'"{count:06x}": "{child}"', 100_000),
    ),
    Row(
        "one-name-again-and-again",
        "names one array 100,000 times by the same name",
        TEXT,
        _table("ArrayRecord", lambda _, child: f'"x": "{child}"', 100_000),
    ),
    Row(
        "names-of-objects",
        "names objects for arrays, in 200 KB",
        MEMORY,
        _table("ArrayRecord", lambda count, _: f'"{count:04x}": {{"": {{}}}}', 10_000),
    ),
    Row(
        "names-in-four-bytes",
        "names an array with 200 KB and one emoji",
        "rejected: ",
        _table("ArrayRecord", lambda _, child: f'"{"x" * 200_000}\\ud83d\\ude00": "{child}"', 1),
    ),
    Row(
        "half-a-name",
        "names a thousand arrays with half characters",
        "rejected: unknown array",
        _table("ArrayRecord", lambda count, child: f'"\\ud800{count}": "{child}"', 1000),
    ),
    Row(
        "names-of-lists",
        "names lists for arrays",
        MALFORMED,
        _table("ArrayRecord", lambda count, _: f'"{count}": []', 1000),
    ),
    Row(
        "50000-children",
        "lists 50,000 objects below a record",
        TEXT,
        _head(
            lambda _, length: (
                f"ArrayRecord {','.join(map('{:064x}'.format, range(50_000)))} {length}"
            )
        ),
    ),
    Row(
        "one-child-again-and-again",
        "lists one object below a record 50,000 times",
        TEXT,
        _head(lambda some, length: f"ArrayRecord {','.join([some[:64]] * 50_000)} {length}"),
    ),
    Row(
        "commas-for-children",
        "lists 2 million children without a name",
        TEXT,
        _head(lambda _, length: f"ArrayRecord {',' * BYTES} {length}"),
    ),
    Row(
        "short-children",
        "lists children by two letters",
        f"{MALFORMED}: its ArrayRecord lists what is no id",
        _head(lambda _, length: f"ArrayRecord {'ab,' * 50_000} {length}"),
    ),
    Row(
        "spaces-in-a-head",
        "writes 2 million spaces into a head",
        TEXT,
        _head(lambda some, length: f"ArrayRecord {some}{' ' * BYTES}{length}"),
    ),
    Row(
        "digits-in-a-head",
        "claims a length of 100,000 digits",
        f"{MALFORMED}: the length of its ArrayRecord",
        _head(lambda some, _: f"ArrayRecord {some} {'9' * 100_000}"),
    ),
    Row(
        "head-without-end",
        "sends 2 MB without the end of a head",
        f"{MALFORMED}: an object without a head",
        other_content("ArrayRecord", _unlimited),
    ),
    Row(
        "reason-of-16-MiB",
        "uploads an error with 16 MiB of reasons",
        f"{LARGE}its message takes more than",
        _message(lambda: to_field(3, to_field(2, b"x" * 2**24))),
    ),
    Row(
        "many-reasons",
        "uploads an error with 150,000 reasons",
        MEMORY,
        _message(lambda: to_field(3, to_field(2, b"x")) * 150_000),
    ),
    Row(
        "records-in-a-message",
        "uploads a message that holds 500,000 empty records itself",
        MEMORY,
        _message(lambda: to_field(2, to_field(1) * 500_000)),
    ),
    Row(
        "metadata-of-1-MB",
        "uploads a message with 300,000 fields that there are not",
        MEMORY,
        _message(lambda: to_field(1, to_field(100) * 300_000)),
    ),
    Row(
        "metrics-of-nothing",
        "sends 500,000 empty metrics",
        MEMORY,
        _values(lambda: to_field(1) * 500_000),
    ),
    Row("metrics-of-1-MB", "sends 80,000 metrics", MEMORY, _values(lambda: _distinct(INTEGER))),
    Row(
        "lists-in-metrics",
        "sends 60,000 metrics that are lists",
        MEMORY,
        _values(lambda: _distinct(to_field(22, to_field(1, b"\x02\x02")))),
    ),
    Row(
        "a-million-integers",
        "sends a metric of a million small integers",
        MEMORY,
        _values(lambda: _metric(b"x", to_field(22, to_field(1, b"\x02" * RECORD_BYTES)))),
    ),
    Row(
        "integers-one-by-one",
        "sends a metric of 500,000 integers, not packed",
        MEMORY,
        _values(lambda: _metric(b"x", to_field(22, b"\x08\x02" * (RECORD_BYTES // 2)))),
    ),
    Row(
        "one-metric-again-and-again",
        "sends one metric 70,000 times by the same name",
        MEMORY,
        _values(lambda: _metric(b"x", INTEGER) * 70_000),
    ),
    Row(
        "strings-in-a-config",
        "sends a config of 250,000 strings",
        MEMORY,
        _values(lambda: _metric(b"x", to_field(25, to_field(1, b"ab") * 250_000)), "ConfigRecord"),
    ),
    Row(
        "2-MB-of-metrics",
        "sends 2 MB of metrics",
        RECORDS,
        _values(lambda: _distinct(INTEGER, BYTES)),
    ),
    Row(
        "many-records-of-metrics",
        "sends 200 records of 4 KB of metrics",
        MEMORY,
        uploaded(_many_records),
    ),
    Row(
        "1000-metrics",
        "uploads 1,000 metrics",
        "rejected: expected at most 64 metrics",
        _values(lambda: _distinct(INTEGER, 13_000)),
    ),
    Row(
        "wide-tree",
        "announces 20,000 objects",
        f"{LARGE}more than 256 objects",
        _tree(_wide_tree),
    ),
    Row(
        "deep-tree",
        "announces objects in objects, 2,000 deep",
        f"{LARGE}more than 256 objects",
        _tree(_deep_tree),
    ),
    Row(
        "empty-tree",
        "announces a million objects without a name",
        f"{LARGE}more than 256 objects",
        _tree(lambda: to_field(2) * (BYTES // 2)),
    ),
    Row(
        "evaluation-of-lists",
        "reports 60,000 metrics that are lists",
        MEMORY,
        _values(lambda: _distinct(to_field(22, to_field(1, b"\x02\x02")))),
        asked="evaluate",
    ),
)
