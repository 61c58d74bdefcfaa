"""Payloads are the same bits with and without numba, and on any number of threads."""

import threading

import numpy as np
import pytest
import torch

from hqde_fl.codec import (
    Codec,
    EntropyCoded,
    Quantized,
    Rotated,
    TopK,
    compiled,
    entropy_coder,
    parallel,
    quantized,
    rotation,
)
from tests.hqde_fl.codec import inputs

SIZE = 150_003
CODECS = {
    "rotated": Rotated(),
    "rotated, blocks of 512": Rotated(Quantized(1, 128, "lloyd-max"), block=512, rounds=1),
    "rotated, entropy-coded": Rotated(EntropyCoded(2)),
    "quantized": Quantized(3),
    "quantized, sign": Quantized(1),
    "quantized, nearest": Quantized(11, unbiased=False),
    "lloyd-max, biased": Quantized(5, levels="lloyd-max", unbiased=False),
    "entropy-coded": EntropyCoded(2),
    "entropy-coded, low bits": EntropyCoded(11),
    "entropy-coded, dead zone": EntropyCoded(1, dead_zone=0.3),
    "top-k": TopK(0.4, Quantized(4)),
}


def outcome(codec: Codec, delta: torch.Tensor, drawn: int = 0) -> tuple[bytes, bytes, float]:
    """Return a payload, the bytes of its numbers, and what the generator draws next."""
    rng = inputs.SEEDS.numpy("kernels")
    rng.random(drawn, dtype=np.float32)
    payload, _ = codec.encode(delta, {}, rng)
    return payload, codec.decode(payload, len(delta)).numpy().tobytes(), rng.random()


def unequal() -> torch.Tensor:
    """Return numbers of many sizes, a tenth of them zero."""
    rng = np.random.default_rng(3)
    numbers = rng.standard_t(3, SIZE) * np.repeat(10.0 ** rng.uniform(-3, 0, 151), 1000)[:SIZE]
    numbers[rng.random(SIZE) < 0.1] = 0
    return torch.from_numpy(numbers).float()


@pytest.mark.skipif(not compiled.has_numba(), reason="numba (extra fast) is not installed")
@pytest.mark.parametrize("name", CODECS)
def test_numba_and_numpy_agree_bit_for_bit(name, monkeypatch):
    monkeypatch.setattr(entropy_coder, "MIN_COMPILED", 1)
    deltas = [unequal(), inputs.gaussian(SIZE // 2)]
    assert min(map(len, deltas)) >= compiled.MIN_COMPILED
    fast = [outcome(CODECS[name], delta) for delta in deltas]
    monkeypatch.setattr(compiled, "has_numba", lambda: False)
    assert [outcome(CODECS[name], delta) for delta in deltas] == fast


@pytest.mark.parametrize("drawn", [0, 1])
@pytest.mark.parametrize("name", CODECS)
def test_any_number_of_threads_gives_the_same_bits(name, drawn, monkeypatch):
    monkeypatch.setattr(parallel, "MIN_SHARED", 1)
    outcomes = []
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        outcomes.append(outcome(CODECS[name], unequal(), drawn))
        monkeypatch.setattr(quantized, "_TILE", 1 << 13)  # then there is something to share
        monkeypatch.setattr(parallel, "TILE", 1 << 13)
        monkeypatch.setattr(rotation, "_BATCH", 1)
    assert outcomes[0] == outcomes[1]


def test_what_a_part_raises_is_raised_and_no_further_part_begins(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    begun = []

    def work(part: int) -> None:
        begun.append(part)
        if part >= 3:
            raise ValueError(f"part {part}")

    with pytest.raises(ValueError, match="part"):
        parallel.each(work, range(1000), parallel.MIN_SHARED)
    assert len(begun) <= 5  # each of two threads ends at its first error


def test_a_thread_that_works_alone_gets_no_help(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    names = set()
    with parallel.alone():
        parallel.each(lambda _: names.add(threading.get_ident()), range(9), parallel.MIN_SHARED)
    assert names == {threading.get_ident()}
    assert parallel.threads() == 2
