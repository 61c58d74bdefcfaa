"""Input vectors for the tests of every codec."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from hqde_fl.codec import (
    AdaptiveQuantizer,
    Codec,
    EntropyCoded,
    ErrorFeedback,
    Identity,
    Quantized,
    Rotated,
    TopK,
)
from hqde_fl.seeding import Seeds

SEEDS = Seeds(7)

CODECS: tuple[Codec, ...] = (
    Identity(),
    *(Quantized(bits) for bits in (1, 2, 3, 4, 7, 8, 11, 16)),
    Quantized(4, block=64, unbiased=False),
    Quantized(3, levels="lloyd-max"),
    Quantized(8, levels="lloyd-max", unbiased=False),
    Rotated(),
    Rotated(Quantized(2, block=64), block=64, rounds=1),
    Rotated(EntropyCoded(3)),
    EntropyCoded(0.5),
    EntropyCoded(2, dead_zone=0.1),
    EntropyCoded(9),
    EntropyCoded(step=0.25),
    AdaptiveQuantizer(),
    AdaptiveQuantizer(2.1, 0, 16, block=64),
    AdaptiveQuantizer(4, 1, 12, allocation="importance", block=64),
    TopK(0.05),
    TopK(1.0, Quantized(4)),
    TopK(0.3, Rotated(Quantized(4))),
    ErrorFeedback(),
    ErrorFeedback(TopK(0.1, EntropyCoded(3))),
)


def gaussian(size: int, *name: str | int) -> Tensor:
    return torch.randn(size, generator=SEEDS.torch("gaussian", *name))


@lru_cache
def inputs(size: int) -> dict[str, Tensor]:
    """Vectors by name, all float32; not to be written to."""
    rng = SEEDS.numpy("inputs", size)
    sparse = gaussian(size, "sparse")
    sparse[torch.from_numpy(rng.random(size) > 0.01)] = 0
    outlier = gaussian(size, "outlier")
    outlier[size // 3] = 1e4
    skewed = gaussian(size, "outlier")
    skewed[size // 3] = 100.0
    mixed = gaussian(size, "mixed") * torch.logspace(-2, 0, size)
    return {
        "gaussian": gaussian(size),
        "laplace": torch.from_numpy(rng.laplace(size=size)).float(),
        "student-t": torch.from_numpy(rng.standard_t(3, size)).float(),
        "sparse": sparse,
        "constant": torch.full((size,), 0.3),
        "zero": torch.zeros(size),
        "outlier": outlier,
        "skewed": skewed,
        "denormal": gaussian(size, "denormal") * 1e-40,
        "mixed": mixed,
        "huge": gaussian(size, "huge") * 1e35,
        "largest": torch.full((size,), 2.0**120),
        "integers": torch.arange(size, dtype=torch.float32) % 5 - 2,
    }


def nmse(found: Tensor, wanted: Tensor) -> float:
    """Return squared error over squared norm; the squared error itself for a zero vector."""
    error = float((found.double() - wanted.double()).square().sum())
    norm = float(wanted.double().square().sum())
    return error / norm if norm else error
