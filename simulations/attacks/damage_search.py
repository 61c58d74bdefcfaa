"""Search for the attackers' update that does the most damage under the rule in use.

The search goes through the span of the honest updates and a few further vectors, or follows a line
in it, start + t direction. Linear rules that decide by distances alone are evaluated on coordinates
in that span, which costs O(n^2) per try, whatever the model's size. Any other rule is run on the
updates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from hqde_fl.errors import BoundError
from hqde_fl.rules import Aggregator, Chain, Cohort, Measured, Rule, aggregate
from hqde_fl.rules.base import linear
from hqde_fl.rules.tolerance import apply_tolerance
from hqde_fl.simulations.attacks.base import AttackerKnowledge
from hqde_fl.simulations.attacks.update_span import UpdateSpan
from hqde_fl.updates import MappedColumns

Damage = Callable[[float], float]
"""Position t on the line -> squared distance of the rule's result from the honest mean."""

Goal = Literal["distance", "opposite"]
"""The measure of damage: the squared distance of the rule's result from the honest mean, or how far
the result goes against it, the inner product of mean - result and mean."""

ON_UPDATES = ("combine", "added_rows", "second_score", "finish")
"""Methods by which a rule depends on more than distances between updates and its memory."""

SEARCH_RANGE = 1000.0
"""Ratio of the search's limit to the smallest |t| on its grid."""


def damage_along(
    span: UpdateSpan, start: Tensor, direction: Tensor, f: int, knowledge: AttackerKnowledge
) -> Damage:
    """Return the damage of f attackers as a function of t, where they send start + t direction.

    Damage is the squared distance of the rule's result from the honest mean; 0 where the rule finds
    the updates too few.

    Parameters
    ----------
    span : UpdateSpan
        The span of the honest updates and further vectors.
    start, direction : Tensor
        (k,) points of the span.
    f : int
        Number of attackers.
    knowledge : AttackerKnowledge
        The clients, the rule and its state.
    """
    damage = damage_in(span, f, knowledge)
    return lambda t: damage(start + t * direction)


def damage_in(
    span: UpdateSpan, f: int, knowledge: AttackerKnowledge, goal: Goal = "distance"
) -> Callable[[Tensor], float]:
    """Return the damage of f attackers as a function of the point (k,) of a span that they send.

    It is 0 where the rule finds the updates too few.

    Parameters
    ----------
    span : UpdateSpan
        The span of the honest updates and further vectors.
    f : int
        Number of attackers.
    knowledge : AttackerKnowledge
        The clients, the rule and its state.
    goal : str
        The measure of damage.
    """
    cohort, order = knowledge.cohort()

    def rows(point: Tensor) -> Tensor:
        return torch.cat([span.honest_rows(), point.expand(f, -1)])[order]

    steps = _steps(knowledge.rule)
    if steps is None:
        mean = span.vector(span.mean())
        return lambda point: _or_none(
            partial(_on_columns, span, rows(point), mean, cohort, knowledge, goal)
        )
    remembered = [
        tuple(s.remembered_rows(knowledge.state.get(str(i), {}))) for i, s in enumerate(steps)
    ]
    wide = UpdateSpan(span.honest, span.extra + sum(remembered, ()))
    _ = wide.geometry  # measured now, so that a try reads no update
    places, below = [], len(span.extra)
    for vectors in remembered:
        places.append([wide.row(below + k) for k in range(len(vectors))])
        below += len(vectors)
    return lambda point: _or_none(
        partial(_on_gram, wide, rows(point), places, steps, cohort, knowledge, goal)
    )


