"""Other projects' rules, as functions of a case; only those that are installed are compared."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from tests.conformance import equations as eq
from tests.conformance.cases import Case
from tests.conformance.subjects import CHAINS, bucket_order

Function = Callable[[Case], np.ndarray]


@dataclass(frozen=True)
class Variant:
    """A definition that departs from the paper's: why, and its equation."""

    reason: str
    equation: eq.Equation


@dataclass(frozen=True)
class Repaired:
    """The peer's own code with one step replaced by what the paper says: why, and its results."""

    reason: str
    function: Function


@dataclass(frozen=True)
class Pair:
    """A peer's version of a subject, with the departures that are known of it."""

    subject: str
    peer: str
    theirs: Function
    variants: tuple[Variant, ...] = ()
    repaired: Repaired | None = None


MORE_NEIGHBOURS = "sums over n - f - 1 nearest, the paper's Krum over n - f - 2"
NOT_SQUARED = "sums distances, the paper's Krum squared distances"
ONE_SHOT = "takes the n - 2f best of one Krum ranking, the paper ranks anew after each choice"
LOWER = "torch.median takes the lower of two middle values, the definition their mean"
RANDOM_STEP = "one power step from a random vector in place of the top eigenvector"
FEW_STEPS = "stops before the top eigenvector has converged"
OVER_ALL = "divides by the maximum over all rows, also those without weight: it need not end"
NOT_CONVERGED = "has not converged after 200 steps, and does after 4,000 (its default is 3)"
STUCK = "starts at a row and cannot leave it, or has not converged after 256 steps"
SAMPLE = "the sample's deviation (n - 1), ours the population's (n); the paper does not say which"


def _stacked(result: torch.Tensor | list[torch.Tensor]) -> np.ndarray:
    rows = torch.stack(result) if isinstance(result, list) else result
    return np.asarray(rows.numpy())


