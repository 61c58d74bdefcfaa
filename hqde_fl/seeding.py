"""One root seed, and from it any number of named, independent generators.

A generator is named by its purpose (``seeds.numpy("client", 3, round)``), not by the order of
calls: the same name gives the same numbers in every process, in any order. The names are hashed
into the spawn key of NumPy's ``SeedSequence``, so that neighbouring names share nothing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

SEED_WORDS = 4
"""Words to which NumPy's ``SeedSequence`` pads a seed before a spawn key."""


@dataclass(frozen=True)
class Seeds:
    """A root seed from which named generators are derived.

    Parameters
    ----------
    root : int
        The seed of the run, >= 0.
    """

    root: int

    def sequence(self, *name: str | int) -> np.random.SeedSequence:
        """Return the ``SeedSequence`` that the root seed and the parts of a name determine."""
        words = np.frombuffer(_digest(name), dtype="<u4").tolist()
        return np.random.SeedSequence(self.root, spawn_key=tuple(words))

    def integer(self, *name: str | int) -> int:
        """Return the seed in [0, 2^63) that the root seed and a name determine."""
        words = np.frombuffer(_digest(name), dtype="<u4").astype(np.uint32)
        # the same words as those of ``sequence``, in the form that NumPy need not convert
        mixed = np.random.SeedSequence(np.concatenate((_root_words(int(self.root)), words)))
        return int(mixed.generate_state(1, np.uint64)[0] >> np.uint64(1))

    def numpy(self, *name: str | int) -> np.random.Generator:
        """Return a new NumPy generator, seeded by the root seed and a name."""
        return np.random.default_rng(self.sequence(*name))

    def torch(self, *name: str | int) -> torch.Generator:
        """Return a new torch generator on the CPU, seeded by the root seed and a name."""
        import torch  # slow to load, and not needed for most seeds

        return torch.Generator().manual_seed(self.integer(*name))


def _digest(name: tuple[str | int, ...]) -> bytes:
    return hashlib.sha256("\x1f".join(map(repr, name)).encode()).digest()


@lru_cache(maxsize=64)
def _root_words(root: int) -> npt.NDArray[np.uint32]:
    """Return the words of a root seed as ``SeedSequence`` puts them before those of a spawn key."""
    if root < 0:
        raise ValueError(f"a root seed must be >= 0, found {root}")
    words = [root >> shift & 0xFFFFFFFF for shift in range(0, max(root.bit_length(), 1), 32)]
    return np.array(words + [0] * (SEED_WORDS - len(words)), dtype=np.uint32)
