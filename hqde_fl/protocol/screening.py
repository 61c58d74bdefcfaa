"""Screen clients' replies before anything else reads them.

A reply is hostile until screened: its bytes are checked before anything is allocated, and every
defect becomes a ``Rejected`` with a reason instead of an exception.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Message, RecordDict
from torch import Tensor

from hqde_fl.errors import CodecError
from hqde_fl.protocol.npy import (
    MAX_SHOWN_DIMENSIONS,
    NUMPY,
    MalformedError,
    decode_array,
    view_array,
)
from hqde_fl.protocol.packed_updates import DELTA, is_packed, unpack
from hqde_fl.terminal_text import printable
from hqde_fl.updates.layout import Entry, Layout
from hqde_fl.updates.received_updates import ReceivedModel

NUM_EXAMPLES = "num-examples"
"""The metric with the number of examples that a client claims to have trained on."""


@dataclass(frozen=True)
class Screening:
    """Limits on the metrics of a reply.

    Parameters
    ----------
    max_num_examples : float
        The largest ``num-examples`` that is accepted.
    max_metrics : int
        Metrics in a reply, at most.
    max_metric_name : int
        Characters in a metric's name, at most; they must be printable.
    allow_list_metrics : bool
        True to drop metrics that are lists, which cannot be averaged; False to reject the reply.
    """

    max_num_examples: float = 1e9
    max_metrics: int = 64
    max_metric_name: int = 128
    allow_list_metrics: bool = False


@dataclass(frozen=True, eq=False)
class Accepted:
    """A reply that passed screening.

    Parameters
    ----------
    update : Tensor or ReceivedModel
        (d,) the client's model minus the global one, or the model as the client sent it.
    buffers : Mapping[str, Tensor]
        The client's integer and boolean buffers.
    num_examples : float
        The number of examples that the client claims.
    metrics : Mapping[str, float]
        The client's other metrics, the finite ones.
    """

    update: Tensor | ReceivedModel
    buffers: Mapping[str, Tensor]
    num_examples: float
    metrics: Mapping[str, float]

    @property
    def delta(self) -> Tensor:
        """The update (d,): the client's model minus the global one."""
        return self.update.delta() if isinstance(self.update, ReceivedModel) else self.update


@dataclass(frozen=True)
class Rejected:
    """A reply that did not pass screening, with the reason."""

    reason: str


def screen(
    reply: Message,
    layout: Layout,
    model: Tensor,
    limits: Screening,
    arrays_key: str = "arrays",
) -> Accepted | Rejected:
    """Return the update in one reply to a training message, or why it is rejected; never raises.

    Parameters
    ----------
    reply : Message
        The reply; not trusted.
    layout : Layout
        The layout of the global model.
    model : Tensor
        (d,) the global model, which the update is a difference to.
    limits : Screening
        Limits on the reply's metrics.
    arrays_key : str
        The name of the reply's one ``ArrayRecord``.
    """
    try:
        num_examples, metrics = screen_metrics(reply.content, limits)
        records = reply.content.array_records
        if list(records) != [arrays_key]:
            raise MalformedError(
                f"expected one ArrayRecord {arrays_key!r}, found {_shown_names(records)}"
            )
        update, buffers = _screen_arrays(records[arrays_key], layout, model)
        return Accepted(_finite(update), buffers, num_examples, metrics)
    except MalformedError as reason:
        return Rejected(str(reason))
    except Exception as error:  # a client can break only its own reply
        return Rejected(f"malformed reply ({type(error).__name__}: {printable(str(error), 120)})")


def screen_evaluation(reply: Message, limits: Screening) -> Mapping[str, float] | Rejected:
    """Return a reply's finite metrics but ``num-examples``, or why it is rejected; never raises."""
    try:
        return screen_metrics(reply.content, limits)[1]
    except MalformedError as reason:
        return Rejected(str(reason))
    except Exception as error:
        return Rejected(f"malformed reply ({type(error).__name__}: {printable(str(error), 120)})")


def screen_metrics(content: RecordDict, limits: Screening) -> tuple[float, dict[str, float]]:
    """Return ``num-examples`` and the other finite metrics of a reply.

    Raises
    ------
    MalformedError
        If ``num-examples`` is missing or out of range, or another limit is exceeded.
    """
    records = content.metric_records
    if len(records) != 1:
        raise MalformedError(f"expected one MetricRecord, found {_shown_names(records)}")
    record = next(iter(records.values()))
    if len(record) > limits.max_metrics:
        raise MalformedError(f"expected at most {limits.max_metrics} metrics, found {len(record)}")
    metrics = {}
    for name, value in record.items():
        if not (0 < len(name) <= limits.max_metric_name and name.isprintable()):
            bound = f"1 to {limits.max_metric_name} printable characters"
            raise MalformedError(f"metric name {name[:40]!r} is not {bound}")
        if isinstance(value, list) and (not limits.allow_list_metrics or name == NUM_EXAMPLES):
            raise MalformedError(f"metric {name[:40]!r} is a list, expected a number")
        if isinstance(value, int | float) and math.isfinite(value):
            metrics[name] = float(value)
    if NUM_EXAMPLES not in record:
        raise MalformedError(f"metric {NUM_EXAMPLES!r} is missing")
    count = metrics.pop(NUM_EXAMPLES, math.nan)
    if not 0 < count <= limits.max_num_examples:
        raise MalformedError(
            f"{NUM_EXAMPLES} {record[NUM_EXAMPLES]} is not in (0, {limits.max_num_examples:g}]"
        )
    return count, metrics


