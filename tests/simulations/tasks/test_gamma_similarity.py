from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hqde_fl.errors import ConfigError
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.tasks import PARTITIONERS
from hqde_fl.simulations.tasks.gamma_similarity import GammaSimilarity

LABELS = np.random.default_rng(0).permutation(np.arange(600) % 10)


def oracle(labels, count, gamma, seed):
    """Divide as byzfl does, by plain loops; the iid part is drawn from all of the data."""
    order = Seeds(seed).numpy("partition", "order").permutation(len(labels)).tolist()
    first = int(gamma * len(labels))
    rest = sorted((labels[i], i) for i in order[first:])
    parts = [[] for _ in range(count)]
    for piece in (order[:first], [i for _, i in rest]):
        start = 0
        for client in range(count):
            size = len(piece) // count + (client < len(piece) % count)
            parts[client] += piece[start : start + size]
            start += size
    return [sorted(part) for part in parts]


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=40),
    gamma=st.floats(0, 1),
    seed=st.integers(0, 5),
    data=st.data(),
)
def test_both_parts_are_dealt_as_plain_loops_do(labels, gamma, seed, data):
    count = data.draw(st.integers(1, len(labels)))
    expected = oracle(labels, count, gamma, seed)
    parts = GammaSimilarity(gamma).split(np.array(labels), count, seed)
    for part, wanted in zip(parts, expected, strict=True):
        if wanted:
            assert set(part.tolist()) <= set(wanted)
            assert len(wanted) - len(part) <= sum(not other for other in expected)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))


def test_gamma_zero_sorts_and_gamma_one_is_iid():
    sorted_parts = GammaSimilarity(0).split(LABELS, 10, 0)
    assert [set(LABELS[part].tolist()) for part in sorted_parts] == [{c} for c in range(10)]
    for part in GammaSimilarity(1).split(LABELS, 10, 0):
        assert len(Counter(LABELS[part].tolist())) >= 8


def test_clients_are_the_more_alike_the_larger_gamma_is():
    def spread(gamma):
        parts = GammaSimilarity(gamma).split(LABELS, 10, 0)
        return np.mean([np.bincount(LABELS[part], minlength=10).std() for part in parts])

    assert spread(0.0) > spread(0.33) > spread(0.66) > spread(1.0)


def test_its_own_seed_fixes_the_division_and_labels_need_not_be_classes():
    fixed = GammaSimilarity(0.5, seed=3)
    for one, two in zip(fixed.split(LABELS, 4, 0), fixed.split(LABELS, 4, 1), strict=True):
        assert np.array_equal(one, two)
    values = np.linspace(1, 0, 40)
    for labels in (values, values[:, None]):
        parts = GammaSimilarity(0).split(labels, 4, 0)
        assert [part.min() for part in parts] == [30, 20, 10, 0]
    names = np.array(["b", "a"] * 4)
    assert GammaSimilarity(0).split(names, 2, 0)[0].tolist() == [1, 3, 5, 7]


@pytest.mark.parametrize("gamma", [-0.1, 1.1, float("nan")])
def test_other_fractions_are_refused(gamma):
    with pytest.raises(ConfigError, match=r"GammaSimilarity\.gamma must be in \[0, 1\], found"):
        GammaSimilarity(gamma)


def test_impossible_seeds_and_labels_are_refused():
    with pytest.raises(ConfigError, match=r"GammaSimilarity\.seed must be >= 0, found -1"):
        PARTITIONERS.build({"name": "gamma-similarity", "seed": -1})
    with pytest.raises(ConfigError, match=r"one label .* found labels of shape \(6, 3\)"):
        GammaSimilarity().split(np.ones((6, 3)), 2, 0)
