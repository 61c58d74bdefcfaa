"""Rules that single clients out: the Byzantine filter, SignGuard, DnC, CAF, MDA."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hqde_fl.errors import BoundError, ConfigError
from hqde_fl.rules import (
    CAF,
    MDA,
    NNM,
    RULES,
    Bucketing,
    ByzantineFilter,
    Chain,
    Cohort,
    DnC,
    Median,
    MoNNA,
    MultiKrum,
    SignGuard,
    aggregate,
)
from hqde_fl.rules.eigenvectors import top_eigenvector
from hqde_fl.rules.mda import covers, least_diameter
from hqde_fl.rules.sign_guard import largest_cluster
from hqde_fl.updates import Updates

DETECTORS = ("mad", "cosine", "euclidean")


def honest(n: int = 10, d: int = 200, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator) + 1


def dropped(rule: object, updates: Tensor) -> list[int]:
    result = aggregate(rule, Updates(updates))  # type: ignore[arg-type]
    assert float(result.influence[result.filtered].sum()) < 1e-2
    return result.filtered.nonzero().flatten().tolist()


FILTERS = [
    MultiKrum(3),
    MDA(3),
    MoNNA(3, trusted=9),
    CAF(3),
    DnC(3),
    SignGuard(),
    *(ByzantineFilter(detectors=(detector,)) for detector in DETECTORS),
]


@pytest.mark.parametrize("rule", FILTERS, ids=str)
def test_flipped_signs_are_found(rule: object) -> None:
    updates = honest(14)
    updates[[1, 4, 6]] *= -4
    assert set(dropped(rule, updates)) >= {1, 4, 6}


@pytest.mark.parametrize("detector", DETECTORS)
def test_the_filter_drops_nobody_when_all_are_honest(detector: str) -> None:
    rule = ByzantineFilter(detectors=(detector,))  # type: ignore[arg-type]
    assert [dropped(rule, honest(seed=seed)) for seed in range(10)] == [[]] * 10


def test_each_detector_finds_its_kind_of_outlier() -> None:
    longer, turned = honest(), honest()
    longer[2] *= 6
    turned[2] = -turned[2]
    assert dropped(ByzantineFilter(detectors=("euclidean",)), longer) == [2]
    assert dropped(ByzantineFilter(detectors=("cosine",)), longer) == []
    assert dropped(ByzantineFilter(detectors=("cosine",)), turned) == [2]
    assert dropped(ByzantineFilter(detectors=("euclidean", "cosine")), turned) == [2]


def test_reputation_gates_and_recovers() -> None:
    rule = ByzantineFilter(gate=0.75, loss=0.2, gain=0.1, detectors=("mad",))
    state, excluded = None, []
    for turn in range(8):
        updates = honest(seed=turn)
        if turn < 3:
            updates[5] *= -5
        result = aggregate(rule, Updates(updates), Cohort.of(10), state)
        state = result.state
        excluded.append(bool(result.filtered[5]))
        assert not bool(result.filtered[:5].any())
    # 1.0 .8 .6 .4 after three bad rounds, then .5 .6 .7 .8: kept again at .75
    assert excluded == [True] * 7 + [False]
    assert state is not None
    assert state["0"]["reputation"]["5"] == pytest.approx(0.9)
    assert state["0"]["reputation"]["0"] == 1


def test_the_gate_stays_within_the_fraction() -> None:
    rule = ByzantineFilter(gate=1.0, fraction=0.2)
    state = {"0": {"reputation": {str(i): 0.1 * i for i in range(6)}}}
    result = aggregate(rule, Updates(honest()), Cohort.of(10), state)
    assert result.filtered.nonzero().flatten().tolist() == [0, 1]


def test_clients_already_excluded_count_towards_the_fraction() -> None:
    updates = honest(8)
    updates[:3] *= -4
    cohort = Cohort(tuple(range(8)), faulty=2)
    result = aggregate(ByzantineFilter(), Updates(updates), cohort)
    assert int(result.filtered.sum()) == 1


def test_too_few_left_fall_back_to_the_coordinate_median() -> None:
    result = aggregate(ByzantineFilter(), Updates(honest(2)))
    assert result.diagnostics["filter-fallback"] == "coordinate-median"
    torch.testing.assert_close(result.delta, honest(2).mean(dim=0))


def test_detectors_from_a_table() -> None:
    table = {"name": "byzantine-filter", "detectors": ["cosine", "mad"], "gate": 0.2}
    assert RULES.build(table) == ByzantineFilter(detectors=("cosine", "mad"), gate=0.2)
    with pytest.raises(ConfigError, match=r"byzantine-filter\.detectors"):
        RULES.build({"name": "byzantine-filter", "detectors": ["cosin"]})
    with pytest.raises(ConfigError, match="detectors among mad, cosine, euclidean"):
        ByzantineFilter(detectors=())


def test_sign_guard_clips_to_the_median_norm() -> None:
    updates = honest(9)
    updates[0] *= 2.5
    result = aggregate(SignGuard(), Updates(updates))
    middle = float(updates.norm(dim=1).median())
    assert float(result.delta.norm()) <= middle * (1 + 1e-6)


def test_largest_cluster() -> None:
    points = torch.tensor([[0.0], [0.1], [0.05], [0.12], [3.0], [3.1], [9.0]])
    assert largest_cluster(points.double()).tolist() == [True] * 4 + [False] * 3
    assert largest_cluster(torch.zeros(5, 3).double()).all()


@given(
    n=st.integers(2, 8),
    edges=st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=12),
    budget=st.integers(0, 4),
)
@settings(max_examples=150, deadline=None)
def test_smallest_covers_are_all_found(n: int, edges: set[tuple[int, int]], budget: int) -> None:
    pairs = {(a, b) for a, b in edges if a < b < n}
    far = [0] * n
    for a, b in pairs:
        far[a] |= 1 << b
        far[b] |= 1 << a
    expected: set[int] = set()
    for size in range(budget + 1):
        for rows in itertools.combinations(range(n), size):
            if all(a in rows or b in rows for a, b in pairs):
                expected.add(sum(1 << row for row in rows))
        if expected:
            break
    found = set(covers(far, budget))
    assert bool(found) == bool(expected)
    assert expected <= found


@given(points=st.lists(st.integers(-20, 20), min_size=4, max_size=8), f=st.integers(0, 3))
@settings(max_examples=80, deadline=None)
def test_least_diameter_is_the_least(points: list[int], f: int) -> None:
    x = torch.tensor(points, dtype=torch.float64)
    squared = (x[:, None] - x[None, :]) ** 2
    kept = least_diameter(squared, f)
    assert len(set(kept)) == len(points) - f

    def size(rows: tuple[int, ...]) -> tuple[float, float]:
        block = squared[list(rows)][:, list(rows)]
        return float(block.max()), float(block.sum())

    assert size(tuple(kept)) == min(
        map(size, itertools.combinations(range(len(points)), len(points) - f))
    )


def test_mda_beyond_its_limit() -> None:
    updates = Updates(honest(41, 3))
    with pytest.raises(BoundError, match=r"= 1048576 steps with n=41, f=20; the limit is 4096"):
        aggregate(MDA(20), updates)
    assert int(aggregate(MDA(12), updates).filtered.sum()) == 12


def test_monna_needs_its_trusted_client() -> None:
    with pytest.raises(BoundError, match="needs the update of client 77, found"):
        aggregate(MoNNA(1, trusted=77), Updates(honest()))


@pytest.mark.parametrize("n", [5, 90])
def test_top_eigenvector(n: int) -> None:
    rows = torch.randn(n, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    matrix = rows @ rows.T * 1e-20
    values, vectors = torch.linalg.eigh(matrix)
    value, vector = top_eigenvector(matrix)
    assert value == pytest.approx(float(values[-1]), rel=1e-10)
    assert abs(float(vector @ vectors[:, -1])) == pytest.approx(1, rel=1e-9)
    assert top_eigenvector(0 * matrix)[0] == 0


def test_buckets_depend_on_the_round_and_the_seed() -> None:
    updates = Updates(honest(9))
    rule = Chain(Bucketing(3), Median())

    def run(**more: int) -> Tensor:
        return aggregate(rule, updates, Cohort(tuple(range(9)), **more)).delta

    assert torch.equal(run(round=1), run(round=1))
    assert not torch.equal(run(round=1), run(round=2))
    assert not torch.equal(run(round=1), run(round=1, seed=1))


@pytest.mark.parametrize(("m", "rejected"), [(0, 3), (7, 3), (6, 0)])
def test_multi_krum_rejects_unused_updates_only_with_the_largest_m(m: int, rejected: int) -> None:
    outcome = aggregate(MultiKrum(3, m), Updates(honest(10)))
    assert int(outcome.filtered.sum()) == rejected


def test_bounds_of_chains() -> None:
    chain = Chain(Bucketing(2), MultiKrum(1))
    assert chain.minimum() == 9  # five buckets
    assert chain.breakdown(20) == 1
    assert Chain(NNM(2), Median()).breakdown(20) == 2
    assert Chain(Bucketing(3), Median()).breakdown(20) == 3


def test_a_pre_aggregation_alone_is_an_error() -> None:
    for rule in (NNM(1), Chain(NNM(1)), Bucketing(2)):
        assert rule.is_preaggregation
        with pytest.raises(ConfigError, match="is a pre-aggregation: chain it before a rule"):
            aggregate(rule, Updates(honest()))
    with pytest.raises(ConfigError, match="needs pre-aggregations before its last rule"):
        Chain(Median(), Median())
