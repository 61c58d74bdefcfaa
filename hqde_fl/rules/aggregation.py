"""Run rules over updates: pre-aggregations and a last rule, as small matrices.

A linear step is Y = W X: the next step's geometry follows from W and the last step's, and two
linear steps are one product of small matrices. The n x d updates are measured once and combined
once, however long the chain; only a step with a score or remembered rows, or one after a step
without geometry, makes another pass, over Y's columns computed tile by tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hqde_fl.errors import ConfigError, TaskError
from hqde_fl.rules.base import Aggregator, Rule, linear
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.direction_memory import sample
from hqde_fl.rules.executor import Executor, default_executor
from hqde_fl.rules.float32_gram import Float32Distances, measure_in_float32
from hqde_fl.rules.geometry import Geometry
from hqde_fl.rules.gram import choose_pivot, complete_geometry
from hqde_fl.rules.library_threads import one_library_thread
from hqde_fl.rules.results import Aggregate, Decision, Measured, State
from hqde_fl.rules.tolerance import apply_tolerance
from hqde_fl.updates import Columns, MappedColumns, StackedColumns


def aggregate(
    rule: Aggregator,
    updates: Columns,
    cohort: Cohort | None = None,
    state: State | None = None,
    executor: Executor | None = None,
) -> Aggregate:
    """Return the aggregate of one round's updates.

    Parameters
    ----------
    rule : Aggregator
        A rule, a chain or a tree.
    updates : Columns
        (n, d) finite updates.
    cohort : Cohort, optional
        The clients that sent them, in row order; n anonymous clients if not given.
    state : State, optional
        The state that the rule returned last round; empty if not given.
    executor : Executor, optional
        Reads the tiles; ``default_executor`` if not given.

    Raises
    ------
    BoundError
        If there are fewer updates than the rule needs, even with its f lowered by
        ``cohort.faulty``, or if the rule cannot run on them for a reason of its own.
    ValueError
        If the cohort does not have n clients.
    """
    n = updates.shape[0]
    cohort = cohort or Cohort.of(n)
    if cohort.n != n:
        raise ValueError(f"cohort names {cohort.n} clients, updates has {n} rows")
    cohort = apply_tolerance(rule, cohort)
    executor = executor or default_executor(updates)
    with one_library_thread():
        outcome = executor.run(rule, updates, cohort, state or {}, run_steps)
    f = rule.expected_faulty
    return outcome if f is None else replace(outcome, f_used=cohort.remaining(f))


def run_steps(
    steps: Sequence[Rule], updates: Columns, cohort: Cohort, state: State, executor: Executor
) -> Aggregate:
    """Return the aggregate of one round's updates by a sequence of rules.

    Parameters
    ----------
    steps : Sequence[Rule]
        Pre-aggregations and, last, a rule.
    updates : Columns
        (n, d) finite updates.
    cohort : Cohort
        The n clients that sent them, with ``excused`` set.
    state : State
        The steps' states as returned last round, by position (``"0"``, ``"1"``, ...).
    executor : Executor
        Reads the tiles.
    """
    if steps[-1].is_preaggregation:
        raise ConfigError(f"{steps[-1]} is a pre-aggregation: chain it before a rule")
    n = updates.shape[0]
    # the rows that a step sees are mixing @ base; None is the identity, without its n x n numbers
    base: Columns = updates
    mixing: Tensor | None = None
    geometry: Geometry | None = None
    first_geometry: Geometry | None = None
    filtered = torch.zeros(n, dtype=torch.bool)
    diagnostics: dict[str, Any] = {}
    states: dict[str, Any] = {}
    for index, step in enumerate(steps):
        rows = n if mixing is None else mixing.shape[0]
        row_cohort = cohort.anonymous(rows)
        row_cohort.require(str(step), step.minimum(cohort.excused))
        step_state = state.get(str(index), {})
        if below := tuple(step.added_rows(row_cohort, step_state, base.shape[1])):
            base = StackedColumns(base, below)
            if mixing is not None:
                mixing = torch.block_diag(mixing, torch.eye(len(below), dtype=torch.float64))
            geometry = None
        columns = _mixed_columns(base, mixing)
        try_float32 = step.tries_float32 and geometry is None and index + 1 == len(steps)
        decides = partial(_decides, step, row_cohort, step_state)
        distances = measure_in_float32(columns, executor, decides) if try_float32 else None
        settled = (
            None
            if distances is None
            else step.decide_from_float32(distances, row_cohort, step_state)
        )
        if distances is not None and settled is not None:
            geometry, decision = distances.geometry, settled
        else:
            measured = measure_step(step, columns, geometry, executor)
            geometry = measured.geometry
            if second := step.second_score(measured, row_cohort, step_state):
                measured = replace(measured, second=executor.reduce(second, columns).cpu())
            if step.remembers:
                measured = replace(measured, sample=sample(columns, cohort.seed))
            decision = step.decide(measured, row_cohort, step_state)
        width = columns.shape[0]
        _check_decision(step, decision, rows, width, last=index + 1 == len(steps))
        first_geometry = geometry if index == 0 else first_geometry
        states[str(index)] = decision.state
        diagnostics |= decision.diagnostics
        if rows == n and decision.filtered is not None:
            filtered |= decision.filtered
        if index + 1 < len(steps):
            assert decision.mixing is not None
            mixing = decision.mixing if mixing is None else decision.mixing @ mixing
            geometry = None if geometry is None else geometry.mixed(decision.mixing)
    delta, counts = _combine(step, decision, base, mixing, columns, executor)
    delta = step.finish(delta, decision, row_cohort)
    states[str(index)] = step.next_state(delta, states[str(index)])
    influence = counts[:n]  # without remembered rows
    influence = influence / (influence.sum() or 1.0)
    kept_states = {position: kept for position, kept in states.items() if kept}
    return Aggregate(delta, influence, filtered, diagnostics, kept_states, first_geometry)


def _decides(step: Rule, cohort: Cohort, state: State, distances: Float32Distances) -> bool:
    """Return whether distances from float32 settle a step's decision."""
    return step.decide_from_float32(distances, cohort, state) is not None


