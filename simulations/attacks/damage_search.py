"""How much an update of the attackers would harm, under the rule that is in use.

The attackers move along a line, start + t direction, in the span of the honest updates and a few
more vectors. Linear rules that decide on distances alone are tried on coordinates in that span: one
try costs O(n^2), whatever the size of the model. Any other rule is run on the updates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

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
"""How far along the line -> the squared distance of the rule's result from the honest mean."""

REACH = 1000.0
"""The search looks at distances down to this factor below its limit."""


def damage_along(span: UpdateSpan, start: Tensor, direction: Tensor, f: int, scene: AttackerKnowledge) -> Damage:
    """The damage that f attackers do who send start + t direction.

    Parameters
    ----------
    span : UpdateSpan
        The honest updates, and what else the line is made of.
    start, direction : Tensor
        (k,) points of the span.
    f : int
        The number of attackers.
    scene : AttackerKnowledge
        The clients, the rule and its state.
    """
    cohort, order = scene.cohort()

    def rows(t: float) -> Tensor:
        sent = (start + t * direction).expand(f, -1)
        return torch.cat([span.honest_rows(), sent])[order]

    steps = _steps(scene.rule)
    if steps is None:
        mean = span.vector(span.mean())
        return lambda t: _or_none(partial(_on_columns, span, rows(t), mean, cohort, scene))
    remembered = [tuple(s.remembered_rows(scene.state.get(str(i), {}))) for i, s in enumerate(steps)]
    wide = UpdateSpan(span.honest, span.extra + sum(remembered, ()))
    _ = wide.geometry  # measured now, so that a try reads no update
    places, below = [], len(span.extra)
    for vectors in remembered:
        places.append([wide.row(below + k) for k in range(len(vectors))])
        below += len(vectors)
    return lambda t: _or_none(partial(_on_gram, wide, rows(t), places, steps, cohort, scene))


def find_most_harmful(damage: Damage, known: Sequence[float], limit: float, tries: int) -> float:
    """The t in [-limit, limit] with the greatest damage found.

    Parameters
    ----------
    damage : Damage
        What is maximised; it may jump.
    known : Sequence[float]
        Tried first: the result is never worse than these. If none is negative, neither is t.
    limit : float
        The largest |t| to try.
    tries : int
        Two thirds of them go to a geometric grid, the rest to bisection around its best.
    """
    count = max(2, 2 * tries // 3)
    signs = (1, -1) if min(known) < 0 else (1,)
    steps = max(2, count // len(signs))
    ratio: float = REACH ** (1 / (steps - 1))
    grid = [sign * limit / ratio**k for sign in signs for k in range(steps)]
    found = {t: damage(t) for t in dict.fromkeys([*known, *grid])}
    best = max(found, key=lambda t: found[t])
    low = max((t for t in found if t < best), default=best)
    high = min((t for t in found if t > best), default=best)
    most = found[best]
    for turn in range(max(0, tries - count)):
        t = (best + (high if turn % 2 == 0 else low)) / 2
        if t == best:
            continue
        if (harm := damage(t)) > most:
            low, high = (best, high) if t > best else (low, best)
            best, most = t, harm
        elif t > best:
            high = t
        else:
            low = t
    return best


def _steps(rule: Aggregator) -> Sequence[Rule] | None:
    """The rule's steps, if they can be tried on coordinates."""
    steps = rule.steps if isinstance(rule, Chain) else (rule,)
    found = [step for step in steps if isinstance(step, Rule)]
    linear_on_gram = (not s.scored and type(s).combine is Rule.combine for s in found)
    return found if len(found) == len(steps) and all(linear_on_gram) else None


def _or_none(attempt: Callable[[], float]) -> float:
    """The damage; none if there are too few updates, for then the server keeps its model."""
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
    scene: AttackerKnowledge,
) -> float:
    """The rule's steps, as ``hqde_fl.rules.aggregation`` takes them, on coordinates."""
    cohort = apply_tolerance(scene.rule, cohort)
    total = span.origin().shape[0]
    mixing = torch.nn.functional.pad(rows, (0, total - rows.shape[1]))
    for index, step in enumerate(steps):
        members = cohort.anonymous(mixing.shape[0])
        members.require(str(step), step.minimum(cohort.excused))
        mixing = torch.cat([mixing, *(vector[None, :] for vector in places[index])])
        measured = Measured(span.geometry.mixed(mixing) if step.gram else None)
        decision = step.decide(measured, members, scene.state.get(str(index), {}))
        assert decision.mixing is not None
        mixing = decision.mixing @ mixing
    ends = torch.cat([mixing, span.mean()[None, :]])
    return float(span.geometry.mixed(ends).squared_distances()[0, 1]) * span.geometry.unit**2


def _on_columns(span: UpdateSpan, rows: Tensor, mean: Tensor, cohort: Cohort, scene: AttackerKnowledge) -> float:
    """The rule itself."""
    updates = MappedColumns(span.columns, partial(linear, rows), rows.shape[0])
    delta = aggregate(scene.rule, updates, cohort, scene.state).delta
    return float(torch.linalg.vector_norm(delta - mean, dtype=torch.float64)) ** 2
