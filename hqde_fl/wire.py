"""Flower records <-> flat tensors, and the screening of everything that arrives.

The server's side of this file treats a reply as hostile: its bytes are looked at before anything
is allocated, ``numpy.load`` never sees them, and whatever is wrong with them becomes a ``Rejected``
with a reason instead of an exception.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from torch import Tensor

from hqde_fl.arrived import Sent
from hqde_fl.errors import CodecError
from hqde_fl.layout import Entry, Layout
from hqde_fl.packed import DELTA, is_packed, unpack

__all__ = [
    "BFLOAT16",
    "NUMPY",
    "NUM_EXAMPLES",
    "Accepted",
    "Layout",
    "Rejected",
    "Screening",
    "from_record",
    "merge_buffers",
    "message_bytes",
    "printable",
    "screen",
    "screen_evaluation",
    "screen_metrics",
    "to_array",
    "to_record",
]

BFLOAT16 = "hqde.bfloat16"
"""Serialisation type of bfloat16 arrays, which NumPy does not have: raw little-endian bytes."""
NUMPY = "numpy.ndarray"
"""Flower's own serialisation type: the bytes of an .npy file."""

NUM_EXAMPLES = "num-examples"

_MAX_HEADER_BYTES, _MAX_CACHED_HEADER_BYTES = 4096, 256
"""Bytes of an .npy header: the longest that is read, and the longest that is remembered, so that
clients cannot fill the memory with headers."""
_SHOWN = 64
"""Dimensions of a shape that are written out before it is cut."""


def to_array(tensor: Tensor) -> Array:
    """A Flower ``Array`` with the tensor's values, shape and dtype."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        data = tensor.view(torch.int16).numpy().tobytes()
        return Array("bfloat16", tuple(tensor.shape), BFLOAT16, data)
    return Array(tensor.numpy())


def to_record(state: Mapping[str, Tensor]) -> ArrayRecord:
    """A state dict as an ``ArrayRecord``, in the same order."""
    return ArrayRecord({name: to_array(tensor) for name, tensor in state.items()})


def from_record(record: ArrayRecord) -> dict[str, Tensor]:
    """A trusted ``ArrayRecord`` as a state dict. The tensors own their memory.

    Raises
    ------
    ValueError
        If an array is malformed.
    """
    return {name: _decode(array) for name, array in record.items()}


def message_bytes(content: RecordDict) -> int:
    """Bytes of a message's content as Flower serialises it, counted without serialising arrays.

    Never raises: what no message can hold, like half a character in a name, is counted as well.
    """
    return sum(_field(_text(name) + _record(record)) for name, record in content.items())


def _record(record: ArrayRecord | MetricRecord | ConfigRecord) -> int:
    """A record's field in its item."""
    if isinstance(record, ArrayRecord):
        return _field(sum(_field(_text(key) + _array(array)) for key, array in record.items()))
    return _field(sum(_field(_text(key) + _field(_value(each))) for key, each in record.items()))


def _value(value: Any) -> int:
    """The one field of a metric or a config, without a copy of it: lists have a longer tag."""
    if not isinstance(value, list):
        return _single(value)
    if value and isinstance(value[0], str | bytes):
        return 1 + _field(sum(_single(each) for each in value))
    unsigned = any(isinstance(each, int) and each >= 1 << 63 for each in value)
    numbers = sum(_varint(each) if unsigned else _single(each) - 1 for each in value)
    return 1 + _field(_field(numbers) if value else 0)


def _single(value: Any) -> int:
    """A field that holds one number or text."""
    if isinstance(value, float):
        return 9
    if isinstance(value, int):
        return 1 + _varint(value if value >= 1 << 63 else 2 * value if value >= 0 else ~(2 * value))
    return _field(len(value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value))


def _text(text: str) -> int:
    """A field that holds text; protobuf leaves out an empty one."""
    return _field(len(text.encode("utf-8", "surrogatepass"))) if text else 0