def _finite(update: Tensor | ReceivedModel) -> Tensor | ReceivedModel:
    """Return the update if all its numbers are finite.

    Raises
    ------
    MalformedError
        If a number is not.
    """
    if isinstance(update, ReceivedModel):
        # finite sums of squares prove every number finite, and small enough for any difference
        with np.errstate(over="ignore", invalid="ignore"):
            if all(np.isfinite(np.dot(part, part)) for part in update.parts):
                return update
        update = update.delta()
    # a finite sum proves every number finite, and is much cheaper than looking at each
    if not bool(torch.isfinite(update.sum()) or torch.isfinite(update).all()):
        raise MalformedError("non-finite update")
    return update


def _screen_arrays(
    record: ArrayRecord, layout: Layout, model: Tensor
) -> tuple[Tensor | ReceivedModel, dict[str, Tensor]]:
    """Return the update and the buffers, checked against the layout before they are decoded.

    Raises
    ------
    MalformedError
        If an array is unknown, missing or not as the layout says, or a payload is not sound.
    """
    present, packed = dict(record), None
    if any(is_packed(array) for array in present.values()):
        packed = present.pop(DELTA, None)
    expected = {entry.name for entry in layout.entries}
    if extra := sorted(present.keys() - expected):
        raise MalformedError(f"unknown array {extra[0][:40]!r}")
    absent = [entry for entry in layout.entries if entry.name not in present]
    missing = {entry.name for entry in absent if packed is None or entry.offset is None}
    if missing:
        raise MalformedError(f"missing array {min(missing)!r}")
    for entry in layout.entries:
        if entry.name in present:
            _check(entry, present[entry.name])
    try:
        coded = torch.empty(0) if packed is None else unpack(packed, absent, layout)
    except CodecError as error:
        raise MalformedError(f"packed update: {error}") from None
    if packed is None and (received := _received_model(present, layout, model)) is not None:
        return received, {
            e.name: decode_array(present[e.name]) for e in layout.entries if e.offset is None
        }
    parts = coded.split([entry.size for entry in absent])
    state = {name: decode_array(array) for name, array in present.items()}
    flat, buffers = layout.flatten(
        state | {entry.name: part for entry, part in zip(absent, parts, strict=True)}
    )
    for entry in layout.entries:  # packed arrays are differences already
        if entry.offset is not None and entry.name in present:
            span = slice(entry.offset, entry.offset + entry.size)
            flat[span] -= model[span]
    return flat, buffers


def _received_model(
    arrays: Mapping[str, Array], layout: Layout, model: Tensor
) -> ReceivedModel | None:
    """Return the model that a client sent as views of its bytes, which are not copied.

    None unless all float arrays are contiguous float32 in .npy form, in this machine's byte order,
    and the global model is on the CPU.
    """
    floating = [arrays[entry.name] for entry in layout.entries if entry.offset is not None]
    if model.device.type != "cpu" or {array.dtype for array in floating} != {"float32"}:
        return None
    if any(array.stype != NUMPY for array in floating):
        return None
    parts = [view_array(array) for array in floating]
    if any(not part.flags.c_contiguous or not part.dtype.isnative for part in parts):
        return None
    return ReceivedModel(tuple(part.reshape(-1) for part in parts), model)


def _check(entry: Entry, array: Array) -> None:
    """Raise ``MalformedError`` unless an array has the shape and dtype of its entry."""
    if tuple(array.shape) != entry.shape:
        shown = tuple(array.shape[:MAX_SHOWN_DIMENSIONS])
        raise MalformedError(f"wrong shape {shown!s:.60} of {entry.name!r}, expected {entry.shape}")
    if array.dtype != entry.dtype:
        raise MalformedError(
            f"wrong dtype {array.dtype[:20]!r} of {entry.name!r}, expected {entry.dtype!r}"
        )


def _shown_names(names: Mapping[str, object]) -> str:
    """Return text with the number of names and the first four of them, for an error message."""
    return f"{len(names)} ({', '.join(repr(name[:40]) for name in list(names)[:4])})"
