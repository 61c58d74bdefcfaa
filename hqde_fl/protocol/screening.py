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
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from torch import Tensor

from hqde_fl.errors import CodecError
from hqde_fl.protocol.members import records_of
from hqde_fl.protocol.npy import (
    MAX_SHOWN_DIMENSIONS,
    NUMPY,
    MalformedError,
    decode_array,
    native_dtype,
    view_array,
)
from hqde_fl.protocol.omitted_entries import Omitted, omitted_entries, same_bits
from hqde_fl.protocol.packed_updates import DELTA, is_packed, unpack
from hqde_fl.terminal_text import printable
from hqde_fl.updates.layout import Entry, Layout, to_numbers
from hqde_fl.updates.received_updates import ReceivedModel, StoredUpdate

NUM_EXAMPLES = "num-examples"
"""The metric with the number of examples that a client claims to have trained on."""


NO_UPDATE = torch.empty(0)
"""Stands for an update that has been dropped, or that the server does not see."""


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
class SentModel:
    """The model that clients were sent, which their replies are read against.

    Parameters
    ----------
    layout : Layout
        The model's layout.
    flat : Tensor
        (d,) its weights.
    others : Mapping[str, Tensor]
        Its statistics, counters and frozen entries by name.
    """

    layout: Layout
    flat: Tensor
    others: Mapping[str, Tensor]

    def value(self, entry: Entry) -> Tensor:
        """Return an entry's tensor."""
        entry = self.layout.by_name[entry.tied_to or entry.name]
        if entry.offset is None:
            return self.others[entry.name]
        return entry.from_numbers(self.flat[entry.span])


@dataclass(frozen=True, eq=False)
class Accepted:
    """A reply that passed screening.

    Parameters
    ----------
    update : Tensor or ReceivedModel or StoredUpdate
        (d,) the client's weights minus those that it was sent, or the weights as it sent them, or
        an update that has been moved out of this process.
    others : Mapping[str, Tensor]
        The client's statistics and counters by name.
    changed : Mapping[str, Tensor]
        Frozen entries that the client changed, and tied ones that differ from the first name of
        their tensor, by name; finite.
    num_examples : float
        The number of examples that the client claims.
    metrics : Mapping[str, float]
        The client's other metrics, the finite ones.
    unchanged : frozenset[str]
        Names of the entries that the reply left out because they are as they were sent.
    control : Tensor or None
        (d,) the change of the client's control variate; None without SCAFFOLD.
    """

    update: Tensor | ReceivedModel | StoredUpdate
    others: Mapping[str, Tensor]
    changed: Mapping[str, Tensor]
    num_examples: float
    metrics: Mapping[str, float]
    unchanged: frozenset[str] = frozenset()
    control: Tensor | None = None

    @property
    def delta(self) -> Tensor:
        """The update (d,): the client's model minus the global one."""
        return self.update if isinstance(self.update, Tensor) else self.update.delta()


@dataclass(frozen=True)
class Rejected:
    """A reply that did not pass screening, with the reason."""

    reason: str


def screen(
    reply: Message,
    sent: SentModel,
    limits: Screening,
    arrays_key: str = "arrays",
    member: int | None = None,
) -> Accepted | Rejected:
    """Return the update in one reply to a training message, or why it is rejected; never raises.

    Parameters
    ----------
    reply : Message
        The reply; not trusted.
    sent : SentModel
        The model that the client was sent.
    limits : Screening
        Limits on the reply's metrics.
    arrays_key : str
        The name of the reply's one ``ArrayRecord``.
    member : int, optional
        The member of an ensemble that the reply's arrays are of, under the model's own names; None
        where there is one model.
    """
    try:
        num_examples, metrics = screen_metrics(reply.content, limits)
        records = records_of(reply.content, ArrayRecord)
        if list(records) != [arrays_key]:
            raise MalformedError(
                f"expected one ArrayRecord {arrays_key!r}, found {_shown_names(records)}"
            )
        omitted = omitted_entries(reply.content, sent.layout.names, member)
        arrays = _Arrays(records[arrays_key], sent, omitted)
        others, changed = arrays.others(), arrays.changed()
        update = _finite(arrays.update())
        return Accepted(update, others, changed, num_examples, metrics, omitted.unchanged)
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
    records = records_of(content, MetricRecord)
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