def _array(array: Array) -> int:
    """An ``Array``'s field in its record, the bytes of its data included."""
    shape = sum(_varint(size) for size in array.shape)
    names = _text(array.dtype) + _text(array.stype)
    data = _field(len(array.data)) if array.data else 0
    return _field(names + (_field(shape) if array.shape else 0) + data)


def _varint(number: int) -> int:
    """Bytes of an integer; protobuf writes negative ones as if they had 64 bits."""
    return 10 if number < 0 else max(1, -(-number.bit_length() // 7))


def _field(length: int) -> int:
    """Bytes of a protobuf field (numbered below 16) that holds ``length`` bytes."""
    return 1 + _varint(length) + length


@dataclass(frozen=True)
class Screening:
    """What a reply may look like.

    Parameters
    ----------
    max_num_examples : float
        The largest believable ``num-examples``.
    max_metrics : int
        The most metrics a reply may carry.
    max_metric_name : int
        The most characters in a metric's name, which must be printable.
    allow_list_metrics : bool
        Whether a metric may be a list. Lists cannot be averaged; they are dropped when allowed.
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
    update : Tensor or Sent
        (d,) the client's model minus the global one, or the model as it was sent.
    buffers : Mapping[str, Tensor]
        Its integer and boolean buffers.
    num_examples : float
        What it says it trained on.
    metrics : Mapping[str, float]
        Its other metrics, the finite ones.
    """

    update: Tensor | Sent
    buffers: Mapping[str, Tensor]
    num_examples: float
    metrics: Mapping[str, float]

    @property
    def delta(self) -> Tensor:
        """(d,) the client's model minus the global one."""
        return self.update.delta() if isinstance(self.update, Sent) else self.update


@dataclass(frozen=True)
class Rejected:
    """A reply that did not pass, and why."""

    reason: str


class _MalformedError(ValueError):
    """Carries the reason out of the depth of screening."""


def screen(
    reply: Message,
    layout: Layout,
    model: Tensor,
    limits: Screening,
    arrays_key: str = "arrays",
) -> Accepted | Rejected:
    """Look at one reply to a training message. Never raises for what the client sent.

    Parameters
    ----------
    reply : Message
        The reply, hostile until proven otherwise.
    layout : Layout
        The layout of the global model.
    model : Tensor
        (d,) the global model, from which the delta is taken.
    limits : Screening
        What is allowed.
    arrays_key : str
        The name of the reply's one ``ArrayRecord``.
    """
    try:
        num_examples, metrics = screen_metrics(reply.content, limits)
        records = reply.content.array_records
        if list(records) != [arrays_key]:
            raise _MalformedError(
                f"expected one ArrayRecord {arrays_key!r}, found {_list(records)}"
            )
        update, buffers = _screen_arrays(records[arrays_key], layout, model)
        return Accepted(_finite(update), buffers, num_examples, metrics)
    except _MalformedError as reason:
        return Rejected(str(reason))
    except Exception as error:  # whatever a client managed to break, it breaks only its own reply
        return Rejected(f"malformed reply ({type(error).__name__}: {printable(str(error), 120)})")


def screen_evaluation(reply: Message, limits: Screening) -> Mapping[str, float] | Rejected:
    """Look at one reply to an evaluation message: its finite metrics, or why it is rejected."""
    try:
        return screen_metrics(reply.content, limits)[1]
    except _MalformedError as reason:
        return Rejected(str(reason))
    except Exception as error:
        return Rejected(f"malformed reply ({type(error).__name__}: {printable(str(error), 120)})")


def screen_metrics(content: RecordDict, limits: Screening) -> tuple[float, dict[str, float]]:
    """``num-examples`` and the other finite metrics of a reply."""
    records = content.metric_records
    if len(records) != 1:
        raise _MalformedError(f"expected one MetricRecord, found {_list(records)}")
    record = next(iter(records.values()))
    if len(record) > limits.max_metrics:
        raise _MalformedError(f"expected at most {limits.max_metrics} metrics, found {len(record)}")
    metrics = {}
    for name, value in record.items():
        if not (0 < len(name) <= limits.max_metric_name and name.isprintable()):
            bound = f"1 to {limits.max_metric_name} printable characters"
            raise _MalformedError(f"metric name {name[:40]!r} is not {bound}")
        if isinstance(value, list) and (not limits.allow_list_metrics or name == NUM_EXAMPLES):
            raise _MalformedError(f"metric {name[:40]!r} is a list, expected a number")
        if isinstance(value, int | float) and math.isfinite(value):
            metrics[name] = float(value)
    if NUM_EXAMPLES not in record:
        raise _MalformedError(f"metric {NUM_EXAMPLES!r} is missing")
    count = metrics.pop(NUM_EXAMPLES, math.nan)
    if not 0 < count <= limits.max_num_examples:
        raise _MalformedError(
            f"{NUM_EXAMPLES} {record[NUM_EXAMPLES]} is not in (0, {limits.max_num_examples:g}]"
        )
    return count, metrics


def _finite(update: Tensor | Sent) -> Tensor | Sent:
    """The update if all its numbers are finite."""
    if isinstance(update, Sent):
        # finite sums of squares prove every number finite, and small enough for any difference
        with np.errstate(over="ignore", invalid="ignore"):
            if all(np.isfinite(np.dot(part, part)) for part in update.parts):
                return update
        update = update.delta()
    # a finite sum proves every number finite, and is much cheaper than looking at each
    if not bool(torch.isfinite(update.sum()) or torch.isfinite(update).all()):
        raise _MalformedError("non-finite update")
    return update


def _screen_arrays(
    record: ArrayRecord, layout: Layout, model: Tensor
) -> tuple[Tensor | Sent, dict[str, Tensor]]:
    """The update and the buffers, checked against the layout before anything is read."""
    present, packed = dict(record), None
    if any(is_packed(array) for array in present.values()):
        packed = present.pop(DELTA, None)
    expected = {entry.name for entry in layout.entries}
    if extra := sorted(present.keys() - expected):
        raise _MalformedError(f"unknown array {extra[0][:40]!r}")
    absent = [entry for entry in layout.entries if entry.name not in present]
    exact = {entry.name for entry in absent if packed is None or entry.offset is None}
    if exact:
        raise _MalformedError(f"missing array {min(exact)!r}")
    for entry in layout.entries:
        if entry.name in present:
            _check(entry, present[entry.name])
    try:
        coded = torch.empty(0) if packed is None else unpack(packed, absent, layout)
    except CodecError as error:
        raise _MalformedError(f"packed update: {error}") from None
    if packed is None and (sent := _as_sent(present, layout, model)) is not None:
        return sent, {e.name: _decode(present[e.name]) for e in layout.entries if e.offset is None}
    parts = coded.split([entry.size for entry in absent])
    state = {name: _decode(array) for name, array in present.items()}
    flat, buffers = layout.flatten(
        state | {entry.name: part for entry, part in zip(absent, parts, strict=True)}
    )
    for entry in layout.entries:  # what is packed is a delta already
        if entry.offset is not None and entry.name in present:
            where = slice(entry.offset, entry.offset + entry.size)
            flat[where] -= model[where]
    return flat, buffers


def _as_sent(arrays: Mapping[str, Array], layout: Layout, model: Tensor) -> Sent | None:
    """The model without copying its bytes, if they are float32 numbers as NumPy reads them."""
    floating = [arrays[entry.name] for entry in layout.entries if entry.offset is not None]
    if model.device.type != "cpu" or {array.dtype for array in floating} != {"float32"}:
        return None
    if any(array.stype != NUMPY for array in floating):
        return None
    parts = [_view(array) for array in floating]
    if any(not part.flags.c_contiguous or not part.dtype.isnative for part in parts):
        return None
    return Sent(tuple(part.reshape(-1) for part in parts), model)


def _check(entry: Entry, array: Array) -> None:
    if tuple(array.shape) != entry.shape:
        shown = tuple(array.shape[:_SHOWN])
        raise _MalformedError(
            f"wrong shape {shown!s:.60} of {entry.name!r}, expected {entry.shape}"
        )
    if array.dtype != entry.dtype:
        raise _MalformedError(
            f"wrong dtype {array.dtype[:20]!r} of {entry.name!r}, expected {entry.dtype!r}"
        )


def _decode(array: Array) -> Tensor:
    """The values of an array, in memory of their own."""
    size = math.prod(array.shape)
    if array.stype == BFLOAT16 and array.dtype == "bfloat16":
        if len(array.data) != 2 * size:
            raise _MalformedError(f"{len(array.data)} bytes for {size} bfloat16 numbers")
        raw = torch.from_numpy(np.frombuffer(array.data, dtype="<i2").copy())
        return raw.view(torch.bfloat16).reshape(tuple(array.shape))
    values = _view(array)
    return torch.from_numpy(np.array(values, dtype=values.dtype.newbyteorder("="), order="C"))


def _view(array: Array) -> npt.NDArray[Any]:
    """A view of an array's bytes, once its header and length are right."""
    size = math.prod(array.shape)
    if array.stype != NUMPY:
        raise _MalformedError(f"unknown serialisation type {array.stype[:40]!r}")
    dtype = np.dtype(array.dtype)
    if dtype.kind not in "fiub" or dtype.names is not None:
        raise _MalformedError(f"dtype {array.dtype[:40]!r} holds no numbers")
    start, fortran = _npy_header(array, dtype)
    if len(array.data) - start != size * dtype.itemsize:
        raise _MalformedError(f"{len(array.data) - start} bytes for {size} numbers of {dtype}")
    values = np.frombuffer(array.data, dtype=dtype, offset=start)
    return values.reshape(array.shape, order="F" if fortran else "C")


def _npy_header(array: Array, dtype: np.dtype[Any]) -> tuple[int, bool]:
    """Where the numbers of an .npy file start, and whether they lie in Fortran order."""
    data = array.data
    if data[:6] != b"\x93NUMPY" or data[6:8] not in (b"\x01\x00", b"\x02\x00", b"\x03\x00"):
        raise _MalformedError("not the bytes of an .npy array")
    width = 2 if data[6] == 1 else 4
    start = 8 + width + int.from_bytes(data[8 : 8 + width], "little")
    if start > min(len(data), _MAX_HEADER_BYTES):
        raise _MalformedError("the .npy header is longer than the array's bytes")
    header = bytes(data[8 + width : start])
    parse = _parse_header if len(header) <= _MAX_CACHED_HEADER_BYTES else _parse_header.__wrapped__
    shape, descr, fortran = parse(header)
    if shape != tuple(array.shape) or descr != dtype:
        raise _MalformedError(
            f"the .npy header says {descr!s:.60} {shape[:_SHOWN]!s:.60}, the message {array.shape}"
        )
    return start, fortran


@lru_cache(maxsize=1024)
def _parse_header(header: bytes) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    fields = ast.literal_eval(header.decode("latin1").strip())
    return tuple(fields["shape"]), np.dtype(fields["descr"]), bool(fields["fortran_order"])


def _list(names: Mapping[str, object]) -> str:
    return f"{len(names)} ({', '.join(repr(name[:40]) for name in list(names)[:4])})"


def printable(text: str, most: int) -> str:
    """The first characters of what somebody else wrote, fit for a terminal and a log."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:most])


def merge_buffers(replies: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The coordinate-wise (lower) median of integer and boolean buffers, in their own dtype."""
    merged = {}
    for name in replies[0]:
        stack = torch.stack([buffers[name] for buffers in replies])
        middle = (len(replies) - 1) // 2
        merged[name] = stack.to(torch.int64).sort(dim=0).values[middle].to(stack.dtype)
    return merged