def _is_here(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _byzfl() -> list[Pair]:
    """Return byzfl's; only its numeric modules are imported, as the package imports torchvision."""
    spec = importlib.util.find_spec("byzfl")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    if "byzfl" not in sys.modules:
        sys.modules["byzfl"] = types.ModuleType("byzfl")
        sys.modules["byzfl"].__path__ = list(spec.submodule_search_locations)
    from byzfl.aggregators import aggregators as a
    from byzfl.aggregators import preaggregators as p
    from byzfl.attacks import attacks

    def call(make: Callable[[Case], Callable[[np.ndarray], np.ndarray]]) -> Function:
        return lambda case: make(case)(case.rows.copy())

    def fixed_buckets(case: Case) -> np.ndarray:
        bucketing, original = p.Bucketing(2), p.random_tool
        p.random_tool = lambda _: types.SimpleNamespace(permutation=lambda rows: rows)
        try:
            return bucketing(case.rows[bucket_order(len(case.rows))])
        finally:
            p.random_tool = original

    def geometric_median(case: Case) -> np.ndarray:
        return a.GeometricMedian(nu=1e-9 * case.unit, T=200)(case.rows)

    exact = {
        "smea": Repaired(RANDOM_STEP, with_exact_start(call(lambda c: a.SMEA(c.f)))),
        "geometric-median": Repaired(
            NOT_CONVERGED, lambda c: a.GeometricMedian(nu=1e-9 * c.unit, T=4000)(c.rows)
        ),
        "caf": Repaired(RANDOM_STEP, with_exact_start(call(lambda c: a.CAF(c.f)))),
    }
    over_all = (Variant(OVER_ALL, eq.exactly(lambda c: eq.caf(c, over_all=True))),)
    more = (Variant(MORE_NEIGHBOURS, lambda c: eq.krum(c, 1)),)
    more_multi = (Variant(MORE_NEIGHBOURS, lambda c: eq.multi_krum(c, 1)),)
    firsts: dict[str, Callable[[Case], Callable[[np.ndarray], np.ndarray]]] = {
        "nnm": lambda c: p.NNM(c.f),
        "arc": lambda c: p.ARC(c.f),
        "clipping": lambda c: p.Clipping(float(c.parameter * c.unit)),
    }
    lasts: dict[str, Callable[[Case], Callable[[np.ndarray], np.ndarray]]] = {
        "trimmed-mean": lambda c: a.TrMean(c.f),
        "median": lambda c: a.Median(),
        "meamed": lambda c: a.Meamed(c.f),
        "krum": lambda c: a.Krum(c.f),
    }
    rules: list[tuple[str, Function, tuple[Variant, ...]]] = [
        ("mean", call(lambda c: a.Average()), ()),
        ("median", call(lambda c: a.Median()), ()),
        ("trimmed-mean", call(lambda c: a.TrMean(c.f)), ()),
        ("meamed", call(lambda c: a.Meamed(c.f)), ()),
        ("krum", call(lambda c: a.Krum(c.f)), more),
        ("multi-krum", call(lambda c: a.MultiKrum(c.f)), more_multi),
        ("geometric-median", geometric_median, ()),
        (
            "centered-clipping",
            call(lambda c: a.CenteredClipping(L=3, tau=float(c.parameter * c.unit))),
            (),
        ),
        ("mda", call(lambda c: a.MDA(c.f)), ()),
        ("monna", call(lambda c: a.MoNNA(c.f)), ()),
        ("smea", seeded(call(lambda c: a.SMEA(c.f))), ()),
        ("caf", seeded(call(lambda c: a.CAF(c.f))), over_all),
        ("nnm", call(firsts["nnm"]), ()),
        ("arc", call(firsts["arc"]), ()),
        ("clipping", call(firsts["clipping"]), ()),
        ("bucketing", fixed_buckets, ()),
        ("ipm", call(lambda c: attacks.InnerProductManipulation(float(c.parameter))), ()),
        ("sign-flip", call(lambda c: attacks.SignFlipping()), ()),
        (
            "alie",
            call(lambda c: attacks.ALittleIsEnough(-float(c.parameter))),
            (Variant(SAMPLE, eq.exactly(lambda c: eq.alie(c, 1))),),
        ),
    ]
    pairs = [
        Pair(subject, "byzfl", theirs, variants, exact.get(subject))
        for subject, theirs, variants in rules
    ]

    def torch_median(case: Case) -> np.ndarray:
        return np.asarray(a.Median()(torch.from_numpy(case.rows.copy())).numpy())

    pairs.append(Pair("median", "byzfl (torch)", torch_median))

    def torch_meamed(case: Case) -> np.ndarray:
        return np.asarray(a.Meamed(case.f)(torch.from_numpy(case.rows.copy())).numpy())

    pairs.append(Pair("meamed", "byzfl (torch)", torch_meamed))
    return pairs + [_chained("byzfl", first, last, firsts, lasts) for first, last in CHAINS]


def seeded(function: Function) -> Function:
    """Return a function that draws its random numbers from one seed."""

    def run(case: Case) -> np.ndarray:
        np.random.seed(0)
        return function(case)

    return run


def with_exact_start(function: Function) -> Function:
    """Return byzfl's function with the top eigenvector in place of its random start vector.

    The replacement reads the rows, and the weights if there are any, from the caller's frame.
    """

    def top_eigenvector(dimension: int) -> np.ndarray:
        names = sys._getframe(1).f_locals
        rows = names["diffs"]
        weights = names.get("c", np.ones(len(rows)))
        return np.linalg.eigh((weights[:, None] * rows).T @ rows)[1][:, -1]

    def run(case: Case) -> np.ndarray:
        original, np.random.randn = np.random.randn, top_eigenvector
        try:
            return function(case)
        finally:
            np.random.randn = original

    return run


def _chained(
    peer: str,
    first: str,
    last: str,
    firsts: dict[str, Callable[[Case], Callable[[np.ndarray], np.ndarray]]],
    lasts: dict[str, Callable[[Case], Callable[[np.ndarray], np.ndarray]]],
) -> Pair:
    def run(case: Case) -> np.ndarray:
        return lasts[last](case)(np.asarray(firsts[first](case)(case.rows.copy())))

    return Pair(f"{first}+{last}", peer, run)


def _byzpy() -> list[Pair]:
    from byzpy.aggregators.coordinate_wise.mean_of_medians import MeanOfMedians
    from byzpy.aggregators.coordinate_wise.median import CoordinateWiseMedian
    from byzpy.aggregators.coordinate_wise.trimmed_mean import CoordinateWiseTrimmedMean
    from byzpy.aggregators.geometric_wise.geometric_median import GeometricMedian
    from byzpy.aggregators.geometric_wise.krum import Krum, MultiKrum
    from byzpy.aggregators.geometric_wise.minimum_diameter_average import MinimumDiameterAveraging
    from byzpy.aggregators.geometric_wise.monna import MoNNA
    from byzpy.aggregators.geometric_wise.smea import SMEA
    from byzpy.aggregators.norm_wise.caf import CAF
    from byzpy.aggregators.norm_wise.center_clipping import CenteredClipping
    from byzpy.attacks.empire import EmpireAttack
    from byzpy.pre_aggregators.arc import ARC
    from byzpy.pre_aggregators.bucketing import Bucketing
    from byzpy.pre_aggregators.clipping import Clipping
    from byzpy.pre_aggregators.nnm import NearestNeighborMixing

    def call(
        make: Callable[[Case], object],
    ) -> Callable[[Case], Callable[[np.ndarray], np.ndarray]]:
        def made(case: Case) -> Callable[[np.ndarray], np.ndarray]:
            part = make(case)
            run = getattr(part, "pre_aggregate", None) or part.aggregate  # type: ignore[attr-defined]
            return lambda rows: _stacked(run(list(torch.from_numpy(rows))))

        return made

    def direct(make: Callable[[Case], Callable[[np.ndarray], np.ndarray]]) -> Function:
        return lambda case: make(case)(case.rows.copy())

    firsts = {
        "nnm": call(lambda c: NearestNeighborMixing(c.f)),
        "arc": call(lambda c: ARC(c.f)),
        "clipping": call(lambda c: Clipping(float(c.parameter * c.unit))),
    }
    lasts = {
        "trimmed-mean": call(lambda c: CoordinateWiseTrimmedMean(c.f)),
        "median": call(lambda c: CoordinateWiseMedian()),
        "meamed": call(lambda c: MeanOfMedians(c.f)),
        "krum": call(lambda c: Krum(c.f)),
    }
    over_all = (Variant(OVER_ALL, eq.exactly(lambda c: eq.caf(c, over_all=True))),)
    more = (Variant(MORE_NEIGHBOURS, lambda c: eq.krum(c, 1)),)
    more_multi = (Variant(MORE_NEIGHBOURS, lambda c: eq.multi_krum(c, 1)),)
    repaired = {
        "caf": Repaired(FEW_STEPS, direct(call(lambda c: CAF(c.f, power_iters=1000)))),
        "geometric-median": Repaired(
            STUCK, direct(call(lambda c: GeometricMedian(init="mean", tol=1e-9, max_iter=5000)))
        ),
    }
    rules: list[
        tuple[str, Callable[[Case], Callable[[np.ndarray], np.ndarray]], tuple[Variant, ...]]
    ] = [
        ("median", lasts["median"], (Variant(LOWER, eq.exactly(eq.lower_median)),)),
        ("trimmed-mean", lasts["trimmed-mean"], ()),
        ("meamed", lasts["meamed"], (Variant(LOWER, eq.lower_median_meamed),)),
        ("krum", lasts["krum"], more),
        ("multi-krum", call(lambda c: MultiKrum(c.f, len(c.rows) - c.f)), more_multi),
        ("geometric-median", call(lambda c: GeometricMedian()), ()),
        (
            "centered-clipping",
            call(lambda c: CenteredClipping(c_tau=c.parameter * c.unit, M=3, init="zero")),
            (),
        ),
        ("mda", call(lambda c: MinimumDiameterAveraging(c.f)), ()),
        ("monna", call(lambda c: MoNNA(c.f)), ()),
        ("smea", call(lambda c: SMEA(c.f)), ()),
        ("caf", call(lambda c: CAF(c.f)), over_all),
        ("nnm", firsts["nnm"], ()),
        ("arc", firsts["arc"], ()),
        ("clipping", firsts["clipping"], ()),
        ("bucketing", call(lambda c: Bucketing(2, perm=bucket_order(len(c.rows)))), ()),
    ]
    pairs = [
        Pair(name, "byzpy", direct(make), variants, repaired.get(name))
        for name, make, variants in rules
    ]
    empire = {"ipm": lambda c: c.parameter, "sign-flip": lambda c: 1.0}
    for name, scale in empire.items():

        def forged(case: Case, scale: Callable[[Case], float] = scale) -> np.ndarray:
            attack = EmpireAttack(scale=-scale(case))
            return _stacked(attack.apply(honest_grads=list(torch.from_numpy(case.rows))))

        pairs.append(Pair(name, "byzpy", forged))
    return pairs + [_chained("byzpy", first, last, firsts, lasts) for first, last in CHAINS]


def _torchjd() -> list[Pair]:
    from torchjd.aggregation import Krum, Mean, TrimmedMean

    def call(make: Callable[[Case], Callable[[torch.Tensor], torch.Tensor]]) -> Function:
        return lambda case: np.asarray(make(case)(torch.from_numpy(case.rows.copy())).numpy())

    unsquared = (Variant(NOT_SQUARED, lambda c: eq.krum(c, power=0.5)),)
    unsquared_multi = (Variant(NOT_SQUARED, lambda c: eq.multi_krum(c, power=0.5)),)
    return [
        Pair("mean", "torchjd", call(lambda c: Mean())),
        Pair("trimmed-mean", "torchjd", call(lambda c: TrimmedMean(c.f))),
        Pair("krum", "torchjd", call(lambda c: Krum(c.f)), unsquared),
        Pair(
            "multi-krum", "torchjd", call(lambda c: Krum(c.f, len(c.rows) - c.f)), unsquared_multi
        ),
    ]


def _flower() -> list[Pair]:
    """Return those of Flower's strategies, and of its older ones (``flwr.server``)."""
    from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
    from flwr.server.strategy import aggregate as old
    from flwr.serverapp.strategy.bulyan import aggregate_n_closest_weights
    from flwr.serverapp.strategy.fedtrimmedavg import trim_mean
    from flwr.serverapp.strategy.multikrum import select_multikrum
    from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

    def contents(case: Case) -> list[RecordDict]:
        return [
            RecordDict(
                {"a": ArrayRecord({"w": Array(row)}), "m": MetricRecord({"num-examples": 1})}
            )
            for row in case.rows
        ]

    def averaged(chosen: list[RecordDict]) -> np.ndarray:
        return aggregate_arrayrecords(chosen, "num-examples")["w"].numpy()

    def bulyan(case: Case) -> np.ndarray:
        n, f = len(case.rows), case.f
        chosen = select_multikrum(contents(case), f, n - 2 * f)
        rows = [[content["a"]["w"].numpy()] for content in chosen]
        middle = [np.median(np.stack([row[0] for row in rows]), axis=0)]
        return aggregate_n_closest_weights(middle, rows, n - 4 * f)[0]

    def results(case: Case) -> list[tuple[list[np.ndarray], int]]:
        return [([row.copy()], 1) for row in case.rows]

    def cut(case: Case) -> float:
        """Return the fraction of which Flower's floor gives f."""
        return (case.f + 0.25) / len(case.rows)

    one_shot = (Variant(ONE_SHOT, eq.one_shot_bulyan),)
    new: list[tuple[str, Function, tuple[Variant, ...]]] = [
        ("mean", lambda c: averaged(contents(c)), ()),
        ("median", lambda c: np.median(c.rows, axis=0), ()),
        ("trimmed-mean", lambda c: trim_mean(c.rows, cut(c)), ()),
        ("krum", lambda c: averaged(select_multikrum(contents(c), c.f, 1)), ()),
        (
            "multi-krum",
            lambda c: averaged(select_multikrum(contents(c), c.f, len(c.rows) - c.f)),
            (),
        ),
        ("bulyan", bulyan, one_shot),
    ]
    older: list[tuple[str, Function]] = [
        ("mean", lambda c: old.aggregate(results(c))[0]),
        ("median", lambda c: old.aggregate_median(results(c))[0]),
        ("trimmed-mean", lambda c: old.aggregate_trimmed_avg(results(c), cut(c))[0]),
        ("krum", lambda c: old.aggregate_krum(results(c), c.f, 0)[0]),
        ("multi-krum", lambda c: old.aggregate_krum(results(c), c.f, len(c.rows) - c.f)[0]),
        (
            "bulyan",
            lambda c: old.aggregate_bulyan(results(c), c.f, old.aggregate_krum, to_keep=0)[0],
        ),
    ]
    return [Pair(name, "flwr", theirs, variants) for name, theirs, variants in new] + [
        Pair(name, "flwr.server", theirs) for name, theirs in older
    ]


@cache
def installed_pairs() -> list[Pair]:
    """Return every pair whose peer is installed, by subject and peer."""
    makers = {"byzfl": _byzfl, "byzpy": _byzpy, "torchjd": _torchjd, "flwr": _flower}
    pairs = [pair for name, make in makers.items() if _is_here(name) for pair in make()]
    return sorted(pairs, key=lambda pair: (pair.subject, pair.peer))
