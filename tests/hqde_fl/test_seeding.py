"""Named generators: the numbers depend on the name alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hqde_fl.seeding import Seeds


def test_names_determine_the_numbers_not_the_order_of_calls() -> None:
    first = Seeds(7).numpy("client", 3, 1).random(4)
    Seeds(7).numpy("other").random(100)
    assert np.array_equal(first, Seeds(7).numpy("client", 3, 1).random(4))


def test_neighbouring_names_and_roots_share_nothing() -> None:
    names = [("client", 3), ("client", 4), ("client", "3"), ("client3",), ("cli", "ent", 3)]
    drawn = [Seeds(root).integer(*name) for root in (0, 1) for name in names]
    assert len(set(drawn)) == len(drawn)
    assert all(0 <= number < 2**63 for number in drawn)


def test_golden_values_pin_the_derivation() -> None:
    """A changed derivation changes every published number: it must not happen unnoticed."""
    assert Seeds(7).integer("client", 3, 1) == 8615903473260099000


@pytest.mark.parametrize("root", [0, 7, 2**32 - 1, 2**32, 2**63 + 5, 2**127, 2**128 + 1, 2**200])
def test_integers_are_the_first_numbers_of_the_sequences(root: int) -> None:
    seeds = Seeds(root)
    names: list[tuple[str | int, ...]] = [("client", 3, 1), ("round",), (), (-1, 2**70)]
    for name in names:
        first = seeds.sequence(*name).generate_state(1, np.uint64)[0]
        assert seeds.integer(*name) == int(first) >> 1


def test_torch_generators_are_seeded_and_leave_the_global_one_alone() -> None:
    before = torch.random.get_rng_state()
    first = torch.rand(3, generator=Seeds(1).torch("a"))
    assert torch.equal(first, torch.rand(3, generator=Seeds(1).torch("a")))
    assert torch.equal(before, torch.random.get_rng_state())
