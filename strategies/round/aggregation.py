"""How the good replies of a round become the next model: rule, then server optimiser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

import torch

from hqde_fl.errors import BoundError
from hqde_fl.protocol.members import member_name, named
from hqde_fl.protocol.screening import Accepted
from hqde_fl.rules import Aggregate, Aggregator, Cohort, aggregate
from hqde_fl.rules.aggregation import measure_geometry
from hqde_fl.rules.density_matrix import diagnostics
from hqde_fl.rules.executor import one_library_thread
from hqde_fl.strategies.confidence import Confidence
from hqde_fl.strategies.optimizers import SGD, ServerOptimizer
from hqde_fl.strategies.round.buffers import merge_buffers
from hqde_fl.strategies.settings import DensityPolicy
from hqde_fl.strategies.state import ModelState
from hqde_fl.updates import Columns
from hqde_fl.updates.received_updates import gathered

MOST_FREE = 256
"""Most updates whose spectrum, O(n^3), is taken without being asked for."""


@dataclass(frozen=True, eq=False)
class Merged:
    """What became of one model in one round.

    Parameters
    ----------
    model : ModelState
        The next one.
    outcome : Aggregate or None
        What the rule made of the replies, if it was asked.
    note : str or None
        Why the model was kept as it was, if it was.
    """

    model: ModelState
    outcome: Aggregate | None = None
    note: str | None = None


@final
@dataclass(frozen=True)
class Merging:
    """How the good replies of a round become the next model.

    Parameters
    ----------
    rule : Aggregator
        How the updates are merged.
    server_optimizer : ServerOptimizer
        How the aggregated update moves the model.
    quorum : int
        With fewer good replies the model is kept. 0: as many as the rule needs.
    confidence : Confidence
        Where the rule's confidence in the clients comes from, if it asks for any.
    density : "free", "always" or "never"
        When to describe the updates' density matrix in the round's diagnostics.
    """

    rule: Aggregator
    server_optimizer: ServerOptimizer = field(default_factory=SGD)
    quorum: int = 0
    confidence: Confidence = field(default_factory=Confidence)
    density: DensityPolicy = "free"

    def merge(
        self,
        model: ModelState,
        replies: Sequence[Accepted],
        cohort: Cohort,
        resting: int = 0,
    ) -> Merged:
        """The next state of a model.

        Parameters
        ----------
        model : ModelState
            As the round began.
        replies : Sequence[Accepted]
            Those that passed screening.
        cohort : Cohort
            Who they come from, in the same order.
        resting : int
            Clients that were not asked because they had no data in an earlier round.

        Raises
        ------
        BoundError
            If ``quorum`` was reached but the rule needs more updates than clients were asked.
        """
        try:
            if self.quorum:
                cohort.require("quorum", self.quorum)
            if not replies:
                cohort.require(str(self.rule), max(1, self.rule.minimum(cohort.faulty)))
            updates = gathered([reply.update for reply in replies])
            cohort = replace(cohort, confidence=self.confidence.of(model, replies))
            outcome = aggregate(self.rule, updates, cohort, model.rule)
        except BoundError as error:
            # The user said that the quorum would be enough, and no round can ever have more.
            if 0 < self.quorum <= cohort.n and cohort.asked + resting < self.rule.minimum():
                raise
            rest = f"; clients that rest because they have no data: {resting}" if resting else ""
            return Merged(model, note=f"{error}{rest}")
        model, outcome = self._described(model, updates, cohort, outcome)
        return self._move(model, replies, outcome)

    def _described(
        self, model: ModelState, updates: Columns, cohort: Cohort, outcome: Aggregate
    ) -> tuple[ModelState, Aggregate]:
        """The outcome with the density matrix's diagnostics, and the model that remembers it."""
        geometry = outcome.geometry
        if self.density == "always" and geometry is None:
            geometry = measure_geometry(updates)
        few = cohort.n <= MOST_FREE or self.density == "always"
        if geometry is None or not few or self.density == "never":
            return replace(model, density={}), outcome
        with one_library_thread():  # many threads on small matrices are in each other's way
            described, density = diagnostics(geometry.leading(cohort.n), cohort.ids, model.density)
        outcome = replace(outcome, diagnostics={**outcome.diagnostics, **described})
        return replace(model, density=density), outcome

    def _move(self, model: ModelState, replies: Sequence[Accepted], outcome: Aggregate) -> Merged:
        """The model moved by the outcome, unless it must not be."""
        step, moments = self.server_optimizer.step(outcome.delta, model.moments)
        flat = model.flat + step
        if not bool(torch.isfinite(flat).all()):
            return Merged(model, outcome, "the aggregated update is not finite")
        pairs = zip(replies, outcome.rejected.tolist(), strict=True)
        buffers = [reply.buffers for reply, rejected in pairs if not rejected]
        moved = replace(
            model,
            flat=flat,
            buffers=merge_buffers(buffers) if buffers else model.buffers,
            moments=moments,
            rule=outcome.state,
        )
        return Merged(moved, outcome)


def united(models: Sequence[ModelState], moved: Sequence[int]) -> tuple[ModelState, ...]:
    """All members with the mean of some of them as their model; unchanged if these are none."""
    if not moved:
        return tuple(models)
    flat = torch.stack([models[member].flat for member in moved]).mean(dim=0)
    buffers = merge_buffers([models[member].buffers for member in moved])
    return tuple(replace(model, flat=flat, buffers=buffers) for model in models)


def summed_up(merged: Mapping[int, Merged]) -> dict[str, Any]:
    """Return a round's note, diagnostics and f used, by the names of ``RoundRecord``'s fields.

    The notes and diagnostics of several members are under the members' names.
    """
    used = [
        each.outcome.f_used
        for each in merged.values()
        if each.outcome is not None and each.outcome.f_used is not None
    ]
    f_used = min(used, default=None)
    if len(merged) == 1:
        only = merged[0]
        diagnostics = {} if only.outcome is None else dict(only.outcome.diagnostics)
        return {"note": only.note, "diagnostics": diagnostics, "f_used": f_used}
    notes = [f"{member_name(m)}: {each.note}" for m, each in merged.items() if each.note]
    diagnostics = {}
    for member, each in merged.items():
        if each.outcome is not None:
            diagnostics |= named(member, each.outcome.diagnostics)
    return {"note": "; ".join(notes) or None, "diagnostics": diagnostics, "f_used": f_used}
