"""Rounds without an aggregate, the outcomes of their clients, and advice on what to change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hqde_fl.strategies import outcomes
from hqde_fl.strategies.callbacks import RoundRecord

_REPORTED = (
    outcomes.LATE,
    outcomes.MISSING,
    outcomes.FAILED,
    outcomes.REJECTED,
    outcomes.SKIPPED,
)
"""The outcomes of clients that contributed nothing; of equal counts the first is named first."""


class VoidRounds:
    """Counts the outcomes of the clients in the void rounds of a run.

    Parameters
    ----------
    deadline : float
        Seconds that a round waits for replies; the advice names it.
    first : int
        The first round that is counted, by default 1; more where a run was resumed.
    """

    def __init__(self, deadline: float, first: int = 1) -> None:
        self._deadline, self._first = deadline, first
        self._rounds = 0
        self._void: list[int] = []
        self._counts: Counter[str] = Counter()
        self._reasons: dict[str, Counter[str]] = {outcome: Counter() for outcome in _REPORTED}
        self._note = ""

    def add(self, record: RoundRecord) -> None:
        """Count a round, and the outcomes of its clients if it was void."""
        self._rounds += 1
        if not record.void and (record.kept or record.epsilon is None):
            return
        if record.void:
            self._void.append(record.round)
        self._note = record.note or ""
        for client in record.clients:
            outcome, _, detail = (client.reason or "").partition(": ")
            self._counts[outcome] += 1
            if outcome in _REPORTED:
                self._reasons[outcome][detail] += 1

    def summary(self) -> str | None:
        """Return one line about the void rounds, or None if there were none."""
        return void_summary(self._void, self._rounds)

    def failure(self) -> str:
        """Return why a run without any aggregate has failed, and what to change."""
        due = sum(self._counts.values())
        counts = [
            f"{self._counts[outcome]} {outcome}{self._advice(outcome)}"
            for outcome in sorted(_REPORTED, key=lambda outcome: -self._counts[outcome])
            if self._counts[outcome]
        ]
        parts = ["no round produced an aggregate: the model is the initial one"]
        if counts:
            since = f" since round {self._first}" if self._first > 1 else ""
            parts.append(f"of {due} replies due{since} {'; '.join(counts)}")
        if not self._rounds:
            parts.append("no round was left to run: change what was wrong, and raise rounds")
        if self._note:
            parts.append(f"last round: {self._note}")
        text = "; ".join(parts)
        return text + " (numbers overflow: lower the learning rates)" * ("finite" in text)

    def _advice(self, outcome: str) -> str:
        """Return advice about an outcome, or the commonest reason of a client that had it.

        In brackets, after a space.
        """
        match outcome:
            case outcomes.LATE:
                return f" (raise the deadline of {self._deadline:g} s, or give clients less to do)"
            case outcomes.MISSING:
                return (
                    " (they lacked what they had said they hold: nothing to do, the next message "
                    "is in full)"
                )
            case outcomes.SKIPPED:
                return " (no data: check how the data are divided)"
        detail = self._reasons[outcome].most_common(1)[0][0]
        return f" (mostly: {detail})"


def void_summary(void: Sequence[int], rounds: int) -> str | None:
    """Return one line about the void rounds of a run, or None if there are none.

    Parameters
    ----------
    void : Sequence[int]
        Numbers of the rounds without an aggregate, ascending.
    rounds : int
        Number of all rounds.
    """
    if not void:
        return None
    return f"{len(void)} of {rounds} rounds were void, the model was kept: {format_ranges(void)}"


def format_ranges(numbers: Sequence[int]) -> str:
    """Return ascending numbers as text with runs abbreviated, ``1-3, 7``; "" for no numbers."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