class _Arrays:
    """The arrays of a reply, checked against the layout before any is decoded.

    Raises
    ------
    MalformedError
        If an array is unknown, missing or not as the layout says.
    """

    def __init__(self, record: ArrayRecord, sent: SentModel, omitted: Omitted) -> None:
        self._sent, self._omitted = sent, omitted
        self._present, self._packed = dict(record), None
        if any(is_packed(array) for array in self._present.values()):
            self._packed = self._present.pop(DELTA, None)
        layout = sent.layout
        if extra := sorted(self._present.keys() - layout.by_name.keys()):
            raise MalformedError(f"unknown array {extra[0][:40]!r}")
        for entry in layout.entries:
            if entry.name in self._present:
                _check(entry, self._present[entry.name])
                if entry.name in omitted.unchanged or entry.name in omitted.same:
                    raise MalformedError(f"{entry.name!r} is sent, and said to be left out")
        absent = [entry for entry in layout.entries if entry.name not in self._present]
        left = [e for e in absent if e.tied_to is None and e.name not in omitted.unchanged]
        self._coded = [e for e in left if e.offset is not None and e.name not in omitted.same]
        missing = {e.name for e in left if e.offset is None}
        if self._packed is None:
            missing |= {entry.name for entry in self._coded}
        if missing:
            raise MalformedError(f"missing array {min(missing)!r}")

    def others(self) -> dict[str, Tensor]:
        """Return the client's statistics and counters; raise MalformedError if one is not sound."""
        others = {}
        for entry in self._sent.layout.others:
            if entry.role == "frozen":
                continue
            value = self._value(entry)
            if not bool(torch.isfinite(value).all()):
                raise MalformedError(f"non-finite {entry.name!r}")
            if entry.is_variance and bool((value < 0).any()):
                raise MalformedError(f"negative variance in {entry.name!r}")
            others[entry.name] = value
        return others

    def changed(self) -> dict[str, Tensor]:
        """Return the frozen and tied entries that came back with other bits than expected.

        Raises ``MalformedError`` if one is not finite.
        """
        changed = {}
        by_name = self._sent.layout.by_name
        for entry in self._sent.layout.entries:
            if entry.name not in self._present or not (entry.role == "frozen" or entry.tied_to):
                continue
            value = decode_array(self._present[entry.name])
            first = by_name[entry.tied_to or entry.name]
            if entry.tied_to is None:
                expected: Tensor | None = self._sent.value(entry)
            else:
                packed = first in self._coded or first.name in self._omitted.same
                expected = None if packed else self._value(first)
            if expected is not None and same_bits(value, expected):
                continue
            if not bool(torch.isfinite(value).all()):
                raise MalformedError(f"non-finite {entry.name!r}")
            changed[entry.name] = value
        return changed

    def update(self) -> Tensor | ReceivedModel:
        """Return the update (d,), or the weights as the client sent them.

        Raises ``MalformedError`` if the payload of a codec is not sound.
        """
        layout, sent = self._sent.layout, self._sent.flat
        if self._packed is None and (received := self._received_model()) is not None:
            return received
        try:
            coded = (
                torch.empty(0)
                if self._packed is None
                else unpack(self._packed, self._coded, layout)
            )
        except CodecError as error:
            raise MalformedError(f"packed update: {error}") from None
        flat = torch.zeros(layout.size, dtype=layout.dtype)
        parts = coded.split([entry.numbers for entry in self._coded])
        for entry, part in zip(self._coded, parts, strict=True):  # differences already
            flat[entry.span] = part
        for entry in layout.weights:
            if entry.name in self._present:
                values = to_numbers(decode_array(self._present[entry.name]))
                flat[entry.span] = values.to(layout.dtype) - sent[entry.span]
        for name, other in self._omitted.same.items():
            entry, equal = layout.by_name[name], layout.by_name[other]
            if entry.offset is None or equal.offset is None or equal.name in self._omitted.same:
                raise MalformedError(f"{name!r} cannot be equal to {other!r}")
            if (entry.shape, entry.dtype) != (equal.shape, equal.dtype):
                raise MalformedError(f"{name!r} is not of the shape and dtype of {other!r}")
            flat[entry.span] = flat[equal.span]
        return flat

    def _value(self, entry: Entry) -> Tensor:
        """Return an entry as the client sent it, or as it was sent if the client left it out."""
        array = self._present.get(entry.name)
        return self._sent.value(entry) if array is None else decode_array(array)

    def _received_model(self) -> ReceivedModel | None:
        """Return the weights that a client sent as views of its bytes, which are not copied.

        None unless all of them are contiguous float32 or complex64 in .npy form, in this machine's
        byte order, and the model that was sent is on the CPU.
        """
        layout, sent = self._sent.layout, self._sent.flat
        kinds = {entry.dtype for entry in layout.weights}
        if sent.device.type != "cpu" or not kinds <= {"float32", "complex64"} or self._omitted.same:
            return None
        base, parts = sent.numpy(), []
        for entry in layout.weights:
            array = self._present.get(entry.name)
            if array is None:
                parts.append(base[entry.span])
                continue
            if array.stype != NUMPY:
                return None
            part = view_array(array)
            if not part.flags.c_contiguous or not part.dtype.isnative:
                return None
            parts.append(part.reshape(-1).view(np.float32))
        return ReceivedModel(tuple(parts), sent)


def _check(entry: Entry, array: Array) -> None:
    """Raise ``MalformedError`` unless an array has the shape and dtype of its entry."""
    if tuple(array.shape) != entry.shape:
        shown = tuple(array.shape[:MAX_SHOWN_DIMENSIONS])
        raise MalformedError(f"wrong shape {shown!s:.60} of {entry.name!r}, expected {entry.shape}")
    if native_dtype(array.dtype) != entry.dtype:
        raise MalformedError(
            f"wrong dtype {array.dtype[:20]!r} of {entry.name!r}, expected {entry.dtype!r}"
        )


def _shown_names(names: Mapping[str, object]) -> str:
    """Return text with the number of names and the first four of them, for an error message."""
    return f"{len(names)} ({', '.join(repr(name[:40]) for name in list(names)[:4])})"
