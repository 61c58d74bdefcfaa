"""Rounds that drive a selector without a model: clients are seconds, losses and failures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hqde_fl.selection import Candidates, ClientHistory, Selector
from hqde_fl.selection.base import State, work_level
from hqde_fl.selection.history import NEW_CLIENT, Observation

Available = Callable[[int], Sequence[int]]
"""(round) -> the clients that can be selected."""


@dataclass(frozen=True)
class Client:
    """How a client behaves.

    Parameters
    ----------
    seconds : float
        Seconds of all of its training.
    claim : Callable[[int], tuple[float, float]]
        (round) -> the examples and the loss that it claims.
    fails : Callable[[int], bool]
        (round) -> True if its reply is an error.
    """

    seconds: float = 1.0
    claim: Callable[[int], tuple[float, float]] = lambda server_round: (100.0, 1 / server_round)
    fails: Callable[[int], bool] = lambda server_round: False


@dataclass
class Rounds:
    """Rounds of a selector over some clients.

    Parameters
    ----------
    selector : Selector
        Chooses.
    clients : Sequence[Client]
        The clients; their ids are their positions.
    seed : int
        Seed of the selector's random numbers.
    drop_out : float
        Probability that any client fails in a round.
    available : Callable[[int], Sequence[int]]
        (round) -> the clients that can be selected; all by default.
    """

    selector: Selector
    clients: Sequence[Client]
    seed: int = 0
    drop_out: float = 0.0
    available: Available | None = None
    number: int = 0
    state: State = field(default_factory=dict)
    history: dict[int, ClientHistory] = field(default_factory=dict)
    chosen: list[list[int]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def candidates(self, ids: Sequence[int]) -> Candidates:
        """Return the next round's candidates."""
        size = min(self.selector.size(len(self.clients)), len(ids))
        return Candidates(list(ids), size, self.number, float("inf"), dict(self.history))

    def run(self, rounds: int) -> Rounds:
        """Go on for some rounds."""
        for _ in range(rounds):
            self.number += 1
            everyone = range(len(self.clients))
            ids = everyone if self.available is None else self.available(self.number)
            rng = np.random.default_rng((self.seed, self.number))
            selection = self.selector.select(self.candidates(ids), self.state, rng)
            self.state = selection.state
            self.chosen.append(selection.clients)
            self._train(selection.clients, selection.work)
        return self

    def _train(self, chosen: Sequence[int], work: Mapping[int, float]) -> None:
        rng = np.random.default_rng((self.seed, self.number, 1))
        dropped = rng.random(len(self.clients)) < self.drop_out
        parts = {client: work_level(work.get(client, 1.0)) for client in chosen}
        times = {client: self.clients[client].seconds * parts[client] for client in chosen}
        whole = max(times.values(), default=0.0)
        self.seconds.append(whole)
        for client in chosen:
            behaviour = self.clients[client]
            failed = bool(dropped[client]) or behaviour.fails(self.number)
            examples, loss = behaviour.claim(self.number)
            self.history[client] = self.history.get(client, NEW_CLIENT).after(
                Observation(
                    round=self.number,
                    success=not failed,
                    seconds=None if failed else times[client],
                    work=parts[client],
                    busy=0.0 if failed or not whole else times[client] / whole,
                    examples=None if failed else examples,
                    loss=None if failed else loss,
                )
            )

    def fair_shares(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Return how many times its fair share each client was chosen."""
        counts = np.bincount(np.concatenate(self.chosen).astype(int), minlength=len(self.clients))
        return counts / (sum(map(len, self.chosen)) / len(self.clients))


def log_uniform_clients(count: int, seed: int = 0, ratio: float = 10.0) -> list[Client]:
    """Return clients whose speeds differ by up to a ratio, with honest, differing losses."""
    rng = np.random.default_rng(seed)
    clients = []
    for _ in range(count):
        seconds, level, examples = (
            ratio ** rng.random(),
            rng.uniform(0.5, 1.5),
            rng.integers(20, 99),
        )

        def claim(
            server_round: int, level: float = level, examples: int = int(examples)
        ) -> tuple[float, float]:
            return float(examples), level / server_round**0.5

        clients.append(Client(float(seconds), claim))
    return clients
