"""Merge the entries that are not trained: statistics and counters of the clients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hqde_fl.rules import Aggregate, Aggregator, Mean
from hqde_fl.updates.layout import to_numbers

Entries = Mapping[str, Tensor]
"""A client's statistics and counters by name."""


def merge_others(rule: Aggregator, outcome: Aggregate, replies: Sequence[Entries]) -> Entries:
    """Return the clients' merged statistics and counters; statistics never depend on one client.

    Under ``Mean`` alone statistics are their mean, weighted like the updates. Under every other
    rule, and for counters, they are the coordinate-wise (lower) median over the clients that the
    rule kept, if these are more than twice as many as could be faulty, else over all clients: the
    rule looks at weights only, and a rule that keeps few would let one client set them.

    Parameters
    ----------
    rule : Aggregator
        The rule that merged the weights.
    outcome : Aggregate
        Its result, with the clients' influence and those that it filtered.
    replies : Sequence[Entries]
        Each client's entries, in the order of the outcome's rows; at least one client.
    """
    n = len(replies)
    kept = [row for row, filtered in enumerate(outcome.filtered.tolist()) if not filtered]
    rows = kept if len(kept) > 2 * rule.breakdown(n) else list(range(n))
    chosen = [replies[row] for row in rows]
    if not isinstance(rule, Mean):
        return median_entries(chosen)
    return mean_entries(chosen, outcome.influence[rows].double())


def median_entries(replies: Sequence[Entries]) -> Entries:
    """Return the coordinate-wise (lower) median of the clients' entries, in their own dtypes."""
    return {name: _median([entries[name] for entries in replies]) for name in replies[0]}


def mean_entries(replies: Sequence[Entries], weights: Tensor | None = None) -> Entries:
    """Return the mean of floating-point entries and the (lower) median of all others.

    Parameters
    ----------
    replies : Sequence[Entries]
        Each client's entries; at least one client.
    weights : Tensor, optional
        (n,) float64 weights that sum to one; equal ones if not given.
    """
    if weights is None:
        weights = torch.ones(len(replies), dtype=torch.float64) / len(replies)
    return {
        name: _mean([entries[name] for entries in replies], weights)
        if value.is_floating_point() or value.is_complex()
        else _median([entries[name] for entries in replies])
        for name, value in replies[0].items()
    }


def _median(values: Sequence[Tensor]) -> Tensor:
    """Return the coordinate-wise (lower) median of tensors; complex numbers count as pairs."""
    first = values[0]
    stack = torch.stack([to_numbers(value) for value in values])
    if stack.dtype == torch.bool:
        stack = stack.to(torch.uint8)
    middle = stack.sort(dim=0).values[(len(values) - 1) // 2]
    return _shaped(middle, first)


def _mean(values: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Return the weighted mean of tensors; where all are equal it has the same bits."""
    first = values[0]
    stack = torch.stack([to_numbers(value) for value in values])
    mean = (weights @ stack.double()).to(stack.dtype)
    return _shaped(torch.where((stack == stack[0]).all(dim=0), stack[0], mean), first)


def _shaped(numbers: Tensor, like: Tensor) -> Tensor:
    """Return real numbers in the shape and dtype of a tensor."""
    if like.is_complex():
        return torch.view_as_complex(numbers.reshape(*like.shape, 2))
    return numbers.to(like.dtype).reshape(like.shape)
