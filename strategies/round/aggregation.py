"""Merge the accepted updates of a round into the next model: rule, then server optimiser."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hqde_fl.errors import BoundError
from hqde_fl.own_modules import own_code
from hqde_fl.protocol.members import add_member_prefix, member_name
from hqde_fl.protocol.screening import Accepted
from hqde_fl.rules import Aggregate, Chain, Cohort, Executor, Rule, aggregate
from hqde_fl.rules.density_matrix import diagnostics
from hqde_fl.rules.gram import measure_geometry
from hqde_fl.rules.library_threads import one_library_thread
from hqde_fl.selection import ClientHistory
from hqde_fl.strategies.round.other_entries import mean_entries, merge_others
from hqde_fl.strategies.round.partial_work import scaled_to_mean_work
from hqde_fl.strategies.server_data import context_for
from hqde_fl.strategies.settings import Aggregation, DensityPolicy
from hqde_fl.strategies.state import ModelState
from hqde_fl.updates import Columns
from hqde_fl.updates.finite import all_finite
from hqde_fl.updates.layout import common_layout
from hqde_fl.updates.received_updates import received_columns

MAX_FREE_CLIENTS = 256
"""Most updates for which the density policy "free" takes the spectrum, O(n^3)."""


@dataclass(frozen=True, eq=False)
class MergedModel:
    """Outcome of a round for one model.

    Parameters
    ----------
    model : ModelState
        The next model; if it was kept, its weights are those before the round.
    nodes : Sequence[int]
        Ids of the nodes whose updates the rule was given, in the order of the outcome's rows.
    outcome : Aggregate or None
        Result of the rule; None if it was not run.
    note : str or None
        Why the model was kept as it was; None if it moved.
    """

    model: ModelState
    nodes: Sequence[int] = ()
    outcome: Aggregate | None = None
    note: str | None = None

    @property
    def is_moved(self) -> bool:
        """True if the round moved the model, so that there is no ``note``."""
        return self.note is None


def merge_model(
    settings: Aggregation,
    density: DensityPolicy,
    model: ModelState,
    replies: MutableMapping[int, Accepted],
    cohort: Cohort,
    resting: int = 0,
    work: Sequence[float] = (),
    histories: Sequence[ClientHistory] = (),
    population: int = 1,
) -> MergedModel:
    """Merge the accepted updates of one model and move it by the server optimiser.

    The model is kept, and the note says why, if there are fewer updates than ``quorum`` or the rule
    needs, or if the moved model would not be finite.

    Parameters
    ----------
    settings : Aggregation
        Rule, server optimiser, quorum and source of confidence.
    density : "free", "always" or "never"
        When the round's diagnostics describe the updates' density matrix.
    model : ModelState
        The model as the round began.
    replies : MutableMapping[int, Accepted]
        Node id -> the update that passed screening. It is emptied once the rule has run, because
        updates may take more memory than all else.
    cohort : Cohort
        The clients of these updates, in the same order.
    resting : int
        Number of clients without data in an earlier round, which got no message.
    work : Sequence[float]
        The part of its local training that each of these clients did; empty: all of it.
    histories : Sequence[ClientHistory]
        What was measured of each of these clients in earlier rounds, for rules that need it.
    population : int
        The number of all clients, for the server's control variate.

    Raises
    ------
    BoundError
        If a ``quorum`` > 0 was reached, but the rule needs more updates than there are clients:
        those of the cohort that were asked, and those ``resting``.
    """
    rule, quorum, updates = settings.rule, settings.quorum, list(replies.values())
    try:
        if quorum:
            cohort.require("quorum", quorum)
        if not updates:
            cohort.require(str(rule), max(1, rule.minimum(cohort.faulty)))
        columns = received_columns([reply.update for reply in updates])
        confidence = settings.confidence.of(model, updates, histories)
        context = context_for(rule, model, cohort, settings.root_training)
        cohort = replace(cohort, confidence=confidence, context=context)
        columns = scaled_to_mean_work(columns, work, rule, cohort)
        with own_code(f"rule {rule}"):
            outcome = aggregate(rule, columns, cohort, model.rule, settings.executor)
    except BoundError as error:
        # The user declared the quorum sufficient, and no round can ever have more updates.
        if 0 < quorum <= cohort.n and cohort.requested + resting < rule.minimum():
            raise
        rest = f"; clients that rest because they have no data: {resting}" if resting else ""
        return MergedModel(model, note=f"{error}{rest}")
    model, outcome = _with_density(density, model, columns, cohort, outcome, settings.executor)
    others = merge_others(rule, outcome, [reply.others for reply in updates])
    changes = [reply.control for reply in updates if reply.control is not None]
    nodes = tuple(replies)
    del columns
    updates.clear()
    replies.clear()
    merged = moved_model(settings, model, nodes, outcome, others, in_place=_is_fresh(settings))
    if merged.is_moved and merged.model.control is not None:
        control = merged.model.control.after(changes, rule, cohort, population, settings.executor)
        return replace(merged, model=replace(merged.model, control=control))
    return merged


def moved_model(
    settings: Aggregation,
    model: ModelState,
    nodes: Sequence[int],
    outcome: Aggregate,
    others: Mapping[str, Tensor],
    *,
    in_place: bool = False,
) -> MergedModel:
    """Return a model that the server optimiser has moved by an aggregate.

    Parameters
    ----------
    settings : Aggregation
        The server optimiser.
    model : ModelState
        The model as the round began.
    nodes : Sequence[int]
        The nodes of the outcome's rows.
    outcome : Aggregate
        The aggregate.
    others : Mapping[str, Tensor]
        Merged statistics and counters, by name; those that are missing stay.
    in_place : bool, default=False
        True if the aggregate's memory may become the model's; its delta is then empty.
    """
    with own_code(f"server optimizer {settings.server_optimizer}"):
        step, moments = settings.server_optimizer.step(outcome.delta, model.moments)
    in_place &= step is outcome.delta and not moments and not outcome.state
    if in_place and (step.dtype, step.device) == (model.flat.dtype, model.flat.device):
        flat = step.add_(model.flat)
        outcome = replace(outcome, delta=flat[:0])
    else:
        flat = model.flat + step
    if not all_finite(flat):
        return MergedModel(model, nodes, outcome, "the aggregated update is not finite")
    merged = replace(
        model,
        flat=flat,
        others={**model.others, **others},
        moments=moments,
        rule=outcome.state,
    )
    return MergedModel(merged, nodes, outcome)


def _is_fresh(settings: Aggregation) -> bool:
    """Return True if nothing but the aggregate refers to its delta.

    Executors write what a rule combines into new memory; a tree, a rule that finishes the result
    itself or an executor of the user's own may return other memory.
    """
    rule = settings.rule
    last = rule.steps[-1] if isinstance(rule, Chain) else rule
    own = type(settings.executor).__module__.startswith("hqde_fl.")
    return own and isinstance(last, Rule) and type(last).finish is Rule.finish


def _with_density(
    policy: DensityPolicy,
    model: ModelState,
    updates: Columns,
    cohort: Cohort,
    outcome: Aggregate,
    executor: Executor,
) -> tuple[ModelState, Aggregate]:
    """Add the updates' density matrix to the outcome's diagnostics and to the model's state.

    With policy "never", and with "free" if the rule measured no inner products or there are more
    than ``MAX_FREE_CLIENTS`` updates, the outcome is unchanged and the model's ``density`` empty.
    """
    geometry = outcome.geometry
    if policy == "always" and geometry is None:
        geometry = measure_geometry(updates, executor)
    few = cohort.n <= MAX_FREE_CLIENTS or policy == "always"
    if geometry is None or not few or policy == "never":
        return replace(model, density={}), outcome
    with one_library_thread():  # threads of small matrix operations slow each other down
        described, density = diagnostics(geometry.leading(cohort.n), cohort.ids, model.density)
    outcome = replace(outcome, diagnostics={**outcome.diagnostics, **described})
    return replace(model, density=density), outcome


def average_members(models: Sequence[ModelState], sources: Sequence[int]) -> tuple[ModelState, ...]:
    """Return all members, each with the mean of the weights and statistics of some of them.

    Counters are medians. All other state stays each member's own.

    Parameters
    ----------
    models : Sequence[ModelState]
        All members.
    sources : Sequence[int]
        The members that are averaged; if there are none, all members stay as they are.
    """
    if not sources:
        return tuple(models)
    layout = common_layout([model.layout for model in models])
    models = [m if m.layout == layout else m.with_layout(layout) for m in models]
    flat = torch.stack([models[member].flat for member in sources]).mean(dim=0)
    frozen = {entry.name for entry in layout.others if entry.role == "frozen"}
    moving = [
        {name: value for name, value in models[member].others.items() if name not in frozen}
        for member in sources
    ]
    others = {**models[sources[0]].others, **mean_entries(moving)}
    return tuple(replace(model, flat=flat, others=others) for model in models)


def summarize(merged: Sequence[MergedModel]) -> dict[str, Any]:
    """Return a round's note, diagnostics, f used and tree, by ``RoundRecord``'s names for them.

    The note is None if all members moved; ``f_used`` is the least of the members', or None.

    Parameters
    ----------
    merged : Sequence[MergedModel]
        Outcome for each member. The notes and diagnostics of several members carry their names.
    """
    outcomes = {m: model.outcome for m, model in enumerate(merged) if model.outcome is not None}
    used = [outcome.f_used for outcome in outcomes.values() if outcome.f_used is not None]
    described: dict[str, Any] = {}
    for member, outcome in outcomes.items():
        own = outcome.diagnostics
        described |= add_member_prefix(member, own) if len(merged) > 1 else own
    note = merged[0].note
    if len(merged) > 1:
        notes = [f"{member_name(m)}: {model.note}" for m, model in enumerate(merged) if model.note]
        note = "; ".join(notes) or None
    return {
        "note": note,
        "diagnostics": described,
        "f_used": min(used, default=None),
        "tree": tuple((m, node) for m, outcome in outcomes.items() for node in outcome.nodes),
    }
