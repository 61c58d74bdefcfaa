"""Runs rules: pre-aggregations and a last rule, one after the other, as small matrices.

A linear step is Y = W X: the next step's geometry is W's and the last's, and two linear steps are
one product of small matrices. The n x d updates are measured once and combined once, however long
the chain; only a step with a score or a memory of its own, or one after a step that has no
geometry, makes another pass, over Y's columns computed tile by tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.rules.base import Aggregate, Aggregator, Decision, Measured, Rule, State, linear
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.executor import Executor, default_executor, one_library_thread
from hqde_fl.rules.float32_gram import measure_roughly
from hqde_fl.rules.geometry import Geometry, choose_pivot, relative_gram
from hqde_fl.rules.tolerance import admit
from hqde_fl.updates import Columns, Mapped, Stacked


def aggregate(
    rule: Aggregator,
    updates: Columns,
    cohort: Cohort | None = None,
    state: State | None = None,
    executor: Executor | None = None,
) -> Aggregate:
    """Run a rule over the updates of one round.

    Parameters
    ----------
    rule : Aggregator
        The rule.
    updates : Columns
        (n, d) finite updates.
    cohort : Cohort, optional
        Who they come from; n anonymous clients if not given.
    state : State, optional
        What the rule returned last round.
    executor : Executor, optional
        Where the tiles are walked; threads of this process if not given.

    Returns
    -------
    Aggregate

    Raises
    ------
    BoundError
        If there are fewer updates than the rule's bound, even with as many faulty clients fewer to
        expect as ``cohort.faulty`` says are excluded already.
    """
    n = updates.shape[0]
    cohort = cohort or Cohort.of(n)
    if cohort.n != n:
        raise ValueError(f"cohort names {cohort.n} clients, updates has {n} rows")
    cohort = admit(rule, cohort)
    with one_library_thread():
        outcome = rule.run(updates, cohort, state or {}, executor or default_executor(updates))
    f = rule.expected_faulty
    return outcome if f is None else replace(outcome, f_used=cohort.remaining(f))


def run_steps(
    steps: Sequence[Rule], updates: Columns, cohort: Cohort, state: State, executor: Executor
) -> Aggregate:
    """Pre-aggregations and, last, the rule that sees their output."""
    if steps[-1].feeds:
        raise ConfigError(f"{steps[-1]} is a pre-aggregation: chain it before a rule")
    n = updates.shape[0]
    base, mixing = updates, torch.eye(n, dtype=torch.float64)  # the rows so far are mixing @ base
    geometry: Geometry | None = None
    first: Geometry | None = None
    rejected = torch.zeros(n, dtype=torch.bool)
    diagnostics: dict[str, Any] = {}
    states: dict[str, Any] = {}
    for index, step in enumerate(steps):
        rows = mixing.shape[0]
        members = cohort.anonymous(rows)
        members.require(str(step), step.minimum(cohort.excused))
        own = state.get(str(index), {})
        if below := tuple(step.anchors(own)):
            base = Stacked(base, below)
            mixing = torch.block_diag(mixing, torch.eye(len(below), dtype=torch.float64))
            geometry = None
        columns = _seen(base, mixing)
        roughly = step.rough and geometry is None and index + 1 == len(steps)
        rough = measure_roughly(columns, executor) if roughly else None
        settled = None if rough is None else step.decide_roughly(rough, members, own)
        if rough is not None and settled is not None:
            geometry, decision = rough.geometry, settled
        else:
            measured = measure_step(step, columns, geometry, executor)
            geometry = measured.geometry
            decision = step.decide(measured, members, own)
        first = geometry if index == 0 else first
        states[str(index)] = decision.state
        diagnostics |= decision.diagnostics
        if rows == n and decision.rejected is not None:
            rejected |= decision.rejected
        if index + 1 < len(steps):
            assert decision.mixing is not None  # what feeds another rule is linear
            mixing = decision.mixing @ mixing
            geometry = None if geometry is None else geometry.mixed(decision.mixing)
    delta, share = _combined(step, decision, base, mixing, columns, executor)
    states[str(index)] = step.remember(delta, states[str(index)])
    influence = share[:n]
    share = influence / (influence.sum() or 1.0)
    return Aggregate(delta, share, rejected, diagnostics, _kept(states), first)


def measure_geometry(updates: Columns, executor: Executor | None = None) -> Geometry:
    """Inner products and distances of updates, for whoever wants them without a rule."""
    executor = executor or default_executor(updates)
    with one_library_thread():
        pivot = choose_pivot(updates)
        gram = executor.reduce(partial(relative_gram, pivot=pivot, unit=1.0), updates).cpu()
        return Geometry.measure(gram, updates, pivot, 1.0, executor)


def _combined(
    step: Rule,
    decision: Decision,
    base: Columns,
    mixing: Tensor,
    columns: Columns,
    executor: Executor,
) -> tuple[Tensor, Tensor]:
    """The result, and what each of the base's rows counted for."""
    if decision.mixing is None:
        delta, counts = executor.combine(partial(step.combine, decision=decision), columns)
        assert counts is not None
        return delta, (counts @ mixing.abs())[0]
    whole = decision.mixing @ mixing
    part, counted = whole, whole[0].nonzero().flatten()
    if 0 < len(counted) < whole.shape[1]:  # what does not count is not read
        base, part = base.select(counted.tolist()), whole[:, counted]
    delta, _ = executor.combine(lambda tile: (linear(part, tile)[0], None), base)
    return delta, whole.abs()[0]


def _seen(base: Columns, mixing: Tensor) -> Columns:
    """The columns that a step sees."""
    if torch.equal(mixing, torch.eye(base.shape[0], dtype=torch.float64)):
        return base
    return Mapped(base, partial(linear, mixing), mixing.shape[0])


def measure_step(
    step: Rule, columns: Columns, geometry: Geometry | None, executor: Executor
) -> Measured:
    """What the step needs to know; geometry that is known already is not measured again."""
    known = geometry is not None or not step.gram
    if known and not step.scored:
        return Measured(geometry)
    if known:
        return Measured(geometry, executor.reduce(step.score, columns).cpu())
    pivot = choose_pivot(columns)
    statistic = executor.reduce(partial(step.measure, pivot=pivot), columns)
    assert statistic.gram is not None
    geometry = Geometry.measure(statistic.gram.cpu(), columns, pivot, 1.0, executor)
    return Measured(geometry, None if statistic.score is None else statistic.score.cpu())


def _kept(states: dict[str, Any]) -> dict[str, Any]:
    return {index: state for index, state in states.items() if state}
