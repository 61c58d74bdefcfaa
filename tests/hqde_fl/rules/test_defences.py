"""Rules with server data, layers or a memory: their results, and what they do over rounds."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.cluster import HDBSCAN
from torch import Tensor

from hqde_fl.errors import BoundError, ConfigError
from hqde_fl.rules import (
    FLAME,
    LASA,
    NNM,
    SMEA,
    Bucketing,
    Chain,
    Clipping,
    Cohort,
    FedRDF,
    FLDetector,
    FLTrust,
    FoolsGold,
    Median,
    NormalisedMean,
    RoundContext,
    Tree,
    aggregate,
)
from hqde_fl.rules.client_sketches import SKETCH_SIZE, places_row, sketch_tile, sketches_of
from hqde_fl.rules.fldetector import hessian_product
from hqde_fl.rules.magnitudes import count_magnitudes, magnitude_threshold
from hqde_fl.rules.two_clusters import are_two_clusters, upper_cluster
from hqde_fl.seeding import Seeds
from hqde_fl.updates import Updates
from tests.hqde_fl.rules import defence_oracles as oracle
from tests.hqde_fl.rules.influence_oracles import mixed, normalised

N, D = 11, 20
LAYERS = (8, 3, 9)


def draw(seed: int, n: int = N, d: int = D) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    updates = torch.randn(n, d, dtype=torch.float64, generator=generator) + 0.5
    updates[: n // 5] *= -3
    return updates


def cohort(seed: int, n: int = N, d: int = D) -> Cohort:
    reference = draw(100 + seed, 1, d)[0]
    return replace(Cohort.of(n), context=RoundContext(reference, LAYERS), round=seed)


def rows_of(updates: Tensor) -> list[np.ndarray]:
    return list(updates.numpy())


LINEAR = {
    "fltrust": (FLTrust(), oracle.fltrust),
    "flame": (FLAME(noise=0.0), oracle.flame),
    "normalised mean": (NormalisedMean(), oracle.normalised_mean),
    "smea": (SMEA(2), oracle.smea(2)),
}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", LINEAR)
def test_result_is_the_definition(name: str, seed: int) -> None:
    rule, weights = LINEAR[name]
    updates = draw(seed)
    expected = mixed(weights(rows_of(updates), cohort(seed)), rows_of(updates))
    delta = aggregate(rule, Updates(updates), cohort(seed)).delta
    torch.testing.assert_close(delta, torch.from_numpy(expected), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("seed", range(4))
def test_lasa_is_its_definition(seed: int) -> None:
    updates, expected, start = draw(seed), [], 0
    for size, weights in zip(
        LAYERS, oracle.lasa_layers(rows_of(updates), cohort(seed), 2.0, 1.0, 0.3), strict=True
    ):
        expected.append(mixed(weights, [row[start : start + size] for row in updates.numpy()]))
        start += size
    delta = aggregate(LASA(), Updates(updates), cohort(seed)).delta
    torch.testing.assert_close(delta, torch.from_numpy(np.concatenate(expected)))


@pytest.mark.parametrize("seed", range(4))
def test_fedrdf_is_its_definition(seed: int) -> None:
    updates = draw(seed)
    expected = [oracle.densest(column.tolist()) for column in updates.T]
    assert aggregate(FedRDF(), Updates(updates)).delta.tolist() == pytest.approx(expected)


def test_three_faulty_clients_move_fedrdf_where_a_median_would_not_go() -> None:
    """One stretches the range, so that honest values and those of two others are one bandwidth."""
    values = torch.tensor([0.0] * 7 + [1.0, 6.0, 64.0]).double()[:, None]
    assert float(aggregate(FedRDF(), Updates(values)).delta) == 1.0
    assert float(aggregate(Median(), Updates(values)).delta) == 0.0


# FLTrust


def test_without_trust_the_server_moves_by_its_own_update() -> None:
    reference = draw(0, 1)[0]
    outcome = aggregate(
        FLTrust(),
        Updates(-reference.repeat(4, 1)),
        replace(Cohort.of(4), context=RoundContext(reference)),
    )
    torch.testing.assert_close(outcome.delta, reference)
    assert outcome.influence.sum() == 0
    assert not outcome.filtered.any()


def test_fltrust_is_never_longer_than_the_reference() -> None:
    updates, clients = draw(3), cohort(3)
    updates[2:] *= 1e20
    assert clients.context.reference is not None
    delta = aggregate(FLTrust(), Updates(updates), clients).delta
    assert delta.norm() <= clients.context.reference.norm() * (1 + 1e-9)


@pytest.mark.parametrize(
    "rule",
    [FLTrust(), Chain(NNM(1), FLTrust()), Tree(FLTrust(), Median(), fanout=4)],
    ids=["alone", "in a chain", "in a tree"],
)
def test_a_missing_reference_is_an_error_that_names_the_rule(rule: Chain) -> None:
    with pytest.raises(ConfigError, match=r"FLTrust\(\) needs a reference update .* found none"):
        aggregate(rule, Updates(draw(0)))


def test_missing_or_other_layers_are_an_error_that_names_both_numbers() -> None:
    for context, found in ((RoundContext(), 0), (RoundContext(layers=(3, 4)), 7)):
        clients = replace(Cohort.of(N), context=context)
        with pytest.raises(ConfigError, match=rf"LASA.* {D} in all, found {found}$"):
            aggregate(LASA(), Updates(draw(0)), clients)


def test_the_context_reaches_rules_behind_other_rules() -> None:
    """As clipping leaves short updates alone, the chain and the tree of one node do as the rule."""
    updates, clients = draw(1), cohort(1)
    for rule in (FLTrust(), LASA(), FLAME(noise=0.1)):
        alone = aggregate(rule, Updates(updates), clients).delta
        chain = aggregate(Chain(Clipping(1e6), rule), Updates(updates), clients).delta
        tree = aggregate(Tree(Median(), rule, fanout=N), Updates(updates), clients).delta
        torch.testing.assert_close(chain, alone)
        torch.testing.assert_close(tree, alone)


@pytest.mark.parametrize("rule", [FoolsGold(), FLDetector()], ids=str)
def test_a_rule_that_remembers_clients_refuses_what_mixes_them(rule: FoolsGold) -> None:
    with pytest.raises(ConfigError, match="every client's history"):
        Chain(Bucketing(2), rule)
    for leaf, root in ((rule, Median()), (Median(), rule)):
        with pytest.raises(ConfigError, match="that remembers no clients"):
            Tree(leaf, root)
    assert Chain(NNM(1), rule).needs == {"history"}


# SMEA


def test_too_many_subsets_are_an_error_that_names_their_number() -> None:
    with pytest.raises(BoundError, match=r"C\(n, f\) = 4950 subsets with n=100, f=2; .* is 4096"):
        aggregate(SMEA(2), Updates(draw(0, n=100)))


def test_smea_leaves_out_those_who_agree_on_a_direction() -> None:
    updates = draw(5)
    updates[:2] = updates[5:].mean(dim=0) + 30 * torch.eye(D, dtype=torch.float64)[:1]
    assert aggregate(SMEA(2), Updates(updates)).filtered.tolist() == [True] * 2 + [False] * 9


# FLAME


@pytest.mark.parametrize("n", [5, 8, 13])
def test_the_cluster_is_that_of_hdbscan(n: int) -> None:
    for seed in range(5):
        updates = draw(seed, n)
        filtered = aggregate(FLAME(noise=0.0), Updates(updates)).filtered
        unit = (updates / updates.norm(dim=1, keepdim=True)).numpy()
        distances = np.clip(1 - unit @ unit.T, 0, 2)
        np.fill_diagonal(distances, 0)
        labels = HDBSCAN(
            min_cluster_size=n // 2 + 1,
            min_samples=1,
            metric="precomputed",
            allow_single_cluster=True,
            copy=True,
        ).fit_predict(distances.copy())
        assert filtered.tolist() == (labels == -1).tolist()


def test_noise_has_its_deviation_and_follows_the_seed_and_the_round() -> None:
    updates = torch.ones(5, 20_000)
    outcomes = [
        aggregate(FLAME(noise=0.1), Updates(updates), replace(Cohort.of(5), round=r, seed=s)).delta
        for r, s in ((1, 0), (1, 0), (2, 0), (1, 1))
    ]
    assert torch.equal(outcomes[0], outcomes[1])
    assert not torch.equal(outcomes[0], outcomes[2])
    assert not torch.equal(outcomes[0], outcomes[3])
    assert float((outcomes[0] - 1).std()) == pytest.approx(0.1 * 20_000**0.5, rel=0.03)


# FoolsGold


def test_histories_decide_over_rounds() -> None:
    state, histories = None, [np.zeros(D) for _ in range(N)]
    for turn in range(4):
        updates = draw(turn)
        outcome = aggregate(FoolsGold(), Updates(updates), cohort(turn), state)
        histories = [h + row for h, row in zip(histories, updates.numpy(), strict=True)]
        expected = normalised(oracle.foolsgold_of_histories(histories))
        assert outcome.influence.tolist() == pytest.approx(expected, abs=1e-9)
        state = outcome.state


def test_sybils_are_filtered_though_they_send_different_updates_each_round() -> None:
    """Their updates share a direction only on average; each round's noise is larger."""
    state, goal = None, draw(99, 1, 6000)[0]
    for turn in range(30):
        updates = torch.randn(10, 6000, generator=torch.Generator().manual_seed(turn))
        updates[:3] += goal
        outcome = aggregate(FoolsGold(), Updates(updates), Cohort.of(10), state)
        state = outcome.state
    assert outcome.influence[:3].sum() < 0.05
    assert outcome.influence[3:].min() > 0.05


