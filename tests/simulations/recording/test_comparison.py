import pytest
from scipy import stats

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.recording.comparison import Comparison, ComparisonAxis
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.recording.seed_groups import ComparisonRow
from hqde_fl.simulations.report.scores import line_scores
from hqde_fl.simulations.statistics.analysis import Analysis


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "[]",
        "{}",
        '{"name": "x", "axes": 3, "cells": []}',
        '{"name": "x", "axes": [], "cells": [{"labels": [], "directory": 3, "error": null}]}',
        '{"name": "x", "axes": [], "cells": [{"labels": ["a"], "directory": "", "error": null}]}',
    ],
    ids=["empty", "list", "no axes", "wrong axes", "wrong directory", "label without axis"],
)
def test_a_damaged_index_is_one_clear_line(tmp_path, damage):
    (tmp_path / "sweep.json").write_text(damage)
    with pytest.raises(ConfigError, match=r"sweep\.json is damaged: \w+Error: "):
        Comparison.load(tmp_path)


SEEDS = tuple(f"seed={number}" for number in range(1, 9))


@pytest.fixture
def compare(tmp_path):
    """Return a function that compares (rule, attack) -> one value of a metric for each seed."""

    def compare(values, metric="accuracy", *, seeds=SEEDS, **settings):
        axes = [
            ComparisonAxis(name, labels, labels)
            for name, labels in (
                ("attack", tuple(dict.fromkeys(attack for _, attack in values))),
                ("rule", tuple(dict.fromkeys(rule for rule, _ in values))),
                ("seed", seeds),
            )
        ]
        manifest = {"status": "finished", "faulty": {}, "filters": False}
        manifest["objective"] = {"primary": metric, "higher-is-better": {}}
        rows = []
        for (rule, attack), finals in values.items():
            for seed, final in zip(seeds, finals, strict=True):
                server = {"round": 0, "server": {metric: final}, "seconds": 0.0}
                server |= {"clients-train": {}, "clients-evaluate": {}}
                server |= {"bytes-up": 0, "bytes-down": 0}
                run = Run(tmp_path, manifest, (server,), ())
                rows.append(ComparisonRow((attack, rule, seed), f"{rule}-{attack}-{seed}", run))
        return Comparison("made", tuple(axes), tuple(rows), Analysis(**settings))

    return compare


def shifted(base, by):
    return [base + by * (1 + 0.1 * number) + 0.001 * number for number in range(len(SEEDS))]


def test_a_rule_is_compared_with_the_baseline_under_the_same_condition(compare):
    """FedAvg under ALIE loses 0.8, and median as much as it does there: that is no difference."""
    values = {
        ("FedAvg", "none"): shifted(0.9, 0.0),
        ("median", "none"): shifted(0.9, -0.02),
        ("FedAvg", "alie"): shifted(0.1, 0.0),
        ("median", "alie"): shifted(0.1, 0.01),
    }
    comparison = compare(values)
    assert comparison.lines == ("FedAvg", "median")
    assert comparison.difference(comparison.group_at("FedAvg", ("alie",))) is None
    for attack, mean in (("none", -0.027), ("alie", 0.0135)):
        group = comparison.group_at("median", (attack,))
        difference = comparison.difference(group)
        assert difference.mean == pytest.approx(mean)
        assert comparison.is_worse(difference) is (attack == "none")
        pairs = values["median", attack], values["FedAvg", attack]
        expected = stats.permutation_test(
            pairs,
            lambda x, y, axis: (x - y).mean(axis=axis),
            permutation_type="samples",
            vectorized=True,
        )
        assert difference.p == difference.p_holm == pytest.approx(expected.pvalue)
    overall = comparison.differences.lines["median"]
    assert overall.mean == pytest.approx((-0.027 + 0.0135) / 2)
    other = compare(values, baseline="median")
    assert other.difference(other.group_at("FedAvg", ("none",))).mean == pytest.approx(0.027)


def test_lower_is_worse_only_where_higher_is_better(compare):
    values = {("a", "x"): shifted(1.0, 0.0), ("b", "x"): shifted(1.0, -0.1)}
    for metric, worse in (("accuracy", True), ("rmse", False)):
        comparison = compare(values, metric)
        assert comparison.is_worse(comparison.difference(comparison.groups[1])) is worse
        assert [score.line for score in line_scores(comparison)] == (
            ["a", "b"][:: 1 if worse else -1]
        )


def test_p_values_are_corrected_for_the_number_of_rules(compare):
    values = {(rule, "x"): shifted(0.5, by) for rule, by in (("a", 0), ("b", 0.1), ("c", 0.2))}
    comparison = compare(values)
    for line in ("b", "c"):
        difference = comparison.differences.lines[line]
        assert (difference.p, difference.p_holm) == (2 / 2**8, 4 / 2**8)


def test_seeds_that_only_one_has_are_left_out_and_few_seeds_are_not_tested(compare):
    values = {("a", "x"): [0.5] * 8, ("b", "x"): [0.6] * 6 + [None] * 2}
    comparison = compare(values)
    difference = comparison.difference(comparison.group_at("b", ("x",)))
    assert (difference.sample.n, difference.p) == (6, None)
    assert comparison.differences.lines == {}  # b is not complete under any condition


def test_a_run_that_diverged_ranks_last_and_is_not_taken_for_one_that_failed(compare):
    values = {
        ("stable", "x"): shifted(2.0, 0.0),
        ("diverged", "x"): [None] * 8,
        ("stable", "y"): shifted(2.0, 0.0),
        ("diverged", "y"): shifted(1.0, 0.0),
    }
    comparison = compare(values, "rmse")
    assert comparison.group_at("diverged", ("x",)).status == "not finite"
    assert [(score.line, score.incomplete) for score in line_scores(comparison)] == [
        ("stable", ""),
        ("diverged", "1 not finite"),
    ]
    assert dict(comparison.mean_ranks.ranks) == {"stable": 1.5, "diverged": 1.5}


def test_runs_of_tasks_with_different_metrics_are_compared_by_their_loss(compare):
    one, other = compare({("a", "x"): [1.0] * 8}), compare({("a", "x"): [1.0] * 8}, "rmse")
    both = Comparison("both", one.axes, one.rows + other.rows)
    assert (one.metric, other.metric, both.metric) == ("accuracy", "rmse", "loss")


def test_the_settings_of_a_comparison_are_kept(compare, tmp_path):
    chosen = compare({("a", "x"): [0.5] * 8, ("b", "x"): [0.5] * 8}, baseline="b")
    chosen.save(tmp_path)
    assert Comparison.load(tmp_path).baseline_line == "b"
    assert Comparison.load(tmp_path, {"baseline": "a"}).baseline_line == "a"
