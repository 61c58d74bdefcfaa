"""Pre-aggregations followed by a rule, run as small matrices.

A linear step is Y = W X, so the next step's Gram matrix is W G W^T: the n x d matrix is measured
once and never rebuilt, however long the chain.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.rules.base import Aggregator, Rule, StepRunner
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.mean import Mean
from hqde_fl.rules.results import Aggregate, State
from hqde_fl.rules.round_context import Need
from hqde_fl.updates import Columns


@dataclass(frozen=True, init=False, repr=False)
class Chain(Aggregator):
    """Pre-aggregations and, last, the rule that sees their output.

    Tolerates what the least tolerant of them does.

    Parameters
    ----------
    *chained : Aggregator
        At least one rule or chain. All but the last must be pre-aggregations.
    rules : tuple[Aggregator, ...]
        The same by keyword, as a TOML file gives it.
    """

    rules: tuple[Aggregator, ...]

    def __init__(self, *chained: Aggregator, rules: tuple[Aggregator, ...] = ()) -> None:
        object.__setattr__(self, "rules", chained or tuple(rules))
        if not self.rules:
            raise ConfigError("Chain needs at least one rule")
        for rule in self.rules:
            if not isinstance(rule, Rule | Chain):
                raise ConfigError(f"Chain needs rules or chains of rules, found {rule}")
        for step in self.steps[:-1]:
            if not step.is_preaggregation:
                raise ConfigError(
                    f"Chain needs pre-aggregations before its last rule, found {step}"
                )

        *before, last = self.steps
        needed = "confidence" if last.confidence_from is not None else None
        if "history" in last.needs:
            needed = "history"
        if needed is None and isinstance(last, Mean) and last.weighted:
            needed = "number of examples"
        if needed is not None and any(step.output_rows(9) != 9 for step in before):
            raise ConfigError(
                f"{last} needs every client's {needed}: chain it after steps that keep the "
                f"clients apart, found {self!r}"
            )

    def __repr__(self) -> str:
        return f"Chain({', '.join(map(repr, self.rules))})"

    @property
    def is_preaggregation(self) -> bool:
        """True if its last rule is a pre-aggregation."""
        return self.steps[-1].is_preaggregation

    @property
    def steps(self) -> tuple[Rule, ...]:
        """The rules that it consists of, in order, those of nested chains among them."""
        steps: list[Rule] = []
        for rule in self.rules:
            if isinstance(rule, Chain):
                steps.extend(rule.steps)
            elif isinstance(rule, Rule):
                steps.append(rule)
        return tuple(steps)

    def run(
        self, updates: Columns, cohort: Cohort, state: State, run_steps: StepRunner
    ) -> Aggregate:
        """Return the aggregate of one round's updates by all steps, one after the other."""
        return run_steps(self.steps, updates, cohort, state)

    def minimum(self, faulty: int = 0) -> int:
        """Return the smallest n that gives every step, f lowered by ``faulty``, enough rows."""
        n = 1
        while not self._suffices(n, faulty):
            n += 1
        return n

    def breakdown(self, n: int) -> int:
        """Return the least breakdown of its steps, each for the rows that reach it."""
        least = n
        for step in self.steps:
            least = min(least, step.breakdown(n))
            n = step.output_rows(n)
        return least

    @property
    def expected_faulty(self) -> int | None:
        """The largest f among its steps; None if none of them has one."""
        declared = [step.expected_faulty for step in self.steps]
        return max((f for f in declared if f is not None), default=None)

    def kappa(self, n: int, f: int) -> float | None:
        """Return the last rule's constant composed with the other steps'; None if unproven."""
        *before, last = self.steps
        kappa = last.kappa(n, f)
        for step in reversed(before):
            if kappa is None or step.output_rows(n) != n:
                return None
            kappa = step.composed_kappa(kappa, n, f)
        return kappa

    def sensitivity(self, n: int, norm: float) -> float | None:
        """Return the last rule's, for how far the steps before it let one of its rows move."""
        *before, last = self.steps
        moved = 2 * norm
        for step in before:
            bounds = step.moved_rows(moved, n, norm)
            if bounds is None:
                return None
            (moved, norm), n = bounds, step.output_rows(n)
        # the last rule's bound is for rows that move by 2 norm; it is linear in how far they do
        bound = last.sensitivity(n, norm)
        if bound is None or not isinstance(last, Mean):
            return bound
        return bound * min(1.0, moved / (2 * norm))

    def filters(self, n: int) -> bool:
        """Return whether a step can filter while each of n clients still has a row of its own."""
        for step in self.steps:
            if step.filters(n):
                return True
            if step.output_rows(n) != n:
                return False
        return False

    @property
    def confidence_from(self) -> str | None:
        """The source of confidence that the last rule needs; None if it needs none."""
        return self.steps[-1].confidence_from

    @property
    def needs(self) -> frozenset[Need]:
        """The needs of its steps besides updates."""
        return frozenset[Need]().union(*(step.needs for step in self.steps))

    def mean_weights(self, cohort: Cohort) -> Tensor:
        """Return the last rule's unnormalised client weights, (n,): ones if it is no mean."""
        return self.steps[-1].mean_weights(cohort)

    def _suffices(self, n: int, faulty: int) -> bool:
        for step in self.steps:
            if n < step.minimum(faulty):
                return False
            n = step.output_rows(n)
        return True