def find_most_harmful(damage: Damage, known: Sequence[float], limit: float, tries: int) -> float:
    """Return the t in [-limit, limit] with the greatest damage found.

    Parameters
    ----------
    damage : Damage
        The function to maximise; it may be discontinuous.
    known : Sequence[float]
        Values to try first; the result does at least their damage. If none is negative, only t >= 0
        are tried.
    limit : float
        Largest |t| to try, > 0.
    tries : int
        Number of tries: two thirds on a geometric grid, the rest for bisection around its best.
    """
    count = max(2, 2 * tries // 3)
    signs = (1, -1) if min(known) < 0 else (1,)
    steps = max(2, count // len(signs))
    ratio: float = SEARCH_RANGE ** (1 / (steps - 1))
    grid = [sign * limit / ratio**k for sign in signs for k in range(steps)]
    damages = {t: damage(t) for t in dict.fromkeys([*known, *grid])}
    best = max(damages, key=lambda t: damages[t])
    low = max((t for t in damages if t < best), default=best)
    high = min((t for t in damages if t > best), default=best)
    max_damage = damages[best]
    for turn in range(max(0, tries - count)):
        t = (best + (high if turn % 2 == 0 else low)) / 2
        if t == best:
            continue
        if (new_damage := damage(t)) > max_damage:
            low, high = (best, high) if t > best else (low, best)
            best, max_damage = t, new_damage
        elif t > best:
            high = t
        else:
            low = t
    return best


def _steps(rule: Aggregator) -> Sequence[Rule] | None:
    """Return the rule's steps if all can be evaluated on coordinates in a span, else None."""
    steps = rule.steps if isinstance(rule, Chain) else (rule,)
    rules = [step for step in steps if isinstance(step, Rule)]
    linear_on_gram = (
        not s.scored and not s.remembers and not _overrides(s, ON_UPDATES) for s in rules
    )
    return rules if len(rules) == len(steps) and all(linear_on_gram) else None


def _overrides(rule: Rule, names: Sequence[str]) -> bool:
    """Return True if a rule has a method of its own under any of these names."""
    return any(getattr(type(rule), name) is not getattr(Rule, name) for name in names)


def _or_none(attempt: Callable[[], float]) -> float:
    """Return the damage of an attempt; 0 if the updates are too few and the model is kept."""
    try:
        return attempt()
    except BoundError:
        return 0.0


def _on_gram(
    span: UpdateSpan,
    rows: Tensor,
    places: Sequence[Sequence[Tensor]],
    steps: Sequence[Rule],
    cohort: Cohort,
    knowledge: AttackerKnowledge,
    goal: Goal,
) -> float:
    """Return the damage with the rule's steps applied to coordinates in the span."""
    cohort = apply_tolerance(knowledge.rule, cohort)
    total = span.origin().shape[0]
    mixing = torch.nn.functional.pad(rows, (0, total - rows.shape[1]))
    for index, step in enumerate(steps):
        members = cohort.anonymous(mixing.shape[0])
        members.require(str(step), step.minimum(cohort.excused))
        mixing = torch.cat([mixing, *(vector[None, :] for vector in places[index])])
        measured = Measured(span.geometry.mixed(mixing) if step.gram else None)
        decision = step.decide(measured, members, knowledge.state.get(str(index), {}))
        assert decision.mixing is not None
        mixing = decision.mixing @ mixing
    ends = span.geometry.mixed(torch.cat([mixing, span.mean()[None, :]]))
    if goal == "distance":
        return float(ends.squared_distances()[0, 1]) * ends.unit**2
    products = ends.products()
    return float(products[1, 1] - products[0, 1]) * ends.unit**2


def _on_columns(
    span: UpdateSpan,
    rows: Tensor,
    mean: Tensor,
    cohort: Cohort,
    knowledge: AttackerKnowledge,
    goal: Goal,
) -> float:
    """Return the damage with the rule applied to the updates themselves.

    The honest ``mean`` is (d,).
    """
    updates = MappedColumns(span.columns, partial(linear, rows), rows.shape[0])
    lost = mean - aggregate(knowledge.rule, updates, cohort, knowledge.state).delta
    if goal == "distance":
        return float(torch.linalg.vector_norm(lost, dtype=torch.float64)) ** 2
    return float(lost.to(torch.float64) @ mean.to(torch.float64))
