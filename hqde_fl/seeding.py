"""One root seed, and from it any number of named, independent generators.

A generator is named by its purpose (``seeds.numpy("client", 3, round)``), not by the order of
calls: the same name gives the same numbers in every process, in any order. The names are hashed
into the spawn key of NumPy's ``SeedSequence``, so that neighbouring names share nothing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


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
        digest = hashlib.sha256("\x1f".join(map(repr, name)).encode()).digest()
        words = np.frombuffer(digest, dtype="<u4").tolist()
        return np.random.SeedSequence(self.root, spawn_key=tuple(words))

    def integer(self, *name: str | int) -> int:
        """Return the seed in [0, 2^63) that the root seed and a name determine."""
        return int(self.sequence(*name).generate_state(1, np.uint64)[0] >> np.uint64(1))

    def numpy(self, *name: str | int) -> np.random.Generator:
        """Return a new NumPy generator, seeded by the root seed and a name."""
        return np.random.default_rng(self.sequence(*name))

    def torch(self, *name: str | int) -> torch.Generator:
        """Return a new torch generator on the CPU, seeded by the root seed and a name."""
        import torch  # slow to load, and not needed for most seeds

        return torch.Generator().manual_seed(self.integer(*name))
