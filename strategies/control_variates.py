"""SCAFFOLD on the server: its control variate, and what clients' changes make of it.

Karimireddy et al. 2020 (arXiv:1910.06378), algorithm 1: c <- c + |S| / N times the mean change of
the clients of a round. In place of the mean stands the rule of the updates, run on the changes by
itself and with a state of its own: what a robust rule does to a hostile update it does to a hostile
control variate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from logging import WARNING
from typing import Self, final

import torch
from torch import Tensor

from hqde_fl.errors import BoundError
from hqde_fl.own_modules import own_code
from hqde_fl.protocol.flower_internals import log
from hqde_fl.rules import Aggregator, Cohort, Executor, aggregate
from hqde_fl.rules.results import State
from hqde_fl.updates import Updates
from hqde_fl.updates.layout import Layout


@final
@dataclass(frozen=True, eq=False)
class ServerControl:
    """The server's control variate of one model.

    Parameters
    ----------
    vector : Tensor
        (d,) the control variate.
    rule : Mapping[str, Any]
        The state of the rule that merges the clients' changes.
    """

    vector: Tensor
    rule: State = field(default_factory=dict)

    @classmethod
    def zero(cls, layout: Layout) -> Self:
        """Return the control variate before the first round, which corrects nothing."""
        return cls(torch.zeros(layout.size, dtype=layout.dtype))

    def after(
        self,
        changes: Sequence[Tensor],
        rule: Aggregator,
        cohort: Cohort,
        population: int,
        executor: Executor,
    ) -> ServerControl:
        """Return the control variate after a round.

        It stays if a client's change is of another layout, as in a round that changes the roles of
        entries, if the rule cannot work, or if the result would not be finite.

        Parameters
        ----------
        changes : Sequence[Tensor]
            (d,) the change of each client's control variate, of those in the cohort.
        rule : Aggregator
            The rule of the updates.
        cohort : Cohort
            The clients of the updates.
        population : int
            N, the number of all clients.
        executor : Executor
            Where the rule works.
        """
        if not changes or any(change.shape != self.vector.shape for change in changes):
            return self
        try:
            with own_code(f"rule {rule}, on control variates"):
                stacked = Updates(torch.stack([*changes]))
                merged = aggregate(rule, stacked, cohort, self.rule, executor)
        except BoundError as error:
            log(WARNING, "the control variate stays: %s", error)
            return self
        fraction = min(1.0, len(changes) / max(1, population))
        vector = self.vector + fraction * merged.delta.to(self.vector)
        if not bool(vector.isfinite().all()):
            log(WARNING, "the control variate stays: the merged change is not finite")
            return self
        return replace(self, vector=vector, rule=merged.state)
