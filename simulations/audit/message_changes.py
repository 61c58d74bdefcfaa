"""Builders of hostile replies that change an honest message in one way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, Metadata, MetricRecord, RecordDict
from numpy.typing import NDArray

from hqde_fl.protocol.flower_internals import make_message
from hqde_fl.protocol.npy import header_span
from hqde_fl.simulations.audit.catalogue_row import AnswerContext, Replies

ARRAYS, METRICS = "arrays", "metrics"
WEIGHT, BIAS, STEPS = "layer.weight", "layer.bias", "steps"
"""The audited model's weights, a matrix and a vector of float32, and its integer counter."""
MEAN, VARIANCE = "norm.running_mean", "norm.running_var"
"""The audited model's statistics, two vectors of float32."""

Record = ArrayRecord | MetricRecord | ConfigRecord
Values = NDArray[np.float32]


def with_content(change: Callable[[RecordDict], RecordDict]) -> Replies:
    """Return a builder of a single reply with the content that ``change`` makes of the honest."""

    def replies(case: AnswerContext) -> Sequence[Message]:
        return [Message(change(case.content), reply_to=case.message)]

    return replies


def with_array(name: str, make: Callable[[Array], Array]) -> Replies:
    """Return a builder of a reply in which the array ``name`` is replaced by ``make`` of it."""

    def change(content: RecordDict) -> RecordDict:
        record = content.array_records[ARRAYS]
        record[name] = make(record[name])
        return content

    return with_content(change)


def with_weight(change: Callable[[Values], NDArray[Any]]) -> Replies:
    """Return a builder of a reply with ``change`` of the values in the weight matrix.

    The new values are in Flower's encoding.
    """
    return with_array(WEIGHT, lambda honest: Array(change(honest.numpy().astype(np.float32))))


def with_float_arrays(change: Callable[[Values], NDArray[Any]]) -> Replies:
    """Return a builder of a reply with ``change`` of the values in each array of weights."""
    return with_content(lambda content: change_float_arrays(content, change))


def change_float_arrays(
    content: RecordDict, change: Callable[[Values], NDArray[Any]]
) -> RecordDict:
    """Replace the values of each array of weights in place, and return the content."""
    record = content.array_records[ARRAYS]
    for name in (WEIGHT, BIAS):
        record[name] = Array(change(record[name].numpy().astype(np.float32)))
    return content


def shift_slightly(content: RecordDict) -> RecordDict:
    """Add 0.2 to all weights of a content in place, and return the content.

    That is harmless unless the client's influence is too large.
    """
    return change_float_arrays(content, lambda values: values + np.float32(0.2))


def with_false_fields(**claims: Any) -> Replies:
    """Return a builder of a reply whose weight matrix has other fields than it should.

    ``claims`` are the new values of any of the fields dtype, shape, stype and data.
    """

    def make(honest: Array) -> Array:
        fields = {
            "dtype": honest.dtype,
            "shape": honest.shape,
            "stype": honest.stype,
            "data": honest.data,
        }
        return Array(**{**fields, **claims})

    return with_array(WEIGHT, make)


def with_bytes(change: Callable[[bytes], bytes]) -> Replies:
    """Return a builder of a reply whose weight matrix has ``change`` of its bytes."""
    return with_array(WEIGHT, lambda a: Array(a.dtype, a.shape, a.stype, change(a.data)))


def with_header(text: str) -> Replies:
    """Return a builder of a reply whose weight matrix has an .npy header with another text.

    The header states the right length of the text.
    """

    def change(honest: bytes) -> bytes:
        _, start = header_span(honest)
        new = text.encode("latin1") + b"\n"
        return honest[:8] + len(new).to_bytes(2, "little") + new + honest[start:]

    return with_bytes(change)


def with_extra_array(name: str, new: Array) -> Replies:
    """Return a builder of a reply with an additional array ``new``."""

    def change(content: RecordDict) -> RecordDict:
        content.array_records[ARRAYS][name] = new
        return content

    return with_content(change)


def with_record(name: str, new: Record) -> Replies:
    """Return a builder of a reply in which the record ``name`` is added or replaced by ``new``."""

    def change(content: RecordDict) -> RecordDict:
        content[name] = new
        return content

    return with_content(change)


def with_renamed_record(old: str, new: str) -> Replies:
    """Return a builder of a reply in which the record ``old`` has the name ``new``."""

    def change(content: RecordDict) -> RecordDict:
        return RecordDict({new if name == old else name: part for name, part in content.items()})

    return with_content(change)


def without(*path: str) -> Replies:
    """Return a builder of a reply without a record, or without an entry of it.

    ``path`` is the name of the record and, if only an entry is left out, the name of the entry.
    """

    def change(content: RecordDict) -> RecordDict:
        holder: Any = content if len(path) == 1 else content[path[0]]
        del holder[path[-1]]
        return content

    return with_content(change)


def with_metric(name: str, value: Any) -> Replies:
    """Return a builder of a reply in which the metric ``name`` is added or replaced."""

    def change(content: RecordDict) -> RecordDict:
        content.metric_records[METRICS][name] = value
        return content

    return with_content(change)


def with_envelope(**changes: Any) -> Replies:
    """Return a builder of a reply with honest content and other metadata.

    Each of ``changes`` is the new value of a field, or a function from the ``AnswerContext`` to it.
    """

    def replies(case: AnswerContext) -> Sequence[Message]:
        fields = {key: value(case) if callable(value) else value for key, value in changes.items()}
        return [change_envelope(Message(case.content, reply_to=case.message), **fields)]

    return replies


def change_envelope(reply: Message, **changes: Any) -> Message:
    """Return a copy of a reply with new values of the metadata fields in ``changes``."""
    meta = reply.metadata
    names = "run_id message_id src_node_id dst_node_id reply_to_message_id group_id created_at ttl"
    fields = {name: getattr(meta, name) for name in [*names.split(), "message_type"]}
    content = reply.content if reply.has_content() else None
    error = reply.error if reply.has_error() else None
    return make_message(Metadata(**{**fields, **changes}), content=content, error=error)
