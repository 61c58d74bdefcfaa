"""Trees of rules."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hqde_fl.errors import BoundError, ConfigError
from hqde_fl.rules import (
    NNM,
    RULES,
    ByzantineFilter,
    CenteredClipping,
    Chain,
    Clipping,
    Cohort,
    GeometricMedian,
    Krum,
    Mean,
    Median,
    Superposition,
    Tree,
    TrimmedMean,
    aggregate,
)
from hqde_fl.rules.tree_plan import Node, grow
from hqde_fl.updates import Updates


def leaves(node: Node) -> list[int]:
    return [node] if isinstance(node, int) else [x for child in node for x in leaves(child)]


def widest(node: Node) -> int:
    return 0 if isinstance(node, int) else max(len(node), *(widest(child) for child in node))


@given(n=st.integers(1, 700), fanout=st.integers(2, 9))
@settings(max_examples=200, deadline=None)
def test_levels_and_leaves(n: int, fanout: int) -> None:
    tree = grow(n, fanout)
    assert leaves(tree) == list(range(n))
    assert widest(tree) <= fanout
    levels = 1
    while fanout**levels < n:
        levels += 1
    assert Tree(fanout=fanout).levels(n) == levels


@given(
    n=st.integers(1, 60),
    fanout=st.integers(2, 7),
    seed=st.integers(0, 5),
    weighted=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_a_tree_of_means_is_the_flat_mean(n: int, fanout: int, seed: int, weighted: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    updates = Updates(torch.randn(n, 7, generator=generator))
    examples = torch.rand(n, generator=generator, dtype=torch.float64) ** 6 * 1e4 + 1
    cohort = Cohort(tuple(range(n)), num_examples=tuple(examples.tolist()), round=seed)
    mean = Mean(weighted=weighted)
    flat = aggregate(mean, updates, cohort)
    tree = aggregate(Tree(mean, mean, fanout), updates, cohort)
    torch.testing.assert_close(tree.delta, flat.delta, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(tree.influence, flat.influence)


def test_weights_reach_a_mean_behind_a_chain() -> None:
    updates = Updates(torch.randn(10, 4, generator=torch.Generator().manual_seed(0)))
    cohort = Cohort(tuple(range(10)), num_examples=tuple(range(1, 11)))
    clipped = Chain(Clipping(1e6), Mean(weighted=True))
    tree = aggregate(Tree(clipped, Mean(), fanout=3), updates, cohort)
    flat = aggregate(Mean(weighted=True), updates, cohort)
    torch.testing.assert_close(tree.delta, flat.delta, rtol=1e-6, atol=1e-6)


def test_breakdown_of_a_tree_of_medians() -> None:
    tree = Tree(Median(), Median(), fanout=4)
    assert tree.breakdown(64) == 7
    assert Median().breakdown(64) == 31
    assert Tree().breakdown(64) == 0
    result = aggregate(tree, Updates(torch.zeros(64, 2)))
    assert result.diagnostics["tree-breakdown"] == 7
    assert result.diagnostics["tree-levels"] == 3


def test_breakdown_plus_one_clients_in_the_worst_places_break_a_tree_of_medians() -> None:
    tree = Tree(Median(), Median(), fanout=4)
    cohort = Cohort.of(64)
    order = cohort.shuffled("tree")
    worst = [order[16 * a + 4 * b + c] for a in (0, 1, 2) for b in (0, 1, 2) for c in (0, 1, 2)]
    updates = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    updates[worst] = 1e6
    assert float(aggregate(tree, Updates(updates), cohort).delta.min()) > 1e5
    eight = [order[16 * a + 4 * b + c] for a in (0, 1) for b in (0, 1) for c in (0, 1)]
    updates[worst] = 0
    updates[eight] = 1e6
    assert float(aggregate(tree, Updates(updates), cohort).delta.abs().max()) > 1e4
    updates[eight[0]] = 0
    assert float(aggregate(tree, Updates(updates), cohort).delta.abs().max()) < 10


def test_groups_differ_from_round_to_round() -> None:
    tree = Tree(Median(), Mean(), fanout=3)
    updates = Updates(torch.randn(9, 4, generator=torch.Generator().manual_seed(0)))
    rounds = [Cohort(tuple(range(9)), round=turn, seed=3) for turn in (1, 1, 2)]
    first, again, other = (aggregate(tree, updates, cohort).delta for cohort in rounds)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_nodes_keep_their_own_state() -> None:
    tree = Tree(CenteredClipping(), ByzantineFilter(), fanout=3)
    result = aggregate(tree, Updates(torch.randn(9, 4)))
    assert sorted(result.state) == ["0", "0/0", "0/1", "0/2"]
    again = aggregate(tree, Updates(torch.randn(9, 4)), state=result.state)
    assert sorted(again.state) == sorted(result.state)


def test_clients_rejected_by_a_leaf_are_rejected() -> None:
    updates = torch.randn(9, 40, generator=torch.Generator().manual_seed(0))
    updates[2] = 1e4
    result = aggregate(Tree(ByzantineFilter(), GeometricMedian(), fanout=9), Updates(updates))
    assert result.filtered.tolist() == [False] * 9  # one level: there is no leaf below the root
    result = aggregate(Tree(ByzantineFilter(), GeometricMedian(), fanout=5), Updates(updates))
    assert result.filtered.nonzero().flatten().tolist() == [2]
    assert float(result.influence[2]) == 0


def test_a_node_with_too_few_children_is_an_error() -> None:
    tree = Tree(TrimmedMean(1), TrimmedMean(1), fanout=3)
    assert tree.minimum() == 3
    aggregate(tree, Updates(torch.randn(9, 2)))
    with pytest.raises(BoundError, match="needs at least 3 updates, found 2"):
        aggregate(tree, Updates(torch.randn(4, 2)))


def test_from_a_table() -> None:
    table = {
        "name": "tree",
        "leaf": {"name": "trimmed-mean", "f": 1},
        "root": "median",
        "fanout": 5,
    }
    assert RULES.build(table) == Tree(TrimmedMean(1), Median(), fanout=5)


def test_invalid_trees_are_refused() -> None:
    with pytest.raises(ConfigError, match="fanout >= 2, found 1"):
        Tree(fanout=1)
    with pytest.raises(ConfigError, match="needs a rule as leaf, found a pre-aggregation"):
        Tree(NNM(1), Mean())


def test_inner_nodes_have_the_mean_confidence_below_them() -> None:
    tree = Tree(Superposition(confidence="efficiency", longest=0.0), fanout=2)
    confidence = (0.1, 0.9, 0.5, 0.3, 0.7, 0.2, 0.8, 0.4)
    given = replace(Cohort.of(8), confidence=confidence)
    top = tree.planned(given)
    for node in top.nodes():
        assert node.cohort.confidence is not None
        if node.children:
            assert node.cohort.confidence == tuple(child.confidence for child in node.children)
        else:
            assert node.cohort.confidence == tuple(confidence[row] for row in node.rows)
    assert top.confidence == pytest.approx(sum(confidence) / 8)
    outcome = aggregate(tree, Updates(torch.eye(8)), given)
    assert outcome.delta.min() > 0
    torch.testing.assert_close(outcome.influence, outcome.delta.double(), rtol=0, atol=1e-6)


def test_a_root_that_can_never_have_enough_children_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Tree needs fanout >= 9, .* Krum\(f=3\), found 4"):
        Tree(Mean(), Krum(f=3))
    with pytest.raises(ConfigError, match="Tree needs fanout >= 9"):
        Tree(Krum(f=1), Krum(f=3), inner="pass-through")  # no leaf node has the 5 that it needs
    assert Tree(Mean(), Krum(f=3), inner="pass-through").minimum() == 33
    assert Tree(Krum(f=1), Median()).minimum() == 1
    assert Tree(Mean(), Krum(f=3), fanout=9).minimum() == 9
