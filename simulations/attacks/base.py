"""The base class of colluding attacks, and the attackers' knowledge of a round."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from hqde_fl.clients.task_facts import TaskFacts
from hqde_fl.errors import ConfigError
from hqde_fl.rules import Aggregator, Cohort, Mean
from hqde_fl.rules.library_threads import one_library_thread
from hqde_fl.rules.results import State
from hqde_fl.rules.round_context import NO_CONTEXT, RoundContext
from hqde_fl.seeding import Seeds
from hqde_fl.updates import Columns, Updates

Memory = Mapping[str, Any]
"""The attackers' state from round to round: tensors, numbers, strings and mappings of them."""


@dataclass(frozen=True, eq=False)
class AttackerKnowledge:
    """The attackers' knowledge of a round besides the honest updates.

    Parameters
    ----------
    honest : tuple[int, ...]
        Client ids of the honest rows; 0, 1, ... if empty.
    attackers : tuple[int, ...]
        Client ids of the attackers; the ids after the honest ones if empty.
    num_examples : Mapping[int, float]
        Client id -> claimed number of examples; 1 for clients that are missing.
    excluded : int
        Number of further clients, whose replies the server rejects.
    model : Tensor or None
        (d,) the global model.
    rule : Aggregator
        The server's rule.
    state : State
        State of the rule.
    memory : Memory
        State of the attack, as its ``learn`` returned it in this round.
    round : int
        The server's round.
    member : int
        Number of the ensemble's member; 0 if there is one model.
    seeds : Seeds
        The run's seeds, for attacks that draw random numbers.
    context : RoundContext
        The model's layers and weights, as the rule gets them; the server's own update is not known.
    """

    honest: tuple[int, ...] = ()
    attackers: tuple[int, ...] = ()
    num_examples: Mapping[int, float] = field(default_factory=dict)
    excluded: int = 0
    model: Tensor | None = None
    rule: Aggregator = field(default_factory=Mean)
    state: State = field(default_factory=dict)
    memory: Memory = field(default_factory=dict)
    round: int = 1
    member: int = 0
    seeds: Seeds = field(default_factory=partial(Seeds, 0))
    context: RoundContext = NO_CONTEXT

    def generator(self, *name: str | int) -> torch.Generator:
        """Return a new generator that the seeds, the member and a name determine."""
        return self.seeds.torch("attack", *name, self.member)

    def cohort(self) -> tuple[Cohort, list[int]]:
        """Return the cohort sorted by client id, and its rows' indices in honest + attackers."""
        ids = self.honest + self.attackers
        order = sorted(range(len(ids)), key=lambda row: ids[row])
        clients = tuple(ids[row] for row in order)
        counts = tuple(float(self.num_examples.get(client, 1.0)) for client in clients)
        cohort = Cohort(
            clients, counts, faulty=self.excluded, round=self.round, context=self.context
        )
        return cohort, order

    def completed(self, honest: int, f: int) -> AttackerKnowledge:
        """Return the knowledge with ids for ``honest`` honest clients and f attackers.

        Ids that it has are kept. Raises ``ValueError`` if these are of another number of clients.
        """
        known = self.honest or tuple(range(honest))
        first = max(known, default=-1) + 1
        attackers = self.attackers or tuple(range(first, first + f))
        if (len(known), len(attackers)) != (honest, f):
            raise ValueError(
                f"AttackerKnowledge names {len(known)} honest clients and {len(attackers)} "
                f"attackers, found {honest} and {f}"
            )
        return replace(self, honest=known, attackers=attackers)


class Attack(ABC):
    """An attack of f colluding clients who know all honest updates.

    Concrete attacks are final frozen dataclasses. An update is a client's difference to the global
    model, as the rules receive it.
    """

    needs_rule: ClassVar[bool] = False
    """True if the attack is adapted to the rule in use and must know it."""

    @final
    def craft(
        self, honest: Tensor | Columns, f: int, knowledge: AttackerKnowledge | None = None
    ) -> Tensor:
        """Return the attackers' updates.

        Parameters
        ----------
        honest : Tensor or Columns
            (h, d) honest updates, h >= 1; not modified.
        f : int
            Number of attackers, >= 1.
        knowledge : AttackerKnowledge, optional
            The attackers' further knowledge of the round.

        Returns
        -------
        Tensor
            (d,) if all attackers send the same update, else (f, d); in the honest updates' dtype.
        """
        if f < 1:
            raise ValueError(f"an attack needs f >= 1 attackers, found {f}")
        columns = Updates(honest) if isinstance(honest, Tensor) else honest
        with one_library_thread():
            return self.forge(
                columns, f, (knowledge or AttackerKnowledge()).completed(columns.shape[0], f)
            )

    @abstractmethod
    def forge(self, honest: Columns, f: int, knowledge: AttackerKnowledge) -> Tensor:
        """Return the attackers' updates, as ``craft``, for knowledge that has all ids."""

    def learn(self, honest: Columns, knowledge: AttackerKnowledge) -> Memory:
        """Return the attack's new state, given a round's honest updates; runs before ``craft``.

        By default that is the old state, ``knowledge.memory``.
        """
        return knowledge.memory

    def check(self, n: int, f: int) -> None:
        """Raise ``ConfigError`` if f attackers among n clients would have no effect.

        By default unless 1 <= f < n.
        """
        if f < 1 or f >= n:
            raise ConfigError(
                f"{type(self).__name__} needs at least 1 attacker and 1 honest client, "
                f"found {f} and {n - f}"
            )

    def check_task(self, facts: TaskFacts) -> None:
        """Raise ``ConfigError`` unless the task's model has at least one floating-point number."""
        facts.require_weights()
