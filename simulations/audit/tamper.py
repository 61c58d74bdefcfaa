"""From an honest answer to a bad one, in one step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, Metadata, MetricRecord, RecordDict
from numpy.typing import NDArray

from hqde_fl.protocol.flower_internals import make_message
from hqde_fl.simulations.audit.row import Case, Replies

ARRAYS, METRICS = "arrays", "metrics"
WEIGHT, BIAS, STEPS = "layer.weight", "layer.bias", "steps"
"""The audited model's arrays: a matrix and a vector of float32, and an integer counter."""
NUMPY = "numpy.ndarray"

Record = ArrayRecord | MetricRecord | ConfigRecord
Values = NDArray[np.float32]


def answer(change: Callable[[RecordDict], RecordDict]) -> Replies:
    """One reply, with a changed content."""

    def replies(case: Case) -> Sequence[Message]:
        return [Message(change(case.content), reply_to=case.message)]

    return replies


def array(name: str, make: Callable[[Array], Array]) -> Replies:
    """Another array in place of one."""

    def change(content: RecordDict) -> RecordDict:
        record = content.array_records[ARRAYS]
        record[name] = make(record[name])
        return content

    return answer(change)


def weight(change: Callable[[Values], NDArray[Any]]) -> Replies:
    """The weight matrix with other values, sent as Flower would send them."""
    return array(WEIGHT, lambda honest: Array(change(honest.numpy().astype(np.float32))))


def every(change: Callable[[Values], NDArray[Any]]) -> Replies:
    """All float arrays with other values."""
    return answer(lambda content: rewritten(content, change))


def rewritten(content: RecordDict, change: Callable[[Values], NDArray[Any]]) -> RecordDict:
    """A content whose float arrays have other values."""
    record = content.array_records[ARRAYS]
    for name in (WEIGHT, BIAS):
        record[name] = Array(change(record[name].numpy().astype(np.float32)))
    return content


def leaning(content: RecordDict) -> RecordDict:
    """Weights that are off by 0.2: too little for harm, unless they count for more than one."""
    return rewritten(content, lambda values: values + np.float32(0.2))


def lying(**claims: Any) -> Replies:
    """The weight matrix with another dtype, shape, stype or data than it has."""

    def make(honest: Array) -> Array:
        fields = {
            "dtype": honest.dtype,
            "shape": honest.shape,
            "stype": honest.stype,
            "data": honest.data,
        }
        return Array(**{**fields, **claims})

    return array(WEIGHT, make)


def data(change: Callable[[bytes], bytes]) -> Replies:
    """The weight matrix with other bytes."""
    return array(WEIGHT, lambda a: Array(a.dtype, a.shape, a.stype, change(a.data)))


def header(text: str) -> Replies:
    """The weight matrix with another .npy header, well-formed in its length."""

    def change(honest: bytes) -> bytes:
        start = 10 + int.from_bytes(honest[8:10], "little")
        new = text.encode("latin1") + b"\n"
        return honest[:8] + len(new).to_bytes(2, "little") + new + honest[start:]

    return data(change)


def extra(name: str, new: Array) -> Replies:
    """One more array."""

    def change(content: RecordDict) -> RecordDict:
        content.array_records[ARRAYS][name] = new
        return content

    return answer(change)


def record(name: str, new: Record) -> Replies:
    """One more record, or another in place of one."""

    def change(content: RecordDict) -> RecordDict:
        content[name] = new
        return content

    return answer(change)


def renamed(old: str, new: str) -> Replies:
    """A record under another name."""

    def change(content: RecordDict) -> RecordDict:
        return RecordDict({new if name == old else name: each for name, each in content.items()})

    return answer(change)


def without(*path: str) -> Replies:
    """No such record, or no such entry in it."""

    def change(content: RecordDict) -> RecordDict:
        holder: Any = content if len(path) == 1 else content[path[0]]
        del holder[path[-1]]
        return content

    return answer(change)


def metric(name: str, value: Any) -> Replies:
    """Another value of a metric."""

    def change(content: RecordDict) -> RecordDict:
        content.metric_records[METRICS][name] = value
        return content

    return answer(change)


def posted(**changes: Any) -> Replies:
    """An honest reply in an envelope that says something else; a callable is asked."""

    def replies(case: Case) -> Sequence[Message]:
        found = {name: value(case) if callable(value) else value for name, value in changes.items()}
        return [envelope(Message(case.content, reply_to=case.message), **found)]

    return replies


def envelope(reply: Message, **changes: Any) -> Message:
    """A reply with other metadata."""
    meta = reply.metadata
    names = "run_id message_id src_node_id dst_node_id reply_to_message_id group_id created_at ttl"
    fields = {name: getattr(meta, name) for name in [*names.split(), "message_type"]}
    content = reply.content if reply.has_content() else None
    error = reply.error if reply.has_error() else None
    return make_message(Metadata(**{**fields, **changes}), content=content, error=error)
