"""Layouts: what is taken apart comes back, for every dtype, role, shape and tie."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hqde_fl.updates.layout import Entry, Layout, to_numbers
from hqde_fl.updates.roles import SUPPORTED_DTYPES, Role, Roles, is_complex, is_floating

Triple = tuple[str, tuple[int, ...], str]
SHAPES = st.lists(st.integers(0, 3), max_size=3).map(tuple)


@st.composite
def models(draw: st.DrawFn) -> tuple[list[Triple], Roles]:
    """Return arrays of any dtype and shape, with roles and ties that they may have."""
    arrays: list[Triple] = []
    roles: dict[str, Role] = {}
    tied: dict[str, str] = {}
    for number in range(draw(st.integers(0, 7))):
        name = f"entry.{number}"
        firsts = [n for n, _, _ in arrays if n not in tied]
        if firsts and draw(st.integers(0, 3)) == 0:
            first = draw(st.sampled_from(firsts))
            tied[name] = first
            roles[name] = roles[first]
            arrays.append(next((name, shape, dtype) for n, shape, dtype in arrays if n == first))
            continue
        dtype = draw(st.sampled_from(sorted(SUPPORTED_DTYPES)))
        possible = [r for r in get_args(Role) if r != "trainable" or is_floating(dtype)]
        roles[name] = draw(st.sampled_from(possible))
        arrays.append((name, draw(SHAPES), dtype))
    buffers = draw(st.sets(st.sampled_from(sorted(roles)))) if roles else set()
    return arrays, Roles(roles, tied, frozenset(buffers))


def state_of(layout: Layout, seed: int) -> dict[str, Tensor]:
    """Return a state dict with numbers that differ from entry to entry; tied ones are the same."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    for entry in layout.entries:
        if entry.tied_to is not None:
            state[entry.name] = state[entry.tied_to]
            continue
        numbers = torch.randint(-4, 5, (entry.numbers,), generator=generator, dtype=torch.float64)
        numbers = numbers / 4 if is_floating(entry.dtype) else numbers
        state[entry.name] = entry.from_numbers(numbers)
    return state


def equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return list(one) == list(other) and all(
        one[n].dtype == other[n].dtype and torch.equal(one[n], other[n]) for n in one
    )


@given(models(), st.integers(0, 99))
def test_restore_undoes_flatten(model: tuple[list[Triple], Roles], seed: int) -> None:
    layout = Layout.of(*model)
    state = state_of(layout, seed)
    flat, others = layout.flatten(state)
    assert (flat.shape, flat.dtype) == ((layout.size,), layout.dtype)
    assert set(others) == {e.name for e in layout.others}
    assert equal(layout.restore(flat, others), state)
    wide = layout.restore(flat.to(torch.float64), others)  # whatever a rule's dtype was
    assert equal(wide, state)


@given(models(), st.integers(0, 99))
def test_flatten_undoes_restore(model: tuple[list[Triple], Roles], seed: int) -> None:
    layout = Layout.of(*model)
    generator = torch.Generator().manual_seed(seed)
    flat = torch.randint(-9, 9, (layout.size,), generator=generator).to(layout.dtype)
    _, others = layout.flatten(state_of(layout, seed))
    again, others_again = layout.flatten(layout.restore(flat, others))
    assert torch.equal(again, flat)
    assert all(others_again[name] is others[name] for name in others)


@given(models())
def test_every_entry_has_one_place(model: tuple[list[Triple], Roles]) -> None:
    layout = Layout.of(*model)
    assert [e.name for e in layout.entries] == [name for name, _, _ in model[0]]
    groups = [layout.weights, layout.others, layout.tied]
    assert sorted(e.name for group in groups for e in group) == sorted(layout.by_name)
    covered = [i for e in layout.weights for i in range(e.span.start, e.span.stop)]
    assert covered == list(range(layout.size))
    assert {e.role for e in layout.weights} <= {"trainable"}
    assert layout.dtype in (torch.float32, torch.float64)
    for entry in layout.weights:
        assert entry.numbers == math.prod(entry.shape) * (2 if is_complex(entry.dtype) else 1)


@given(models())
def test_codes_make_the_same_layout(model: tuple[list[Triple], Roles]) -> None:
    layout = Layout.of(*model)
    again = Layout.from_codes(model[0], layout.codes, layout.tied_pairs)
    assert (again.codes, again.tied_pairs) == (layout.codes, layout.tied_pairs)
    assert not again.inferred
    places = [(e.name, e.shape, e.dtype, e.offset, e.role, e.tied_to) for e in layout.entries]
    assert places == [
        (e.name, e.shape, e.dtype, e.offset, e.role, e.tied_to) for e in again.entries
    ]


