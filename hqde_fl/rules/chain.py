"""Pre-aggregations followed by a rule, run as small matrices.

A linear step is Y = W X, so the next step's Gram matrix is W G W^T: the n x d matrix is measured
once and never rebuilt, however long the chain.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.rules.aggregation import run_steps
from hqde_fl.rules.base import Aggregate, Aggregator, Rule, State
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.executor import Executor
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
        The same by keyword, as a TOML file says it.
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
            if not step.feeds:
                raise ConfigError(
                    f"Chain needs pre-aggregations before its last rule, found {step}"
                )

        *before, last = self.steps
        if last.confidence_from is not None and any(step.rows(9) != 9 for step in before):
            raise ConfigError(
                f"{last} needs every client's confidence: chain it after steps that keep the "
                f"clients apart, found {self!r}"
            )

    def __repr__(self) -> str:
        return f"Chain({', '.join(map(repr, self.rules))})"

    @property
    def feeds(self) -> bool:
        """Whether its last rule is a pre-aggregation too."""
        return self.steps[-1].feeds

    @property
    def steps(self) -> tuple[Rule, ...]:
        """The steps of all its rules, in order."""
        steps: list[Rule] = []
        for rule in self.rules:
            if isinstance(rule, Chain):
                steps.extend(rule.steps)
            elif isinstance(rule, Rule):
                steps.append(rule)
        return tuple(steps)

    def run(self, updates: Columns, cohort: Cohort, state: State, executor: Executor) -> Aggregate:
        """Run the steps one after the other."""
        return run_steps(self.steps, updates, cohort, state, executor)

    def minimum(self, faulty: int = 0) -> int:
        """The smallest n whose rows suffice for every step."""
        n = 1
        while not self._suffices(n, faulty):
            n += 1
        return n

    def breakdown(self, n: int) -> int:
        """The least of its steps', each for the rows that reach it."""
        least = n
        for step in self.steps:
            least = min(least, step.breakdown(n))
            n = step.rows(n)
        return least

    @property
    def expected_faulty(self) -> int | None:
        """The largest f among its steps."""
        told = [step.expected_faulty for step in self.steps]
        return max((f for f in told if f is not None), default=None)

    def kappa(self, n: int, f: int) -> float | None:
        """The last rule's, carried through the pre-aggregations."""
        *before, last = self.steps
        kappa = last.kappa(n, f)
        for step in reversed(before):
            kappa = None if kappa is None or step.rows(n) != n else step.carries(kappa, n, f)
        return kappa

    def filters(self, n: int) -> bool:
        """Return whether a step rejects that still sees a row for each client."""
        for step in self.steps:
            if step.filters(n):
                return True
            if step.rows(n) != n:
                return False
        return False

    @property
    def confidence_from(self) -> str | None:
        """The last rule's."""
        return self.steps[-1].confidence_from

    def masses(self, cohort: Cohort) -> Tensor:
        """The last rule's."""
        return self.steps[-1].masses(cohort)

    def _suffices(self, n: int, faulty: int) -> bool:
        for step in self.steps:
            if n < step.minimum(faulty):
                return False
            n = step.rows(n)
        return True
