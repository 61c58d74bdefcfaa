"""The record of what was released: budget that has been spent, whatever became of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self, final


@final
@dataclass(frozen=True)
class Release:
    """A noised sum that may have left the server.

    Parameters
    ----------
    round : int
        The round.
    digest : str
        A hash of the noised sum: the same one again spends nothing.
    multiplier : float
        The noise multiplier that is accounted for.
    """

    round: int
    digest: str
    multiplier: float


class Ledger:
    """Keeps releases in memory; one that survives the process overrides both methods."""

    durable: ClassVar[bool] = False
    """True if it survives the process, so that it has every release that a checkpoint knows."""

    def __init__(self) -> None:
        self._releases: list[Release] = []

    def read(self) -> Sequence[Release]:
        """Return all releases so far, those of earlier processes among them."""
        return tuple(self._releases)

    def add(self, release: Release) -> None:
        """Keep a release; it may leave the server once this returns."""
        self._releases.append(release)


@final
@dataclass(frozen=True)
class PrivacyState:
    """State that differential privacy carries from one round to the next.

    Parameters
    ----------
    multiplier : float
        The noise multiplier that is accounted for; that of the run's first process.
    clipping_norm : float
        The clipping norm of the next round.
    releases : Mapping[int, tuple[str, ...]]
        Round -> digests of the noised sums of it that may have left the server: one, or more if a
        round was repeated after a crash and came out otherwise.
    """

    multiplier: float
    clipping_norm: float
    releases: Mapping[int, tuple[str, ...]] = field(default_factory=dict)

    @property
    def counts(self) -> dict[int, int]:
        """Round -> number of its releases."""
        return {number: len(digests) for number, digests in self.releases.items()}

    def with_release(self, number: int, digest: str) -> Self:
        """Return the state after a release; itself if that was made before."""
        known = self.releases.get(number, ())
        if digest in known:
            return self
        return replace(self, releases={**self.releases, number: (*known, digest)})
