"""What all colluding attacks share: they see the honest updates before they choose their own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, final

from torch import Tensor

from hqde_fl.clients.task_facts import TaskFacts
from hqde_fl.errors import ConfigError
from hqde_fl.rules import Aggregator, Cohort, Mean
from hqde_fl.rules.library_threads import one_library_thread
from hqde_fl.rules.results import State
from hqde_fl.updates import Columns, Updates

Memory = Mapping[str, Any]
"""What attackers remember from round to round: tensors, numbers, strings and mappings of them."""


@dataclass(frozen=True, eq=False)
class AttackerKnowledge:
    """What attackers know of a round besides the honest updates.

    Parameters
    ----------
    honest : tuple[int, ...]
        Who the honest rows belong to; 0, 1, ... if empty.
    attackers : tuple[int, ...]
        Who the attackers are; the numbers after the honest ones if empty.
    num_examples : Mapping[int, float]
        What each of them says it trained on; 1 for those who are not in it.
    excluded : int
        Further clients, whose replies are no updates.
    model : Tensor or None
        (d,) the global model.
    rule : Aggregator
        How the server will merge the updates.
    state : State
        What the rule remembers.
    memory : Memory
        What the attack has ``learnt`` in this round and before.
    """

    honest: tuple[int, ...] = ()
    attackers: tuple[int, ...] = ()
    num_examples: Mapping[int, float] = field(default_factory=dict)
    excluded: int = 0
    model: Tensor | None = None
    rule: Aggregator = field(default_factory=Mean)
    state: State = field(default_factory=dict)
    memory: Memory = field(default_factory=dict)

    def cohort(self) -> tuple[Cohort, list[int]]:
        """The clients as the server lists them, and which row of (honest, attackers) is where."""
        ids = self.honest + self.attackers
        order = sorted(range(len(ids)), key=lambda row: ids[row])
        listed = tuple(ids[row] for row in order)
        counts = tuple(float(self.num_examples.get(client, 1.0)) for client in listed)
        return Cohort(listed, counts, faulty=self.excluded), order

    def filled(self, honest: int, f: int) -> AttackerKnowledge:
        """The same scene, certain to name ``honest`` honest clients and f attackers."""
        known = self.honest or tuple(range(honest))
        first = max(known, default=-1) + 1
        attackers = self.attackers or tuple(range(first, first + f))
        if (len(known), len(attackers)) != (honest, f):
            raise ValueError(
                f"the scene names {len(known)} honest clients and {len(attackers)} attackers, "
                f"found {honest} and {f}"
            )
        return replace(self, honest=known, attackers=attackers)


class Attack(ABC):
    """A way in which f clients, who know all honest updates, choose theirs together.

    Concrete attacks are final frozen dataclasses. An update is what a client adds to the global
    model, as the rules see it.
    """

    needs_rule: ClassVar[bool] = False
    """Whether it is made for the rule in use, and must know it."""

    @final
    def craft(self, honest: Tensor | Columns, f: int, scene: AttackerKnowledge | None = None) -> Tensor:
        """The attackers' updates.

        Parameters
        ----------
        honest : Tensor or Columns
            (h, d) honest updates, h >= 1. Never written to.
        f : int
            The number of attackers, >= 1.
        scene : AttackerKnowledge, optional
            What else they know.

        Returns
        -------
        Tensor
            (d,) if all send the same, else (f, d); in the dtype of the honest ones.
        """
        if f < 1:
            raise ValueError(f"an attack needs f >= 1 attackers, found {f}")
        columns = Updates(honest) if isinstance(honest, Tensor) else honest
        with one_library_thread():
            return self.forge(columns, f, (scene or AttackerKnowledge()).filled(columns.shape[0], f))

    @abstractmethod
    def forge(self, honest: Columns, f: int, scene: AttackerKnowledge) -> Tensor:
        """What ``craft`` returns, for a complete scene."""

    def learn(self, honest: Columns, scene: AttackerKnowledge) -> Memory:
        """What to remember once this round's honest updates are known; asked before ``craft``."""
        return scene.memory

    def check(self, n: int, f: int) -> None:
        """Raise ``ConfigError`` if f attackers among n clients would achieve nothing."""
        if f < 1 or f >= n:
            raise ConfigError(
                f"{type(self).__name__} needs at least 1 attacker and 1 honest client, "
                f"found {f} and {n - f}"
            )

    def check_task(self, facts: TaskFacts) -> None:
        """Raise ``ConfigError`` unless it can act on a task: its model must have weights."""
        facts.require_weights()
