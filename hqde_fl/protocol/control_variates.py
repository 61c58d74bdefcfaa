"""SCAFFOLD's control variates in messages, beside the model that they belong to.

They travel in an ``ArrayRecord`` of their own: the server's in a training message, the change of
the client's in its reply. There is a flat vector for each weight, by the weight's name (below the
member's in an ensemble), in float32, or float64 where a weight of the model is. Complex weights are
pairs of reals.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from flwr.app import Array, ArrayRecord, Message, RecordDict
from torch import Tensor

from hqde_fl.protocol.flower_internals import make_message
from hqde_fl.protocol.members import add_member_prefix, model_arrays
from hqde_fl.protocol.npy import MalformedError, decode_array, native_dtype
from hqde_fl.protocol.records import to_array
from hqde_fl.terminal_text import printable
from hqde_fl.updates.layout import Layout

CONTROL = "hqde.control-variates"
"""Name of the ``ArrayRecord`` in messages and replies."""


def control_arrays(layout: Layout, vector: Tensor, member: int | None = None) -> dict[str, Array]:
    """Return a control variate as arrays.

    Parameters
    ----------
    layout : Layout
        The layout of the model.
    vector : Tensor
        (d,) the control variate.
    member : int, optional
        The member of an ensemble; None where there is one model.
    """
    arrays = {entry.name: to_array(vector[entry.span]) for entry in layout.weights}
    return arrays if member is None else add_member_prefix(member, arrays)


def without_control(message: Message) -> tuple[Message, ArrayRecord | None]:
    """Return a message without its control variates, and these; the message itself if it has none.

    Parameters
    ----------
    message : Message
        A message or a reply; it is not changed.
    """
    if not message.has_content():
        return message, None
    control = message.content.get(CONTROL)
    if not isinstance(control, ArrayRecord):
        return message, None
    content = RecordDict({key: value for key, value in message.content.items() if key != CONTROL})
    return make_message(message.metadata, content=content), control


def screen_control(
    record: ArrayRecord | None, layout: Layout, member: int | None = None
) -> Tensor | str:
    """Return the change (d,) of a client's control variate, or why its reply is rejected.

    Nothing that a client sends raises. Names, shapes and dtypes are checked before any array is
    decoded, and a number that is not finite is a reason for rejection, as in updates.

    Parameters
    ----------
    record : ArrayRecord or None
        What the client sent; not trusted.
    layout : Layout
        The layout of the model.
    member : int, optional
        The member of an ensemble; None where there is one model.
    """
    if record is None:
        return "no control variates"
    try:
        arrays: Mapping[str, Array] = model_arrays(record, member)
        if extra := sorted(arrays.keys() - {entry.name for entry in layout.weights}):
            raise MalformedError(f"unknown array {extra[0][:40]!r}")
        dtype = str(layout.dtype).removeprefix("torch.")
        for entry in layout.weights:
            if (array := arrays.get(entry.name)) is None:
                raise MalformedError(f"missing array {entry.name!r}")
            found = tuple(array.shape[:4]), native_dtype(array.dtype)
            if found != ((entry.numbers,), dtype):
                raise MalformedError(
                    f"{entry.name!r} is {found[1]!s:.20} {found[0]!s:.60}, "
                    f"expected {dtype} ({entry.numbers},)"
                )
        vector = torch.empty(layout.size, dtype=layout.dtype)
        for entry in layout.weights:
            vector[entry.span] = decode_array(arrays[entry.name])
        if not bool(vector.isfinite().all()):
            raise MalformedError("not finite")
        return vector
    except MalformedError as reason:
        return f"control variates: {reason}"
    except Exception as error:  # a client can break only its own reply
        text = printable(str(error), 120)
        return f"malformed control variates ({type(error).__name__}: {text})"
