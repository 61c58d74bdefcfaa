"""Every rule's ``influence`` against plain loops: each client's share of the aggregate."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hqde_fl.rules import (
    ARC,
    CAF,
    FLAME,
    LASA,
    MDA,
    NNM,
    RULES,
    SMEA,
    Adaptive,
    Aggregator,
    Bucketing,
    Bulyan,
    ByzantineFilter,
    CenteredClipping,
    Chain,
    Clipping,
    Cohort,
    DnC,
    Entanglement,
    FedRDF,
    FLDetector,
    FLTrust,
    FoolsGold,
    GeometricMedian,
    Krum,
    Meamed,
    Mean,
    Median,
    MoNNA,
    MultiKrum,
    NormalisedMean,
    Robust,
    SignGuard,
    Superposition,
    Tree,
    TrimmedMean,
    Voting,
    aggregate,
)
from hqde_fl.updates import Updates
from tests.contracts.rule_examples import context_of
from tests.hqde_fl.rules import defence_oracles as defences
from tests.hqde_fl.rules import influence_oracles as oracle
from tests.hqde_fl.rules import oracles as values
from tests.hqde_fl.rules.influence_oracles import Final

F = 2
MAD_FILTER = ByzantineFilter(detectors=("mad",), floor=0.25)
ONE_ROUND = Robust(directions=False, longest=1.0)


@dataclass(frozen=True)
class Case:
    """A rule and the oracle of its influence.

    Parameters
    ----------
    rule : Aggregator
        The rule.
    influence : Final
        Its weights as plain loops.
    ties : bool
        Whether cohorts with tied values and copied rows have one right answer: not where the
        choice hangs on an eigenvector or an iteration, whose last digits decide between equals.
    """

    rule: Aggregator
    influence: Final
    ties: bool = True


CASES: dict[str, Case] = {
    "adaptive": Case(Adaptive(), oracle.adaptive(), ties=False),
    "arc": Case(
        Chain(ARC(F), Median()), oracle.chain(oracle.arc(F), last=oracle.median), ties=False
    ),
    "bucketing": Case(
        Chain(Bucketing(2), TrimmedMean(1)),
        oracle.chain(oracle.bucketing(2), last=oracle.trimmed_mean(1)),
    ),
    "bulyan": Case(Bulyan(F), oracle.bulyan(F)),
    "byzantine-filter": Case(MAD_FILTER, oracle.byzantine_filter(), ties=False),
    "caf": Case(CAF(F), oracle.caf(F), ties=False),
    "centered-clipping": Case(CenteredClipping(), oracle.centered_clipping(1.0, 3, True)),
    "chain": Case(
        Chain(ARC(F), NNM(F), MultiKrum(F)),
        oracle.chain(oracle.arc(F), oracle.nnm(F), last=oracle.multi_krum(F)),
        ties=False,
    ),
    "clipping": Case(
        Chain(Clipping(2.5), Mean()), oracle.chain(oracle.clipping(2.5), last=oracle.mean)
    ),
    "dnc": Case(DnC(F), oracle.dnc(F, 1.0), ties=False),
    "entanglement": Case(Entanglement(), oracle.entanglement(), ties=False),
    "fedrdf": Case(FedRDF(), defences.fedrdf, ties=False),
    "flame": Case(FLAME(noise=0.0), defences.flame, ties=False),
    "fldetector": Case(FLDetector(), defences.equal),
    "fltrust": Case(FLTrust(), defences.fltrust),
    "foolsgold": Case(FoolsGold(), defences.foolsgold, ties=False),
    "geometric-median": Case(GeometricMedian(), oracle.geometric_median, ties=False),
    "krum": Case(Krum(F), oracle.krum(F)),
    "lasa": Case(LASA(), defences.lasa(), ties=False),
    "mda": Case(MDA(F), oracle.mda(F), ties=False),
    "meamed": Case(Meamed(F), oracle.meamed(F)),
    "mean": Case(Mean(weighted=True, cap=3.0), oracle.weighted_mean(3.0)),
    "median": Case(Median(), oracle.median),
    "monna": Case(MoNNA(F, trusted=4), oracle.monna(F, 4)),
    "multi-krum": Case(MultiKrum(F), oracle.multi_krum(F)),
    "nnm": Case(
        Chain(NNM(F), CenteredClipping()),
        oracle.chain(oracle.nnm(F), last=oracle.centered_clipping(1.0, 3, True)),
        ties=False,
    ),
    "normalised-mean": Case(NormalisedMean(), defences.normalised_mean),
    "robust": Case(ONE_ROUND, oracle.robust(), ties=False),
    "sign-guard": Case(SignGuard(), oracle.sign_guard(0.1, 3.0)),
    "smea": Case(SMEA(F), defences.smea(F), ties=False),
    "superposition": Case(Superposition(), oracle.superposition(0.25, 2.0), ties=False),
    "tree": Case(
        Tree(Median(), Median(), fanout=3),
        oracle.tree(oracle.median, oracle.median, 3, lambda rows, cohort: values.median(rows)),
    ),
    "trimmed-mean": Case(TrimmedMean(F), oracle.trimmed_mean(F)),
    "voting": Case(Voting(), oracle.voting_on_coordinates),
}
"""One case for each name in ``RULES``."""

MORE: dict[str, Case] = {
    "plain mean": Case(Mean(), oracle.mean),
    "multi-krum of two": Case(MultiKrum(F, m=2), oracle.multi_krum(F, 2)),
    "dnc that removes more": Case(DnC(F, 1.5), oracle.dnc(F, 1.5), ties=False),
    "centred clipping at a fixed length": Case(
        CenteredClipping(tau=0.7, relative=False, iterations=2),
        oracle.centered_clipping(0.7, 2, False),
    ),
    "robust with other thresholds": Case(
        Robust(saturation=0.8, full=0.9, longest=2.0, far=3.0, directions=False),
        oracle.robust(saturation=0.8, full=0.9, longest=2.0, far=3.0),
        ties=False,
    ),
    "sign-guard with other bounds": Case(SignGuard(low=0.7, high=1.3), oracle.sign_guard(0.7, 1.3)),
    "entanglement by rows": Case(Entanglement(by="row-mean"), oracle.entanglement("row-mean")),
    "entanglement without a bound": Case(
        Entanglement(longest=0), oracle.entanglement(longest=0), ties=False
    ),
    "entanglement at random": Case(
        Entanglement(coupling="random", strength=0.3), oracle.entanglement_at_random(0.3)
    ),
    "superposition of reports": Case(
        Superposition(temperature=0.5, longest=1.5, confidence="reported"),
        oracle.superposition(0.5, 1.5, "reported"),
        ties=False,
    ),
    "voting on updates": Case(Voting(votes="updates"), oracle.voting_on_updates(), ties=False),
    "tree of means": Case(
        Tree(Mean(), Median(), fanout=4),
        oracle.tree(oracle.mean, oracle.median, 4, lambda rows, cohort: values.mean(rows)),
        ties=False,
    ),
    "arc and median of buckets": Case(
        Chain(ARC(F), Bucketing(3), Median()),
        oracle.chain(oracle.arc(F), oracle.bucketing(3), last=oracle.median),
        ties=False,
    ),
    "clipping and krum": Case(
        Chain(Clipping(3.0), Krum(F)),
        oracle.chain(oracle.clipping(3.0), last=oracle.krum(F)),
        ties=False,
    ),
    "arc and bulyan": Case(
        Chain(ARC(F), Bulyan(F)), oracle.chain(oracle.arc(F), last=oracle.bulyan(F)), ties=False
    ),
    "arc and robust": Case(
        Chain(ARC(F), ONE_ROUND), oracle.chain(oracle.arc(F), last=oracle.robust()), ties=False
    ),
    "arc and sign-guard": Case(
        Chain(ARC(F), SignGuard()), oracle.chain(oracle.arc(F), last=oracle.sign_guard(0.1, 3.0))
    ),
    "lasa of all magnitudes": Case(
        LASA(norm_bound=1.0, sign_bound=1.5, sparsity=0.0), defences.lasa(1.0, 1.5, 0.0), ties=False
    ),
    "bucketing and fltrust": Case(
        Chain(Bucketing(2), FLTrust()), oracle.chain(oracle.bucketing(2), last=defences.fltrust)
    ),
    "nnm and flame": Case(
        Chain(NNM(F), FLAME(noise=0.0)),
        oracle.chain(oracle.nnm(F), last=defences.flame),
        ties=False,
    ),
    "nnm and voting on coordinates": Case(
        Chain(NNM(F), Voting()),
        oracle.chain(oracle.nnm(F), last=oracle.voting_on_coordinates),
        ties=False,
    ),
}
"""Other parameters and chains."""

ALL = CASES | MORE


@dataclass(frozen=True)
class Cohorts:
    """Settings by which a cohort of updates is drawn.

    Parameters
    ----------
    n, d : int
        Updates and numbers of each.
    kind : str
        ``"spread"``, one client far out (``"outlier"``), some against the others (``"opposed"``),
        or values on a coarse grid and a copied row (``"tied"``).
    noise : float
        Spread of the updates around what they share.
    seed : int
        Of the draw.
    """

    n: int
    d: int
    kind: str
    noise: float
    seed: int

    def updates(self) -> np.ndarray:
        rng = np.random.default_rng(self.seed)
        rows = 0.5 + self.noise * rng.standard_normal((self.n, self.d))
        if self.kind == "outlier":
            rows[rng.integers(self.n)] += 50 * self.noise
        elif self.kind == "opposed":
            rows[rng.permutation(self.n)[:2]] *= -rng.uniform(0.2, 5)
        elif self.kind == "tied":
            rows = np.round(2 * rows) / 2
            rows[0] += ~rows.any(axis=1)[0]  # no row of zeros only
            rows[self.n - 1] = rows[0]
        return rows

    def cohort(self) -> Cohort:
        rng = np.random.default_rng([self.seed, 1])
        return Cohort(
            ids=tuple(int(i) for i in rng.permutation(self.n)),
            num_examples=tuple(float(e) for e in rng.integers(1, 200, self.n)),
            confidence=tuple(float(c) for c in rng.uniform(0, 1, self.n)),
            round=self.seed % 5,
            seed=self.seed % 7,
        )


def cohorts(kinds: tuple[str, ...]) -> st.SearchStrategy[Cohorts]:
    return st.builds(
        Cohorts,
        n=st.sampled_from((11, 12, 13, 16)),
        d=st.sampled_from((4, 8, 16, 32)),
        kind=st.sampled_from(kinds),
        noise=st.sampled_from((0.25, 0.5, 1.0, 2.0)),
        seed=st.integers(0, 10_000),
    )


def check(case: Case, drawn: Cohorts) -> None:
    rows = drawn.updates()
    cohort = replace(drawn.cohort(), context=context_of(case.rule, torch.from_numpy(rows)))
    result = aggregate(case.rule, Updates(torch.from_numpy(rows)), cohort)
    expected = oracle.normalised(case.influence(list(rows), cohort))
    assert result.influence.tolist() == pytest.approx(expected, abs=2e-5), drawn


def test_every_rule_has_an_influence_oracle() -> None:
    assert set(CASES) == set(RULES)


@pytest.mark.parametrize("name", ALL)
@given(data=st.data())
@settings(max_examples=30, deadline=None, derandomize=True)
def test_influence_is_the_share_of_the_aggregate(name: str, data: st.DataObject) -> None:
    case = ALL[name]
    kinds = ("spread", "outlier", "opposed") + (("tied",) if case.ties else ())
    check(case, data.draw(cohorts(kinds)))


SHAPES = [Cohorts(9, 6, kind, 1.0, seed) for kind in ("outlier", "opposed") for seed in range(4)]


@pytest.mark.parametrize("drawn", SHAPES, ids=str)
def test_reputation_and_influence_in_the_second_round(drawn: Cohorts) -> None:
    """Whoever was an outlier twice is below the gate and stays out in a third, quiet round."""
    rule, n = replace(MAD_FILTER, loss=0.3), drawn.n
    state, trust = None, [1.0] * n
    for turn in range(3):
        rows = replace(drawn, kind="spread" if turn == 2 else drawn.kind).updates()
        result = aggregate(rule, Updates(torch.from_numpy(rows)), Cohort.of(n), state)
        expected = oracle.normalised(oracle.byzantine_filter(trust)(list(rows), Cohort.of(n)))
        assert result.influence.tolist() == pytest.approx(expected, abs=2e-5)
        _, outlier = oracle.byzantine_filter_drops(values.mad_scores(list(rows)), trust)
        narrow = oracle.byzantine_filter_narrow(values.mad_scores(list(rows)))
        changes = [
            -0.3 if out else -0.075 if near else 0.05
            for out, near in zip(outlier, narrow, strict=True)
        ]
        trust = [min(1.0, max(0.0, t + c)) for t, c in zip(trust, changes, strict=True)]
        state = result.state


@pytest.mark.parametrize("drawn", SHAPES, ids=str)
def test_remembered_trust_and_influence_in_later_rounds(drawn: Cohorts) -> None:
    state, trust = None, None
    for turn in range(3):
        rows = replace(drawn, seed=drawn.seed + turn).updates()
        result = aggregate(ONE_ROUND, Updates(torch.from_numpy(rows)), Cohort.of(drawn.n), state)
        weights, trust = oracle.robust_steps(list(rows), trust)
        assert result.influence.tolist() == pytest.approx(oracle.normalised(weights), abs=2e-5)
        state = result.state


@pytest.mark.parametrize("drawn", SHAPES, ids=str)
def test_influence_of_a_clipping_around_the_last_result(drawn: Cohorts) -> None:
    """The share that stays with the last result is nobody's."""
    rule, state, centre = CenteredClipping(tau=0.5), None, None
    for turn in range(3):
        rows = replace(drawn, seed=drawn.seed + turn).updates()
        result = aggregate(rule, Updates(torch.from_numpy(rows)), Cohort.of(drawn.n), state)
        weights = oracle.centered_clipping(0.5, 3, True, centre)(list(rows), Cohort.of(drawn.n))
        assert result.influence.tolist() == pytest.approx(oracle.normalised(weights), abs=2e-5)
        state, centre = result.state, result.delta.numpy()


@pytest.mark.parametrize(
    "rule", [Median(), TrimmedMean(1), TrimmedMean(2), Meamed(2), Bulyan(2)], ids=str
)
@pytest.mark.parametrize("n", [11, 12])
def test_a_coordinate_is_the_mean_of_the_values_that_have_influence(
    rule: Aggregator, n: int
) -> None:
    """With one coordinate the influence alone says what the aggregate is."""
    for seed in range(10):
        rows = np.random.default_rng(seed).standard_normal((n, 1))
        rows[seed % n] = 50
        result = aggregate(rule, Updates(torch.from_numpy(rows)))
        assert result.influence[seed % n] == 0
        shared = float(result.influence @ torch.from_numpy(rows[:, 0]))
        assert float(result.delta) == pytest.approx(shared)


def test_the_mean_of_a_large_cohort_needs_no_matrix_of_its_clients() -> None:
    n = 200_000  # whose identity matrix would have 320 GB
    outcome = aggregate(Mean(), Updates(torch.ones(n, 1)))
    assert outcome.delta.item() == pytest.approx(1.0, rel=0.01)  # summed in float32
    assert outcome.influence.sum().item() == pytest.approx(1.0)
    assert outcome.influence.max().item() == pytest.approx(1 / n)
