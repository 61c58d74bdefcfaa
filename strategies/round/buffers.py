"""Merge the integer and boolean buffers of the clients that were kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def merge_buffers(replies: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the coordinate-wise (lower) median of the clients' buffers, in their own dtypes.

    Parameters
    ----------
    replies : Sequence[Mapping[str, Tensor]]
        Integer and boolean buffers of each client, by name; at least one client.
    """
    merged = {}
    for name in replies[0]:
        stack = torch.stack([buffers[name] for buffers in replies])
        middle = (len(replies) - 1) // 2
        merged[name] = stack.to(torch.int64).sort(dim=0).values[middle].to(stack.dtype)
    return merged
