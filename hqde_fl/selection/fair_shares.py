"""Bounds on how often a client is chosen, whatever its score: nobody starves, nobody takes over.

A client's fair share is k / n: as often as if the k clients of a round were drawn from all n.
Within the bounds a selector is free. They count what the selector itself has chosen, not what
clients reply, so that no client can move them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hqde_fl.errors import ConfigError
from hqde_fl.selection.base import Candidates, State
from hqde_fl.selection.history_columns import Floats, HistoryColumns, Mask

CEILING = 1.15
"""Most fair shares of a client over a run, by default."""
PATIENCE = 2.5
"""Fair intervals n / k without a turn after which a client is due."""
RECOVERED = 0.75
"""Success rate below which a client whose last turn was a success is due after one interval."""

FIRST_ALLOWANCE, MOST_ALLOWANCE = 0.9, 2.0
"""Allowance of a client at its first turn, and the most that it can save."""
WORKING = 0.5
"""Least success rate of a client that works: for these a fair share is k / their number. The others
are chosen when they are due, or if too few work."""

_CLIENTS, _ALLOWANCES, _LAST, _SUCCESS = "clients", "allowances", "last-chosen", "success"
_EMPTY: State = {_CLIENTS: [], **dict.fromkeys((_ALLOWANCES, _LAST, _SUCCESS), np.zeros(0))}


@dataclass(frozen=True, eq=False)
class FairShares:
    """The clients that must be chosen in a round, and those that should not.

    Parameters
    ----------
    candidates : Candidates
        The round's candidates.
    allowances : array of floats
        Turns that each of them may take: one turn costs 1, and each round gives ``income``.
    last : array of floats
        The last round in which each was chosen; 0 if it never was.
    success : array of floats
        The success rate of each.
    recovers : array of bools
        True for a client that failed often, but not in its last turn.
    income : array of floats
        ``ceiling`` times the fair share of each; that of clients that work is a part of what those
        that do not leave.
    memory : State
        The clients that were chosen before, their allowances, their last rounds, and their success
        rates before these.
    places : array of ints
        Each candidate's position in the memory; -1 if it is not in it.
    """

    candidates: Candidates
    allowances: Floats
    last: Floats
    success: Floats
    recovers: Mask
    income: Floats
    memory: State
    places: NDArray[np.intp]

    @classmethod
    def of(
        cls, candidates: Candidates, columns: HistoryColumns, ceiling: float, state: State
    ) -> FairShares:
        """Return the bounds of a round.

        Parameters
        ----------
        candidates : Candidates
            The round's candidates.
        columns : HistoryColumns
            Their histories.
        ceiling : float
            Most fair shares of a client, >= 1.
        state : State
            The selector's state, which has what ``after`` returned.
        """
        memory = {name: state[name] for name in _EMPTY} if _CLIENTS in state else _EMPTY
        position = {client: place for place, client in enumerate(memory[_CLIENTS])}
        places = np.array([position.get(client, -1) for client in candidates.ids], dtype=np.intp)
        allowances = np.append(memory[_ALLOWANCES], FIRST_ALLOWANCE)[places]
        last = np.where(places < 0, columns.last_selected, np.append(memory[_LAST], 0.0)[places])
        before = np.append(memory[_SUCCESS], 1.0)[places]
        recovers = (columns.success > before) & (columns.success < RECOVERED)
        working = columns.success >= WORKING
        sharing = np.where(working, working.sum(), len(working))
        income = ceiling * candidates.size / sharing
        success = columns.success
        return cls(candidates, allowances, last, success, recovers, income, memory, places)

    @property
    def interval(self) -> float:
        """The rounds between two turns of a client that has its fair share."""
        return len(self.last) / max(1, self.candidates.size)

    @property
    def new(self) -> Mask:
        """The clients that were never chosen."""
        new: Mask = self.last == 0
        return new

    @property
    def due(self) -> Mask:
        """The clients that have waited for ``PATIENCE`` fair intervals: they come first.

        One that recovers is due after one, so that the server soon knows whether it works again.
        """
        patience = np.where(self.recovers, 1.0, PATIENCE) * self.interval
        due: Mask = self.candidates.round - self.last >= patience
        return due

    @property
    def allowed(self) -> Mask:
        """The clients that work and have not had their ceiling; the others are the last choice."""
        working: Mask = self.success >= WORKING
        return working & (self.new | (self.allowances >= 1 - 1e-9))

    def choose(self, scores: Floats, rng: np.random.Generator) -> list[int]:
        """Return the positions of the chosen candidates, in ascending order.

        Clients that are due come first, those that have waited longest before the others; then the
        allowed ones by score; then others that work, by allowance; then those that fail. Equals are
        in random order.

        Parameters
        ----------
        scores : array of floats
            The candidates' scores: higher is better.
        rng : np.random.Generator
            The source of random numbers.
        """
        waited = np.where(self.due, self.candidates.round - self.last, 0.0)
        missing = np.where(self.allowed, 0.0, 1 - self.allowances)
        fails, ties = self.success < WORKING, rng.random(len(scores))
        order = np.lexsort((ties, -np.nan_to_num(scores), missing, fails, -waited))
        chosen: list[int] = np.sort(order[: self.candidates.size]).tolist()
        return chosen

    def after(self, chosen: Sequence[int]) -> dict[str, Any]:
        """Return the state for the next round, when the clients at these positions were chosen."""
        known = self.places >= 0
        allowances = np.array(self.memory[_ALLOWANCES])
        gained = np.minimum(self.allowances + self.income, MOST_ALLOWANCE)
        allowances[self.places[known]] = gained[known]
        first = [place for place in chosen if not known[place]]
        rounds = np.append(self.memory[_LAST], np.zeros(len(first)))
        success = np.append(self.memory[_SUCCESS], np.zeros(len(first)))
        allowances = np.append(allowances, self.allowances[first])
        again = [place for place in chosen if known[place]]
        turns = np.append(self.places[again], np.arange(len(rounds) - len(first), len(rounds)))
        allowances[turns] -= 1
        rounds[turns] = self.candidates.round
        success[turns] = self.success[[*again, *first]]
        clients = [*self.memory[_CLIENTS], *(self.candidates.ids[place] for place in first)]
        return {_CLIENTS: clients, _ALLOWANCES: allowances, _LAST: rounds, _SUCCESS: success}


def check_ceiling(owner: str, ceiling: float) -> None:
    """Raise ``ConfigError`` unless a selector's ceiling is at least 1."""
    if not ceiling >= 1:
        raise ConfigError(f"{owner}.ceiling must be >= 1, found {ceiling}")
