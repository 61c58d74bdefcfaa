"""Every rule against its definition written as plain loops."""

import numpy as np
import pytest
import torch
from torch import Tensor

from hqde_fl.rules import (
    ARC,
    CAF,
    MDA,
    NNM,
    Aggregator,
    Bucketing,
    Bulyan,
    ByzantineFilter,
    CenteredClipping,
    Chain,
    Clipping,
    Cohort,
    DnC,
    GeometricMedian,
    Krum,
    Meamed,
    Mean,
    Median,
    MoNNA,
    MultiKrum,
    Rule,
    TrimmedMean,
    aggregate,
)
from hqde_fl.updates import Updates
from tests.hqde_fl.rules import oracles

SHAPES = ((7, 5), (11, 30), (12, 3))


def draw(n: int, d: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * n + 10 * d + seed)
    updates = torch.randn(n, d, dtype=torch.float64, generator=generator) + 0.5
    updates[: n // 5] *= 3
    return updates


def rows_of(updates: Tensor) -> oracles.Rows:
    return list(updates.numpy())


def close(rule: Aggregator, updates: Tensor, expected: np.ndarray) -> None:
    delta = aggregate(rule, Updates(updates)).delta
    torch.testing.assert_close(delta, torch.from_numpy(expected), rtol=1e-9, atol=1e-10)


RULES = {
    "mean": (lambda f: Mean(), lambda rows, f: oracles.mean(rows)),
    "median": (lambda f: Median(), lambda rows, f: oracles.median(rows)),
    "trimmed mean": (TrimmedMean, oracles.trimmed_mean),
    "meamed": (Meamed, oracles.meamed),
    "krum": (Krum, oracles.krum),
    "multi-krum": (MultiKrum, oracles.multi_krum),
    "multi-krum 2": (lambda f: MultiKrum(f, m=2), lambda rows, f: oracles.multi_krum(rows, f, 2)),
    "bulyan": (Bulyan, oracles.bulyan),
    "mda": (MDA, oracles.mda),
    "monna": (lambda f: MoNNA(f, trusted=3), lambda rows, f: oracles.monna(rows, f, 3)),
    "caf": (CAF, oracles.caf),
    "dnc": (DnC, lambda rows, f: oracles.dnc(rows, f, 1.0)),
    "dnc 1.5": (lambda f: DnC(f, 1.5), lambda rows, f: oracles.dnc(rows, f, 1.5)),
}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", RULES)
def test_rule_is_its_definition(name: str, seed: int, shape: tuple[int, int]) -> None:
    make, oracle = RULES[name]
    updates = draw(*shape, seed)
    for f in (0, 1, 2):
        rule = make(f)
        if updates.shape[0] >= rule.minimum():
            close(rule, updates, oracle(rows_of(updates), f))


PRE = {
    "nnm": (NNM(2), lambda rows: oracles.nnm(rows, 2)),
    "clipping": (Clipping(2.5), lambda rows: oracles.clipping(rows, 2.5)),
    "arc": (ARC(2), lambda rows: oracles.arc(rows, 2)),
    "bucketing": (
        Bucketing(3),
        lambda rows: oracles.bucketing(rows, 3, Cohort.of(len(rows)).shuffled("bucketing")),
    ),
}
LAST = {
    "median": (Median(), oracles.median),
    "krum": (Krum(0), lambda rows: oracles.krum(rows, 0)),
    "trimmed mean": (TrimmedMean(1), lambda rows: oracles.trimmed_mean(rows, 1)),
    "multi-krum": (MultiKrum(0, m=2), lambda rows: oracles.multi_krum(rows, 0, 2)),
    "mean": (Mean(), oracles.mean),
}


@pytest.mark.parametrize("shape", SHAPES[:2], ids=str)
@pytest.mark.parametrize("last", LAST)
@pytest.mark.parametrize("pre", PRE)
def test_chain_is_its_definition(pre: str, last: str, shape: tuple[int, int]) -> None:
    updates = draw(*shape, seed=7)
    step, before = PRE[pre]
    rule, after = LAST[last]
    close(Chain(step, rule), updates, after(before(rows_of(updates))))


def test_a_long_chain_is_its_definition() -> None:
    updates = draw(12, 20, seed=1)
    rows = oracles.nnm(oracles.arc(oracles.clipping(rows_of(updates), 6.0), 2), 3)
    chain = Chain(Clipping(6.0), Chain(ARC(2), NNM(3)), MultiKrum(2, m=3))
    close(chain, updates, oracles.multi_krum(rows, 2, 3))


@pytest.mark.parametrize("seed", range(5))
def test_geometric_median_is_at_the_minimum(seed: int) -> None:
    updates = draw(9, 4, seed)
    expected = oracles.geometric_median(rows_of(updates))
    delta = aggregate(GeometricMedian(tolerance=1e-12), Updates(updates)).delta
    torch.testing.assert_close(delta, torch.from_numpy(expected), rtol=0, atol=1e-7)
    pull = (delta - updates) / (delta - updates).norm(dim=1, keepdim=True)
    assert float(pull.sum(dim=0).norm()) < 1e-6


def test_geometric_median_of_a_majority_in_one_point_is_that_point() -> None:
    updates = draw(9, 4, seed=0)
    updates[:5] = updates[0]
    result = aggregate(GeometricMedian(), Updates(updates))
    torch.testing.assert_close(result.delta, updates[0])
    assert float(result.influence[5:].sum()) == 0


@pytest.mark.parametrize("relative", [True, False])
def test_centred_clipping_keeps_its_centre(relative: bool) -> None:
    rule = CenteredClipping(tau=0.7, relative=relative, iterations=2)
    centre, state = None, None
    for seed in range(4):
        updates = draw(8, 6, seed)
        result = aggregate(rule, Updates(updates), state=state)
        centre = oracles.centered_clipping(rows_of(updates), 0.7, 2, relative, centre)
        torch.testing.assert_close(result.delta, torch.from_numpy(centre), rtol=1e-9, atol=1e-11)
        state = result.state


def test_centred_clipping_keeps_its_centre_behind_a_chain() -> None:
    rule = Chain(NNM(2), CenteredClipping(tau=0.7, relative=False))
    centre, state = None, None
    for seed in range(3):
        updates = draw(8, 6, seed)
        result = aggregate(rule, Updates(updates), state=state)
        rows = oracles.nnm(rows_of(updates), 2)
        centre = oracles.centered_clipping(rows, 0.7, 3, False, centre)
        torch.testing.assert_close(result.delta, torch.from_numpy(centre), rtol=1e-9, atol=1e-11)
        state = result.state


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_filter_scores_are_their_definition(shape: tuple[int, int]) -> None:
    updates = draw(*shape, seed=2)
    result = aggregate(ByzantineFilter(detectors=("mad",)), Updates(updates))
    found = list(result.diagnostics["filter-scores"].values())
    assert found == pytest.approx(oracles.mad_scores(rows_of(updates)))


def test_weighted_mean_is_capped() -> None:
    updates = draw(4, 3, seed=0)
    cohort = Cohort((0, 1, 2, 3), num_examples=(10, 20, 10, 1e18))
    result = aggregate(Mean(weighted=True, cap=5), Updates(updates), cohort)
    weights = torch.tensor([10.0, 20.0, 10.0, 50.0], dtype=torch.float64)
    torch.testing.assert_close(result.influence, weights / weights.sum())
    torch.testing.assert_close(result.delta, weights @ updates / weights.sum())


def test_clients_without_examples_do_not_decide_the_cap() -> None:
    updates = Updates(draw(3, 4, seed=0))
    for examples, weights in (((0, 0, 5.0), [0.0, 0, 1]), ((0, 0, 0), [1 / 3] * 3)):
        found = aggregate(Mean(weighted=True), updates, Cohort((0, 1, 2), num_examples=examples))
        assert found.influence.tolist() == pytest.approx(weights)


def test_every_step_of_a_rule_of_one_row_is_a_rule() -> None:
    assert all(isinstance(step, Rule) for step in Chain(NNM(1), Chain(ARC(1), Median())).steps)