def test_a_client_that_returns_is_remembered() -> None:
    updates = draw(0)
    first = aggregate(FoolsGold(), Updates(updates), Cohort.of(N))
    few = aggregate(FoolsGold(), Updates(updates[:3]), Cohort((0, 1, 2)), first.state)
    assert set(few.state["0"]["history"]) == set(map(str, range(N)))
    torch.testing.assert_close(few.state["0"]["history"]["7"], updates[7])


def test_other_columns_begin_a_new_history() -> None:
    first = aggregate(FoolsGold(), Updates(draw(0)), Cohort.of(N))
    wider = draw(0, d=D + 1)
    again = aggregate(FoolsGold(), Updates(wider), Cohort.of(N), first.state)
    torch.testing.assert_close(again.state["0"]["history"]["3"], wider[3])


# FLDetector


@pytest.mark.parametrize("pairs", [1, 2, 5])
def test_hessian_product_is_that_of_the_recursion(pairs: int) -> None:
    """The compact form of L-BFGS equals its updates one by one."""
    rng = np.random.default_rng(pairs)
    root = rng.standard_normal((8, 8))
    hessian = root @ root.T + np.eye(8)
    steps = rng.standard_normal((pairs, 8))
    changes = steps @ hessian
    vector = rng.standard_normal(8)
    expected = oracle.bfgs_matrix(list(steps), list(changes)) @ vector
    found = hessian_product(*map(torch.from_numpy, (steps, changes, vector)))
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-8, abs=1e-8)