@given(models(), st.integers(0, 99), st.randoms(use_true_random=False))
def test_other_roles_keep_the_order_of_weights_and_append_new_ones(
    model: tuple[list[Triple], Roles], seed: int, random: object
) -> None:
    layout = Layout.of(*model)
    firsts = [e for e in layout.entries if e.tied_to is None]
    roles: dict[str, Role] = {
        e.name: "frozen" if e.role == "trainable" else "trainable"
        for e in firsts
        if is_floating(e.dtype) and random.choice([True, False])  # type: ignore[attr-defined]
    }
    changed = layout.with_roles(roles, {})
    before = [e.name for e in layout.weights if e.numbers]
    after = [e.name for e in changed.weights if e.numbers]
    stay = [name for name in before if name in after]
    new = [e.name for e in layout.entries if e.name in after and e.name not in before]
    assert after == stay + new
    assert all(e.role == changed.by_name[e.tied_to].role for e in changed.tied if e.tied_to)
    state = state_of(layout, seed)
    assert equal(changed.restore(*changed.flatten(state)), state)
    back = {e.name: e.role for e in firsts}
    assert changed.with_roles(back, {}).codes == layout.codes


ARRAYS: list[Triple] = [("a", (2,), "float32"), ("b", (2,), "float32"), ("c", (), "int64")]


def test_entries_are_tied_and_untied_with_their_roles() -> None:
    layout = Layout.of(ARRAYS)
    tied = layout.with_roles({}, {"b": "a"})
    assert (tied.size, tied.codes, tied.tied_pairs) == (2, "ttc", [1, 0])
    frozen = tied.with_roles({"a": "frozen"}, {})
    assert (frozen.size, frozen.codes) == (0, "ffc")
    apart = tied.with_roles({}, {"b": None})
    assert apart == layout
    state = {"a": torch.ones(2), "b": torch.zeros(2), "c": torch.tensor(1)}
    assert torch.equal(tied.with_ties(state)["b"], torch.ones(2))


def test_weights_that_come_back_follow_after_those_that_stayed() -> None:
    layout = Layout.of(ARRAYS).with_roles({"a": "frozen"}, {}).with_roles({"a": "trainable"}, {})
    assert [e.name for e in layout.weights] == ["b", "a"]
    flat, others = layout.flatten({"a": torch.ones(2), "b": torch.zeros(2), "c": torch.tensor(1)})
    assert flat.tolist() == [0, 0, 1, 1]
    assert list(layout.restore(flat, others)) == ["a", "b", "c"]


def test_roles_are_inferred_where_none_are_given() -> None:
    arrays: list[Triple] = [
        ("w", (3,), "bfloat16"),
        ("n.running_var", (2,), "float32"),
        ("n.steps", (), "int64"),
    ]
    layout = Layout.of(arrays)
    assert (layout.inferred, layout.codes, layout.size) == (True, "tsc", 3)
    assert [e.is_variance for e in layout.entries] == [False, True, False]
    assert not Layout.of(arrays, Roles()).inferred
    assert Layout.of(
        arrays, Roles({"n.*": "frozen"}, buffers=frozenset({"n.running_var"}))
    ).codes == ("tbf")


@pytest.mark.parametrize(
    ("dtypes", "flat"),
    [
        ((), torch.float32),
        (("float16", "bfloat16", "complex64"), torch.float32),
        (("float32", "float64"), torch.float64),
        (("float32", "complex128"), torch.float64),
    ],
)
def test_the_flat_vector_has_the_widest_dtype_of_the_weights(
    dtypes: tuple[str, ...], flat: torch.dtype
) -> None:
    arrays: list[Triple] = [(dtype, (1,), dtype) for dtype in dtypes]
    frozen: Triple = ("other", (1,), "float64")
    layout = Layout.of([*arrays, frozen], Roles({"other": "frozen"}))
    assert layout.dtype == flat
    assert layout.flatten({n: torch.ones(1) for n, _, _ in [*arrays, frozen]})[0].dtype == flat


def test_complex_numbers_are_pairs_of_reals() -> None:
    numbers = torch.tensor([[1 - 2j, 3j]])
    assert to_numbers(numbers).tolist() == [1, -2, 0, 3]
    assert to_numbers(numbers.conj()).tolist() == [1, 2, 0, -3]
    entry = Entry("x", (1, 2), "complex64", 0)
    assert torch.equal(entry.from_numbers(torch.tensor([1.0, -2, 0, 3])), numbers)
    half = entry.from_numbers(torch.tensor([1.0, -2, 0, 3], dtype=torch.float64))
    assert torch.equal(half, numbers)
    assert half.dtype == torch.complex64


@pytest.mark.parametrize("codes", ["tt", "ttcc"])
def test_codes_of_another_number_of_entries_are_refused(codes: str) -> None:
    with pytest.raises(ValueError, match="argument"):
        Layout.from_codes(ARRAYS, codes, [])
