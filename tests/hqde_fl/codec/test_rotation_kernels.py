"""Rotations are the same bits with and without numba, and on any number of threads."""

import numpy as np
import pytest
import torch

from hqde_fl.codec import Rotated, hadamard, parallel
from tests.hqde_fl.codec import inputs


@pytest.mark.skipif(not hadamard.has_numba(), reason="numba (extra fast) is not installed")
@pytest.mark.parametrize("shape", [(4, 64, 64), (1, 64, 300), (3, 32, 500), (70, 64, 5)])
def test_numba_and_numpy_agree_bit_for_bit(shape, monkeypatch):
    stack = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    assert stack.size >= hadamard.MIN_COMPILED
    compiled = stack.copy()
    hadamard.transform(compiled)
    monkeypatch.setattr(hadamard, "has_numba", lambda: False)
    hadamard.transform(stack)
    assert compiled.tobytes() == stack.tobytes()


def test_any_number_of_threads_gives_the_same_bits(monkeypatch):
    monkeypatch.setattr(parallel, "MIN_SHARED", 1)
    size = 300_003
    delta = inputs.gaussian(size)
    outcomes = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        payload, _ = Rotated().encode(delta, {}, inputs.SEEDS.numpy("threads"))
        outcomes.append((payload, Rotated().decode(payload, size).numpy().tobytes()))
    assert outcomes[0] == outcomes[1] == outcomes[2]