def quadratic_rounds(seed: int, rounds: int, faulty: int) -> list[Tensor]:
    """Clients descend quadratics to optima of their own; faulty ones send noise as long."""
    generator = torch.Generator().manual_seed(seed)
    optima = torch.randn(10, 12, dtype=torch.float64, generator=generator)
    curvature = torch.linspace(0.5, 2.0, 12, dtype=torch.float64)
    weights, sent = 3 * torch.ones(12, dtype=torch.float64), []
    for _ in range(rounds):
        updates = -0.1 * curvature * (weights - optima)
        noise = torch.randn(faulty, 12, dtype=torch.float64, generator=generator)
        updates[:faulty] = noise * updates[faulty:].norm(dim=1).mean() / 12**0.5
        sent.append(updates)
        weights = weights + updates[faulty:].mean(dim=0)
    return sent


def test_those_whose_updates_jump_are_found() -> None:
    state = None
    for turn, updates in enumerate(quadratic_rounds(0, 8, faulty=2)):
        outcome = aggregate(
            FLDetector(), Updates(updates), replace(Cohort.of(10), round=turn), state
        )
        state = outcome.state
    assert outcome.filtered.tolist() == [True] * 2 + [False] * 8
    assert outcome.influence[:2].sum() == 0


def test_suspicion_is_its_definition() -> None:
    """Distances to the predictions with the matrix itself, averaged over the window."""
    sent, state = quadratic_rounds(1, 6, faulty=1), None
    results: list[Tensor] = []
    scores: list[list[float]] = [[] for _ in range(10)]
    for turn, updates in enumerate(sent):
        clients = replace(Cohort.of(10), round=turn, seed=4)
        outcome = aggregate(FLDetector(window=3), Updates(updates), clients, state)
        if turn > 1:
            changes = [b - a for a, b in pairwise(results)][-3:]
            steps = results[: turn - 1][-len(changes) :]
            matrix = oracle.bfgs_matrix([s.numpy() for s in steps], [c.numpy() for c in changes])
            move = torch.from_numpy(matrix @ results[-1].numpy())
            apart = (updates - sent[turn - 1] - move).norm(dim=1)
            for own, distance in zip(scores, (apart / apart.sum()).tolist(), strict=True):
                own.append(distance)
            averages = [float(np.mean(own[-3:])) for own in scores]
            assert list(outcome.diagnostics["suspicion"].values()) == pytest.approx(averages)
            samples = Seeds(4).numpy("gap statistic", turn).random((20, 10))
            two, upper = oracle.is_two_clusters(averages, samples)
            assert outcome.filtered.tolist() == [u and two for u in upper]
        results.append(outcome.delta)
        state = outcome.state


