"""Received models, read as updates without a copy."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hqde_fl.rules import ByzantineFilter, Krum, Median, aggregate
from hqde_fl.updates import Updates
from hqde_fl.updates.received_updates import ReceivedModel, ReceivedUpdates, received_columns

SIZES = (1, 700, 0, 3, 1296)
D = sum(SIZES)


def received(seed: int, base: torch.Tensor) -> ReceivedModel:
    model = base + torch.randn(D, generator=torch.Generator().manual_seed(seed))
    return ReceivedModel(tuple(part.numpy() for part in model.split(SIZES)), base)


BASE = torch.randn(D, generator=torch.Generator().manual_seed(99))
MIXED = [
    received(0, BASE),
    torch.arange(D, dtype=torch.float32),
    *(received(k, BASE) for k in range(1, 9)),
]
ALL_SENT = [received(k, BASE) for k in range(10)]


def deltas(rows):  # type: ignore[no-untyped-def]
    return torch.stack([row.delta() if isinstance(row, ReceivedModel) else row for row in rows])


@pytest.mark.parametrize("rows", [MIXED, ALL_SENT], ids=["mixed", "all sent"])
@given(cut=st.tuples(st.integers(0, D - 1), st.integers(1, D)))
def test_a_tile_is_cut_from_the_differences(rows, cut) -> None:  # type: ignore[no-untyped-def]
    start, stop = min(cut), max(*cut, min(cut) + 1)
    columns, expected = received_columns(rows), deltas(rows)
    assert isinstance(columns, ReceivedUpdates)
    assert (columns.shape, columns.dtype) == ((10, D), torch.float32)
    assert torch.equal(columns.tile(start, stop), expected[:, start:stop])
    some = columns.select([7, 1])
    assert torch.equal(some.tile(start, stop), expected[[7, 1], start:stop])


@pytest.mark.parametrize("rule", [Krum(2), Median(), ByzantineFilter()], ids=str)
def test_rules_see_the_same_updates(rule) -> None:  # type: ignore[no-untyped-def]
    written = aggregate(rule, Updates(list(deltas(MIXED))))
    assert torch.equal(aggregate(rule, received_columns(MIXED)).delta, written.delta)


def test_updates_alone_and_models_of_different_bases_are_plain_updates() -> None:
    plain = [MIXED[1], MIXED[1] + 1]
    assert isinstance(received_columns(plain), Updates)
    apart = [received(0, BASE), received(0, BASE + 1)]
    found = received_columns(apart)
    assert isinstance(found, Updates)
    assert torch.equal(found.tile(0, D), deltas(apart))
