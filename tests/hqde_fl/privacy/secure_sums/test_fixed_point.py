"""Updates as integers: what is lost, and what is not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hqde_fl.privacy.secure_sums.fixed_point import FixedPoint, rotate
from hqde_fl.privacy.secure_sums.noise import noise_share, sum_deviation

SIZES = st.integers(1, 300)


@given(SIZES, st.integers(0, 2**32))
def test_a_rotation_keeps_lengths_and_is_undone(size, seed):
    vector = np.random.default_rng(seed).standard_normal(size)
    rotated = rotate(vector, seed)
    assert np.linalg.norm(rotated) == pytest.approx(np.linalg.norm(vector))
    np.testing.assert_allclose(rotate(rotated, seed, back=True), vector, atol=1e-12)


@given(SIZES, st.integers(1, 24), st.integers(0, 2**32))
def test_integers_are_in_their_range(size, bits, seed):
    rng = np.random.default_rng(seed)
    form = FixedPoint(bits, 1.0)
    update = rng.standard_normal(size) * 10.0 ** rng.integers(-6, 6)
    words, clipped = form.encode(update, seed, rng)
    assert words.dtype == np.uint32
    assert int(words.max()) <= form.levels
    assert clipped == (np.linalg.norm(update) > 1.0)


@given(SIZES, st.integers(1, 20), st.integers(0, 2**32))
def test_the_mean_of_some_updates(size, clients, seed):
    rng = np.random.default_rng(seed)
    form = FixedPoint(20, 2.0)
    updates = rng.standard_normal((clients, size))
    updates /= np.maximum(1.0, np.linalg.norm(updates, axis=1) / 2.0)[:, None]
    total = sum(form.encode(update, seed, rng)[0].astype(np.int64) for update in updates)
    step = 2 * form.bound(size) / form.levels
    error = np.linalg.norm(form.mean(total, clients, seed) - updates.mean(axis=0))
    assert error <= step * np.sqrt(size)


def test_rounding_has_no_bias():
    form, rng = FixedPoint(4, 1.0), np.random.default_rng(0)
    update = np.linspace(-0.1, 0.1, 64)
    means = [form.mean(form.encode(update, s, rng)[0].astype(np.int64), 1, s) for s in range(2000)]
    np.testing.assert_allclose(np.mean(means, axis=0), update, atol=0.01)


def test_whatever_is_summed_the_mean_is_no_longer_than_the_norm():
    form = FixedPoint(8, 0.5)
    words = np.random.default_rng(0).integers(0, 5 * form.levels, 100)
    assert np.linalg.norm(form.mean(words, 5, 1)) <= 0.5 * (1 + 1e-12)


def test_noise_has_its_deviation():
    noise = noise_share(1000.0, 200_000)
    assert noise.dtype == np.int64
    assert noise.std() == pytest.approx(1000.0, rel=0.01)
    assert abs(noise.mean()) < 5 * 1000 / np.sqrt(noise.size)
    assert sum_deviation(2.0, 100.0, 25) == 2.0 * 2 * (100 + 5)