def _check_decision(step: Rule, decision: Any, rows: int, width: int, *, last: bool) -> None:
    """Raise ``TaskError`` unless a step's decision fits its rows.

    Parameters
    ----------
    step : Rule
        The step.
    decision : Decision
        What its ``decide`` returned.
    rows : int
        Number of updates that it was given.
    width : int
        The same with the rows that it remembers.
    last : bool
        True if it ends the chain.
    """
    if not isinstance(decision, Decision):
        raise TaskError(f"{step}.decide must return a Decision, found {type(decision).__name__}")
    mixing, filtered = decision.mixing, decision.filtered
    if mixing is None and not last:
        raise TaskError(f"{step}.decide must return a mixing: it is a pre-aggregation")
    wanted = f"{step}.decide must return a mixing of {'1' if last else 'm'} x {width} float64"
    if mixing is not None and not isinstance(mixing, Tensor):
        raise TaskError(f"{wanted}, found {type(mixing).__name__}")
    if mixing is not None and (
        mixing.dtype != torch.float64
        or mixing.ndim != 2
        or mixing.shape != (1 if last else len(mixing), width)
    ):
        raise TaskError(f"{wanted}, found {_found(mixing)}")
    if filtered is not None and (filtered.dtype != torch.bool or filtered.shape != (rows,)):
        raise TaskError(
            f"{step}.decide must return filtered as {rows} bool, found {_found(filtered)}"
        )


def _found(value: Tensor) -> str:
    """Return the shape and the dtype of a tensor for a message."""
    return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"


def _combine(
    step: Rule,
    decision: Decision,
    base: Columns,
    mixing: Tensor | None,
    columns: Columns,
    executor: Executor,
) -> tuple[Tensor, Tensor]:
    """Return a step's result (d,), and how much each row of ``base`` counted in it, >= 0."""
    if decision.mixing is None:
        delta, counts = executor.combine(partial(step.combine, decision=decision), columns)
        if counts is None or counts.shape != (1, columns.shape[0]):
            found = None if counts is None else tuple(counts.shape)
            raise TaskError(
                f"{step}.combine must return how much each update counted, "
                f"(1, {columns.shape[0]}), found {found}"
            )
        return delta, (counts if mixing is None else counts @ mixing.abs())[0]
    whole = decision.mixing if mixing is None else decision.mixing @ mixing
    part, counted = whole, whole[0].nonzero().flatten()
    if 0 < len(counted) < whole.shape[1]:  # rows that do not count are not read
        base, part = base.select(counted.tolist()), whole[:, counted]
    delta, _ = executor.combine(lambda tile: (linear(part, tile)[0], None), base)
    return delta, whole.abs()[0]


def _mixed_columns(base: Columns, mixing: Tensor | None) -> Columns:
    """Return ``mixing @ base`` as columns; the base itself if the mixing changes nothing."""
    if mixing is None or torch.equal(mixing, torch.eye(base.shape[0], dtype=torch.float64)):
        return base
    return MappedColumns(base, partial(linear, mixing), mixing.shape[0])


def measure_step(
    step: Rule, columns: Columns, geometry: Geometry | None, executor: Executor
) -> Measured:
    """Return the geometry and the score of a step's rows, each None if the step needs none.

    Parameters
    ----------
    step : Rule
        The step.
    columns : Columns
        The rows that it sees.
    geometry : Geometry or None
        Their geometry if it is known: it is returned as it is, not measured again.
    executor : Executor
        Reads the tiles.
    """
    known = geometry is not None or not step.gram
    if known and not step.scored:
        return Measured(geometry)
    if known:
        return Measured(geometry, executor.reduce(step.score, columns).cpu())
    pivot = choose_pivot(columns)
    statistic = executor.reduce(partial(step.measure, pivot=pivot), columns)
    assert statistic.gram is not None
    geometry = complete_geometry(statistic.gram.cpu(), columns, pivot, executor)
    return Measured(geometry, None if statistic.score is None else statistic.score.cpu())