def test_the_models_own_steps_are_used_if_they_are_known() -> None:
    """A server optimiser that halves its steps: predictions follow the weights."""
    state, weights = None, [torch.zeros(12, dtype=torch.float64)]
    for turn, updates in enumerate(quadratic_rounds(2, 4, faulty=0)):
        context = RoundContext(weights=weights[-1])
        clients = replace(Cohort.of(10), round=turn, context=context)
        outcome = aggregate(FLDetector(), Updates(updates), clients, state)
        state = outcome.state
        weights.append(weights[-1] + outcome.delta / 2)
    assert state is not None
    torch.testing.assert_close(state["0"]["steps"][-1], weights[3] - weights[2])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.1, 0.11, 0.12, 0.1, 0.5, 0.52], True),
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], False),
        ([0.1] * 6, False),
    ],
)
def test_two_clusters(values: list[float], expected: bool) -> None:
    numbers = torch.tensor(values, dtype=torch.float64)
    assert are_two_clusters(numbers, 0, 1) is expected
    if expected:
        assert upper_cluster(numbers).tolist() == [v > 0.3 for v in values]


# Sketches and magnitudes


def test_sketches_keep_distances() -> None:
    d = 50_000
    updates = torch.randn(4, d, generator=torch.Generator().manual_seed(0))
    tile = torch.cat([updates, places_row(d, 7)[None]])
    sketches, size = sketches_of(sketch_tile(tile[:, :20_000]) + sketch_tile(tile[:, 20_000:]))
    assert size == d
    assert sketches.shape == (4, SKETCH_SIZE)
    exact = torch.cdist(updates, updates)[0, 1:].double()
    torch.testing.assert_close(torch.cdist(sketches, sketches)[0, 1:], exact, rtol=0.1, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_threshold_of_magnitudes(dtype: torch.dtype) -> None:
    values = torch.randn(3, 1000, generator=torch.Generator().manual_seed(1)).to(dtype)
    counts = count_magnitudes(values[:, :300]) + count_magnitudes(values[:, 300:])
    for fraction in (0.01, 0.7, 1.0):
        found = magnitude_threshold(counts.double(), fraction)
        magnitudes = values.abs().sort(dim=1, descending=True).values[:, round(1000 * fraction) - 1]
        assert found.tolist() == [oracle.rounded_down(m) for m in magnitudes.tolist()]


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda: FLAME(noise=-1.0), "FLAME needs a finite noise >= 0, found -1.0"),
        (lambda: FoolsGold(0.0), "FoolsGold needs a finite confidence > 0, found 0.0"),
        (lambda: FLDetector(0), "FLDetector needs window >= 1, found 0"),
        (lambda: LASA(norm_bound=0.0), "LASA needs norm_bound > 0, found 0.0"),
        (lambda: LASA(sparsity=1.0), r"LASA needs sparsity in \[0, 1\), found 1.0"),
        (lambda: FedRDF(harmonics=0), "FedRDF needs harmonics >= 1, found 0"),
        (lambda: FedRDF(bandwidth=0.0), "FedRDF needs a finite bandwidth > 0, found 0.0"),
        (lambda: SMEA(1, limit=0), "SMEA needs limit >= 1, found 0"),
        (lambda: NormalisedMean(-1.0), "NormalisedMean needs a finite length >= 0, found -1.0"),
    ],
)
def test_impossible_parameters_are_named(make: object, found: str) -> None:
    with pytest.raises(ConfigError, match=found):
        make()  # type: ignore[operator]


def test_normalised_mean_of_a_given_length() -> None:
    updates = draw(0, 1).repeat(3, 1) * torch.tensor([1.0, 5.0, 1e9]).double()[:, None]
    delta = aggregate(NormalisedMean(length=0.25), Updates(updates)).delta
    assert float(delta.norm()) == pytest.approx(0.25)
