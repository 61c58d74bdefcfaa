"""The settings of a weight store, and the descriptions of its versions."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hqde_fl.errors import ConfigError, RunError


@dataclass(frozen=True)
class StoreSettings:
    """Settings of a weight store.

    Parameters
    ----------
    replicas : int
        Index actors, >= 1; each holds all versions.
    max_age : float
        Seconds after which a version is evicted, unless it is the latest of its key.
    max_bytes : float
        Bytes of all versions, at most: the oldest are evicted, but never the latest of a key.
    max_versions : int
        Versions of a key that are kept, at most: the latest; 0 for all.
    directory : str
        Folder of the checkpoints; empty for none.
    checkpoint_every : int
        Writes between two checkpoints, >= 0; 0 for none but those that are asked for.
    """

    replicas: int = 3
    max_age: float = math.inf
    max_bytes: float = math.inf
    max_versions: int = 0
    directory: str = ""
    checkpoint_every: int = 1

    def __post_init__(self) -> None:
        if self.replicas < 1:
            raise ConfigError(f"a weight store needs replicas >= 1, found {self.replicas}")
        for name in ("checkpoint_every", "max_versions", "max_age", "max_bytes"):
            if not (value := getattr(self, name)) >= 0:
                raise ConfigError(f"a weight store needs {name} >= 0, found {value}")

    @property
    def quorum(self) -> int:
        """The number of replicas that are more than half of them."""
        return self.replicas // 2 + 1


@dataclass(frozen=True)
class Version:
    """One version of a key, without its bytes.

    Parameters
    ----------
    key : str
        The key.
    version : int
        Its number, from 1.
    token : str
        Identifies the write: a write that is tried again does not make a second version.
    bytes, checksum : int
        Size and CRC-32 of its bytes.
    created : float
        When it was written, in Unix seconds.
    """

    key: str
    version: int
    token: str
    bytes: int
    checksum: int
    created: float


Index = dict[str, dict[int, Version]]
"""Key -> version -> its description."""


class SupersededError(RunError):
    """A coordinator that another one has replaced tried to write."""


class ReplicasLostError(RunError):
    """All replicas died during an operation, which may be tried again."""
