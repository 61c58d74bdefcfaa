"""How well a run told its faulty clients from the honest ones: a simulation knows who is who."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

FLAGS = ("filtered", "rejected", "failed")
"""How the reason of a client that was excluded as faulty begins; a late one is only slow."""


def is_flagged(client: Mapping[str, Any]) -> bool:
    """Whether a line of ``clients.jsonl`` excludes its client as faulty."""
    return str(client["reason"] or "").startswith(FLAGS)


@dataclass(frozen=True)
class Detection:
    """Counts of clients, each once for every round it took part in.

    Parameters
    ----------
    faulty, honest : int
        Who took part.
    caught : int
        Faulty and excluded.
    false_alarms : int
        Honest and excluded.
    """

    faulty: int
    honest: int
    caught: int
    false_alarms: int

    @classmethod
    def of(cls, clients: Iterable[Mapping[str, Any]]) -> Self:
        """Count lines of ``clients.jsonl``; clients without a partition id are left out.

        Parameters
        ----------
        clients : Iterable[Mapping[str, Any]]
            The lines; ``fault`` says what a client was told to do wrong in that round, if anything.
        """
        known = [each for each in clients if each["partition"] is not None]
        bad = [is_flagged(each) for each in known if each["fault"]]
        good = [is_flagged(each) for each in known if not each["fault"]]
        return cls(len(bad), len(good), sum(bad), sum(good))

    @classmethod
    def total(cls, parts: Iterable[Detection]) -> Self:
        """The counts of several runs together."""
        counts = [(each.faulty, each.honest, each.caught, each.false_alarms) for each in parts]
        return cls(*(sum(column) for column in zip((0, 0, 0, 0), *counts, strict=True)))

    @property
    def precision(self) -> float | None:
        """Share of the excluded that were faulty; None if nobody was excluded."""
        excluded = self.caught + self.false_alarms
        return self.caught / excluded if excluded else None

    @property
    def recall(self) -> float | None:
        """Share of the faulty that were excluded; None if nobody is faulty."""
        return self.caught / self.faulty if self.faulty else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall; None if nobody is faulty or was excluded."""
        everybody = self.faulty + self.caught + self.false_alarms
        return 2 * self.caught / everybody if everybody else None

    @property
    def alarm_rate(self) -> float | None:
        """Share of the honest that were excluded; None if nobody is honest."""
        return self.false_alarms / self.honest if self.honest else None

    def to_line(self) -> dict[str, int | float | None]:
        """What a line of ``rounds.jsonl`` says of it."""
        return {
            "faulty": self.faulty,
            "honest": self.honest,
            "caught": self.caught,
            "false-alarms": self.false_alarms,
            "precision": self.precision,
            "recall": self.recall,
        }
