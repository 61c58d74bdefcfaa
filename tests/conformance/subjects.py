"""What is compared: our rules, pre-aggregations and attacks, each with its paper's equation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from hqde_fl import rules
from hqde_fl.rules import Aggregator, Cohort, aggregate
from hqde_fl.rules.aggregation import measure_step
from hqde_fl.rules.executor import default_executor
from hqde_fl.simulations.attacks.alie import ALIE
from hqde_fl.simulations.attacks.base import Attack, AttackerKnowledge
from hqde_fl.simulations.attacks.ipm import IPM
from hqde_fl.updates import Updates
from tests.conformance import equations as eq
from tests.conformance.cases import Case, draw

Function = Callable[[Case], np.ndarray]


@dataclass(frozen=True)
class Subject:
    """A rule, pre-aggregation or attack.

    ``least`` is f -> fewest rows. ``criterion``, (case, result) -> a number to be minimised, takes
    the place of the equation where the result has no closed form.
    """

    name: str
    citation: str
    ours: Function
    equation: eq.Equation
    least: Callable[[int], int] = lambda f: 2 * f + 1
    most: int = 9
    criterion: Callable[[Case, np.ndarray], float] | None = None

    def case(self, index: int) -> Case:
        return draw(self.name, index, self.least, self.most)

    def is_admitted(self, case: Case, result: np.ndarray | None, tolerance: float = 1e-5) -> bool:
        """Return True if the paper admits a result, which is in units of the normalised case."""
        if self.criterion is None:
            return eq.admits(self.equation, case, result, tolerance)
        if result is None or not np.isfinite(result).all():
            return False
        best = self.criterion(case, self.ours(case))
        return self.criterion(case, result) <= best * (1 + tolerance) + tolerance * len(case.rows)


def by_rule(make: Callable[[Case], Aggregator]) -> Function:
    return lambda case: aggregate(make(case), Updates(torch.from_numpy(case.rows))).delta.numpy()


def by_rows(make: Callable[[Case], rules.Rule]) -> Function:
    """Return the rows that a pre-aggregation makes."""

    def run(case: Case) -> np.ndarray:
        updates, rule = Updates(torch.from_numpy(case.rows)), make(case)
        measured = measure_step(rule, updates, None, default_executor(updates))
        mixing = rule.decide(measured, Cohort.of(len(case.rows)), {}).mixing
        assert mixing is not None
        return mixing.numpy() @ case.rows.astype(np.float64)

    return run


def by_attack(make: Callable[[Case], Attack]) -> Function:
    def run(case: Case) -> np.ndarray:
        knowledge = AttackerKnowledge(tuple(range(len(case.rows))))
        return make(case).forge(Updates(torch.from_numpy(case.rows)), case.f, knowledge).numpy()

    return run


def bucket_order(n: int) -> list[int]:
    """Return the order of n rows in which our Bucketing fills its buckets in the first round."""
    return Cohort.of(n).shuffled("bucketing")


def buckets(case: Case) -> np.ndarray:
    rows = case.rows[bucket_order(len(case.rows))]
    return np.array([rows[i : i + 2].mean(axis=0) for i in range(0, len(rows), 2)])


def any_n(f: int) -> int:
    return 1 + f


def attackers(f: int) -> int:
    return f + 1 if f else 99


def krum_bound(f: int) -> int:
    return 2 * f + 3


SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject(
            "mean",
            "",
            by_rule(lambda c: rules.Mean()),
            eq.exactly(lambda c: c.rows.mean(axis=0)),
            any_n,
        ),
        Subject(
            "median",
            "arXiv:1803.01498",
            by_rule(lambda c: rules.Median()),
            eq.exactly(lambda c: np.median(c.rows, axis=0)),
            any_n,
        ),
        Subject(
            "trimmed-mean",
            "arXiv:1803.01498",
            by_rule(lambda c: rules.TrimmedMean(c.f)),
            eq.exactly(eq.trimmed_mean),
        ),
        Subject(
            "meamed",
            "arXiv:1802.10116",
            by_rule(lambda c: rules.Meamed(c.f)),
            eq.meamed,
        ),
        Subject(
            "krum",
            "arXiv:1703.02757",
            by_rule(lambda c: rules.Krum(c.f)),
            eq.krum,
            krum_bound,
        ),
        Subject(
            "multi-krum",
            "arXiv:1703.02757",
            by_rule(lambda c: rules.MultiKrum(c.f)),
            eq.multi_krum,
            krum_bound,
        ),
        Subject(
            "bulyan",
            "arXiv:1802.07927",
            by_rule(lambda c: rules.Bulyan(c.f)),
            eq.bulyan,
            lambda f: 4 * f + 3,
            11,
        ),
        Subject(
            "geometric-median",
            "arXiv:1912.13445",
            by_rule(lambda c: rules.GeometricMedian()),
            eq.exactly(lambda c: np.zeros(c.rows.shape[1])),
            any_n,
            criterion=lambda c, z: eq.sum_of_distances(c.rows, z),
        ),
        Subject(
            "centered-clipping",
            "arXiv:2012.10333",
            by_rule(lambda c: rules.CenteredClipping(tau=c.parameter * c.unit, relative=False)),
            eq.exactly(eq.centered_clipping),
            any_n,
        ),
        Subject("mda", "arXiv:2008.00742", by_rule(lambda c: rules.MDA(c.f)), eq.mda, most=8),
        Subject("monna", "arXiv:2209.10931", by_rule(lambda c: rules.MoNNA(c.f)), eq.monna),
        Subject(
            "smea",
            "arXiv:2302.04787",
            by_rule(lambda c: rules.SMEA(c.f)),
            eq.smea,
            most=7,
        ),
        Subject(
            "caf",
            "arXiv:2505.01874",
            by_rule(lambda c: rules.CAF(c.f)),
            eq.exactly(eq.caf),
            most=8,
        ),
        Subject("nnm", "arXiv:2302.01772", by_rows(lambda c: rules.NNM(c.f)), eq.nnm),
        Subject(
            "arc",
            "arXiv:2405.14432",
            by_rows(lambda c: rules.ARC(c.f)),
            eq.exactly(eq.arc),
        ),
        Subject(
            "clipping",
            "arXiv:2405.14432",
            by_rows(lambda c: rules.Clipping(c.parameter * c.unit)),
            eq.exactly(eq.clipping),
            any_n,
        ),
        Subject(
            "bucketing",
            "arXiv:2006.09365",
            by_rows(lambda c: rules.Bucketing(2)),
            eq.exactly(buckets),
            any_n,
        ),
        Subject(
            "ipm",
            "arXiv:1903.03936",
            by_attack(lambda c: IPM(c.parameter)),
            eq.exactly(lambda c: -c.parameter * c.rows.mean(axis=0)),
            attackers,
        ),
        Subject(
            "sign-flip",
            "IPM with epsilon = 1",
            by_attack(lambda c: IPM(1.0)),
            eq.exactly(lambda c: -c.rows.mean(axis=0)),
            attackers,
        ),
        Subject(
            "alie",
            "arXiv:1902.06156",
            by_attack(lambda c: ALIE(c.parameter)),
            eq.exactly(eq.alie),
            attackers,
        ),
    )
}

_LAST = {
    "trimmed-mean": lambda f: rules.TrimmedMean(f),
    "median": lambda f: rules.Median(),
    "meamed": lambda f: rules.Meamed(f),
    "krum": lambda f: rules.Krum(f),
}
_FIRST = {
    "nnm": lambda c: rules.NNM(c.f),
    "arc": lambda c: rules.ARC(c.f),
    "clipping": lambda c: rules.Clipping(c.parameter * c.unit),
}
CHAINS = (
    ("nnm", "trimmed-mean"),
    ("nnm", "median"),
    ("nnm", "meamed"),
    ("nnm", "krum"),
    ("arc", "trimmed-mean"),
    ("arc", "median"),
    ("clipping", "median"),
    ("clipping", "meamed"),
)


def _chain(first: str, last: str) -> Subject:
    def equation(case: Case) -> list[list[eq.Box]]:
        return SUBJECTS[last].equation(replace(case, rows=SUBJECTS[first].ours(case)))

    return Subject(
        f"{first}+{last}",
        "",
        by_rule(lambda c: rules.Chain(_FIRST[first](c), _LAST[last](c.f))),
        equation,
        krum_bound if last == "krum" else SUBJECTS["trimmed-mean"].least,
    )


for _names in CHAINS:
    SUBJECTS["+".join(_names)] = _chain(*_names)
