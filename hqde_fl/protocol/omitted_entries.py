"""Entries of a model that a reply leaves out of its ``ArrayRecord``, because the server has them.

Only clients of this project leave entries out, and only if the server's message allows it: a server
whose strategy is wrapped in another one, which reads the replies too, does not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from flwr.app import ConfigRecord, RecordDict
from torch import Tensor

from hqde_fl.protocol.members import records_of, select_member
from hqde_fl.protocol.npy import MalformedError

LEAVE_OUT = "leave-out-unchanged"
"""Key of a message's config: true if the reply may lack entries that the server has."""
ENTRIES = "hqde.entries"
"""Name of the reply's ConfigRecord; below a member's name in an ensemble it holds these keys."""
UNCHANGED = "unchanged"
"""Mask of the entries that are as the client was sent them; see ``mask_of``."""
SAME = "same"
"""Places of two weights, pair after pair: the first has the update of the second, which is sent."""


@dataclass(frozen=True)
class Omitted:
    """The entries that a reply leaves out, besides those in its packed update.

    Parameters
    ----------
    unchanged : frozenset[str]
        Names of the entries that the client returns as it was sent them.
    same : Mapping[str, str]
        Name of a weight -> name of another one, whose update it has.
    """

    unchanged: frozenset[str] = frozenset()
    same: Mapping[str, str] = field(default_factory=dict)


def mask_of(chosen: Collection[str], names: Iterable[str]) -> bytes:
    """Return one bit for each name, the first in the lowest bit: 1 if it is among the chosen."""
    return np.packbits([name in chosen for name in names], bitorder="little").tobytes()


def names_in(mask: bytes, names: Sequence[str]) -> list[str]:
    """Return the names whose bit in a mask of ``mask_of`` is 1.

    Raises
    ------
    MalformedError
        If the mask has another length than that of the names, or a bit for no name.
    """
    if len(mask) != -(-len(names) // 8):
        raise MalformedError(f"a mask of {len(mask)} bytes for {len(names)} entries")
    bits = np.unpackbits(np.frombuffer(mask, dtype=np.uint8), bitorder="little")
    if bits[len(names) :].any():
        raise MalformedError("a mask with a bit for no entry")
    return [name for name, bit in zip(names, bits.tolist(), strict=False) if bit]


def omitted_entries(content: RecordDict, names: Sequence[str], member: int | None) -> Omitted:
    """Return the entries that a reply says it leaves out; none if it does not say so.

    Parameters
    ----------
    content : RecordDict
        The reply's content; not trusted.
    names : Sequence[str]
        The names of all entries, in the model's order.
    member : int or None
        The member of an ensemble; None where there is one model.

    Raises
    ------
    MalformedError
        If what it says makes no sense.
    """
    record: Mapping[str, object] = records_of(content, ConfigRecord).get(ENTRIES, {})
    if member is not None:
        record = select_member(member, record)
    mask, pairs = record.get(UNCHANGED, b""), record.get(SAME, [])
    if not isinstance(mask, bytes) or not isinstance(pairs, list):
        raise MalformedError(f"{ENTRIES!r} holds no mask and no list")
    unchanged = frozenset(names_in(mask, names) if mask else ())
    if len(pairs) % 2 or not all(type(p) is int and 0 <= p < len(names) for p in pairs):
        raise MalformedError(f"{ENTRIES!r} names entries that there are not")
    places = zip(pairs[::2], pairs[1::2], strict=True)
    return Omitted(unchanged, {names[place]: names[other] for place, other in places})


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors have the same shape, dtype and bits; NaN equals the same NaN."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    flat = [tensor.detach().cpu().contiguous().reshape(-1) for tensor in (one, other)]
    if one.is_complex():
        flat = [torch.view_as_real(tensor).reshape(-1) for tensor in flat]
    return torch.equal(flat[0].view(torch.uint8), flat[1].view(torch.uint8))
