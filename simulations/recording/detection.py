"""Count which faulty and which honest clients of a simulation were filtered or never judged.

Precision, recall and F1 measure the decisions of the *rule*: which clients it filtered among those
whose updates it judged. The others (rejected by screening, failed, late, without data) are counted
separately, because a client that crashed was not detected.

An attacker counts in the rounds in which its fault acts. While it sleeps, because the fault starts
later or has stopped, the client counts neither as faulty nor as honest: to filter it is no success,
but no false alarm either. Faults that draw other clients in every round have no sleeping attackers.

With secure aggregation the rule judges buckets, so that a bucket counts in the place of its
clients, as a faulty one if one of them is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from hqde_fl.strategies.outcomes import FILTERED, UNJUDGED, outcome_of


@dataclass(frozen=True)
class Count:
    """Numbers of faulty and of honest clients, each client counted once for every round.

    Parameters
    ----------
    faulty, honest : int
        The two numbers.
    """

    faulty: int = 0
    honest: int = 0

    @classmethod
    def of(cls, clients: Iterable[Mapping[str, Any]]) -> Self:
        """Return how many lines of ``clients.jsonl`` have a fault, and how many have none."""
        faults = [bool(client["fault"]) for client in clients]
        return cls(sum(faults), len(faults) - sum(faults))

    def __add__(self, other: Count) -> Count:
        return Count(self.faulty + other.faulty, self.honest + other.honest)

    def __str__(self) -> str:
        return f"{self.faulty} / {self.honest}"


@dataclass(frozen=True)
class Detection:
    """Counts of faulty and of honest clients by outcome, and the scores made from them.

    Parameters
    ----------
    requested : Count
        Clients that were requested to train.
    judged : Count
        Clients whose update the rule kept or filtered; none if the rule cannot filter.
    filtered : Count
        Clients whose update the rule filtered.
    unjudged : Mapping[str, Count]
        Clients whose update never reached the rule, by outcome: one entry for each of ``UNJUDGED``.
    sleeping : int
        Requests to attackers while they slept, which no other count has.
    """

    requested: Count = Count()
    judged: Count = Count()
    filtered: Count = Count()
    unjudged: Mapping[str, Count] = field(default_factory=lambda: dict.fromkeys(UNJUDGED, Count()))
    sleeping: int = 0

    @classmethod
    def of(cls, clients: Iterable[Mapping[str, Any]], filters: bool = True) -> Self:
        """Return the counts over those lines of ``clients.jsonl`` that have a partition id.

        A round that left the model as it was made no decision: no client in it was judged. With
        secure aggregation a bucket counts as one client, faulty if one of its clients is.

        Parameters
        ----------
        clients : Iterable[Mapping[str, Any]]
            The lines; ``fault`` names the client's fault in that round, or is None. ``sleeping``
            tells whether the client is an attacker that sleeps; old directories do not have it.
        filters : bool, default=True
            Whether the rule is one that filters clients. Another rule judges clients only in rounds
            in which it filtered some, as it may when few updates are left.
        """
        rounds: dict[int, list[Mapping[str, Any]]] = {}
        for client in clients:
            rounds.setdefault(client["round"], []).append(client)
        return cls.total(cls._of_round(lines, filters) for lines in rounds.values())

    @classmethod
    def _of_round(cls, lines: list[Mapping[str, Any]], filters: bool) -> Self:
        decided = any(line["kept"] for line in lines)
        lines = _with_buckets(lines)
        known = [line for line in lines if line["partition"] is not None]
        outcomes = [
            (outcome_of(line["reason"]), line) for line in known if not line.get("sleeping")
        ]
        filtered = [line for outcome, line in outcomes if decided and outcome == FILTERED]
        kept = [line for _, line in outcomes if line["kept"]] if filters or filtered else []
        return cls(
            Count.of(line for _, line in outcomes),
            Count.of(kept) + Count.of(filtered),
            Count.of(filtered),
            {name: Count.of(line for out, line in outcomes if out == name) for name in UNJUDGED},
            len(known) - len(outcomes),
        )

    @classmethod
    def total(cls, parts: Iterable[Detection]) -> Self:
        """Return the sums of the counts of several runs or rounds; all are 0 if there are none."""
        parts = list(parts)
        return cls(
            sum((part.requested for part in parts), Count()),
            sum((part.judged for part in parts), Count()),
            sum((part.filtered for part in parts), Count()),
            {name: sum((part.unjudged[name] for part in parts), Count()) for name in UNJUDGED},
            sum(part.sleeping for part in parts),
        )

    @property
    def faulty(self) -> int:
        """Number of requests to train that went to faulty clients."""
        return self.requested.faulty

    @property
    def honest(self) -> int:
        """Number of requests to train that went to honest clients."""
        return self.requested.honest

    @property
    def caught(self) -> int:
        """Number of faulty clients that the rule filtered."""
        return self.filtered.faulty

    @property
    def false_alarms(self) -> int:
        """Number of honest clients that the rule filtered."""
        return self.filtered.honest

    @property
    def precision(self) -> float | None:
        """Fraction of the filtered clients that were faulty, or None if none was filtered."""
        filtered = self.caught + self.false_alarms
        return self.caught / filtered if filtered else None

    @property
    def recall(self) -> float | None:
        """Fraction of the judged faulty clients that were filtered, or None if none was judged."""
        return self.caught / self.judged.faulty if self.judged.faulty else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall, or None if no faulty client was judged."""
        if not self.judged.faulty:
            return None
        return 2 * self.caught / (self.judged.faulty + self.caught + self.false_alarms)

    @property
    def alarm_rate(self) -> float | None:
        """Fraction of the judged honest clients that were filtered, or None if none was judged."""
        return self.false_alarms / self.judged.honest if self.judged.honest else None

    @property
    def occurring(self) -> tuple[str, ...]:
        """The outcomes among ``UNJUDGED`` that at least one client had."""
        return tuple(name for name in UNJUDGED if self.unjudged[name] != Count())

    def counts(self) -> dict[str, int]:
        """Return all counts under the keys that ``rounds.jsonl`` and ``results.csv`` have."""
        counts = {
            "faulty": self.faulty,
            "honest": self.honest,
            "sleeping": self.sleeping,
            "caught": self.caught,
            "false-alarms": self.false_alarms,
        }
        for name, count in {"judged": self.judged, **self.unjudged}.items():
            counts |= {f"{name}-faulty": count.faulty, f"{name}-honest": count.honest}
        return counts

    def to_line(self) -> dict[str, int | float | None]:
        """Return the counts, precision and recall, as a line of ``rounds.jsonl`` has them."""
        return {**self.counts(), "precision": self.precision, "recall": self.recall}


def _with_buckets(lines: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return a round's lines with one line in place of those of the clients of each bucket.

    It has the outcome of the clients that reached the rule, if there are any.
    """
    buckets: dict[int, list[Mapping[str, Any]]] = {}
    for line in lines:
        if (bucket := line.get("bucket")) is not None:
            buckets.setdefault(bucket, []).append(line)
    joined = [line for line in lines if line.get("bucket") is None]
    for clients in buckets.values():
        judged = [
            line for line in clients if line["kept"] or outcome_of(line["reason"]) == FILTERED
        ]
        counted = judged or clients
        awake = [line["fault"] for line in counted if line["fault"] and not line.get("sleeping")]
        fault = awake[0] if awake else None
        joined.append({**counted[0], "fault": fault, "sleeping": False})
    return joined
