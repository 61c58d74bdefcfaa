"""A sweep over a regression: lower is better, over three rules, three attacks and three seeds."""

from __future__ import annotations

import csv
import json
from io import StringIO

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from hqde_fl.errors import UnknownNameError
from hqde_fl.simulations.console.results_table import results_table
from hqde_fl.simulations.recording.comparison import Comparison
from hqde_fl.simulations.report import render, write_report
from hqde_fl.simulations.report.heat_maps import metric_maps
from hqde_fl.simulations.report.paper_tables import latex, markdown, paper_table
from hqde_fl.simulations.report.scores import line_scores
from hqde_fl.simulations.sweep import Sweep
from hqde_fl.simulations.sweep.runner import run_sweep

REGRESSION = """
rounds = 4
[task]
name = "tests.simulations.line_task:regression"
[clients]
count = 7
lr = 0.2
[engine]
name = "inline"
[sweep]
attack = ["none", { name = "sign-flip", scale = 2.0 }, { name = "alie", z = 3.0 }]
rule = [
    { label = "FedAvg", name = "mean" },
    { name = "trimmed-mean", f = 2 },
    { label = "broken", name = "krum", f = 2 },
]
f = [2]
seeds = [1, 2, 3]
"""


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    out = tmp_path_factory.mktemp("line")
    (out / "line.toml").write_text(REGRESSION)
    comparison = run_sweep(Sweep.load(out / "line.toml"), out / "out", report=False)
    write_report(comparison, out / "out")
    return out / "out", comparison


def rows_of(path):
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_rules_are_ranked_by_their_greatest_error(swept):
    _, comparison = swept
    assert {row.status for row in comparison.rows} == {"finished"}
    assert (comparison.metric, comparison.objective.higher_is_better()) == ("rmse", False)
    assert comparison.compared_axes[0].name == "rule"  # attacks come first in the file
    scores = line_scores(comparison)
    worst = {
        line: max(group.mean for group in comparison.groups_of(line)) for line in comparison.lines
    }
    assert [score.line for score in scores] == sorted(worst, key=lambda line: worst[line])
    assert [score.worst.mean for score in scores] == [worst[score.line] for score in scores]
    assert scores[-1].line == "FedAvg"
    assert [score.incomplete for score in scores] == [""] * 3


def test_the_terminal_shows_errors_and_which_end_is_better(swept):
    console = Console(file=StringIO(), width=120)
    console.print(results_table(swept[1], 120))
    printed = console.file.getvalue()
    assert "rmse on the server's test set: lower is better" in printed
    assert "mean over 3 seeds ± standard deviation" in printed
    assert "not run" not in printed
    assert "filtered" not in printed  # no rule filters: no precision, no recall


def test_intervals_and_differences_are_those_of_scipy_under_the_same_condition(swept):
    out, comparison = swept
    values = {
        (row["rule"], row["attack"], row["seed"]): float(row["rmse"])
        for row in rows_of(out / "results.csv")
    }
    checked = 0
    for row in rows_of(out / "statistics.csv"):
        if row["metric"] != "rmse":
            continue
        own, base = (
            [values[rule, row["attack"], seed] for seed in "123"]
            for rule in (row["rule"], "FedAvg")
        )
        interval = stats.ttest_1samp(own, 0).confidence_interval(0.95)
        assert float(row["mean"]) == pytest.approx(sum(own) / 3)
        assert float(row["interval-low"]) == pytest.approx(max(0, interval.low))
        assert float(row["interval-high"]) == pytest.approx(interval.high)
        assert (row["n"], row["p"]) == ("3", "")
        if row["rule"] != "FedAvg":
            paired = stats.ttest_rel(own, base).confidence_interval(0.95)
            assert float(row["difference-low"]) == pytest.approx(paired.low)
            assert float(row["difference-high"]) == pytest.approx(paired.high)
            checked += 1
    assert checked == 6
    assert comparison.differences.conditions == {"trimmed-mean (f=2)": 3, "broken": 3}


def test_the_bright_end_of_the_heat_map_is_the_small_error(swept):
    cells = [cell for heat in metric_maps(swept[1]) for row in heat.cells for cell in row]
    best, worst = (pick(cells, key=lambda cell: cell.value) for pick in (min, max))
    assert (best.position, worst.position) == (1.0, 0.0)


def test_tables_for_a_paper_have_the_smallest_error_in_bold(swept):
    out, comparison = swept
    tex, text = ((out / name).read_text() for name in ("results.tex", "results.md"))
    assert tex.count(r"\toprule") == tex.count(r"\midrule") == tex.count(r"\bottomrule") == 1
    assert r"rule & none, f=2 & sign-flip, f=2 & alie, f=2 \\" in tex
    assert "(lower is better), mean over 3 seeds; $\\pm$ is the standard deviation" in tex
    for column in comparison.columns:
        best = min(
            (comparison.group_at(line, column) for line in comparison.lines),
            key=lambda group: group.mean,
        )
        mean, deviation = f"{best.mean:.3f}", f"{best.deviation:.3f}"
        assert rf"\textbf{{{mean} $\pm$ {deviation}}}" in tex
        assert f"**{mean} ± {deviation}**" in text
    names = {path.name for path in (out / "figures").iterdir()}
    assert {"curves-rmse.pdf", "curves-rmse.png", "final-rmse.pdf", "final-rmse.png"} <= names


@pytest.mark.parametrize(("method", "name"), [("t", "Student's t"), ("bootstrap", "percentile")])
def test_tables_have_the_interval_that_is_asked_for(swept, method, name):
    comparison = Comparison.load(swept[0], {"interval": method})
    table = paper_table(comparison)
    text = latex(table)
    assert f"[ ] is the 95 \\% interval of the mean ({name}" in text
    assert "cut at 0. Bold" in text
    assert r"\label{tab:" in text
    assert r"\pm" not in text
    group = comparison.group_at(comparison.lines[0], comparison.columns[0])
    low, high = group.interval
    assert f"{group.mean:.3f} [{low:.3f}, {high:.3f}]" in text
    assert f"{group.mean:.3f} [{low:.3f}, {high:.3f}]" in markdown(table)


def test_the_page_shows_the_error_the_intervals_and_the_file(swept):
    page = (swept[0] / "report.html").read_text()
    words = " ".join(page.split())
    assert "Final rmse" in words
    assert "lower is better" in words
    assert "too few seeds for a test (3 of 7)" in words
    assert "Too few conditions for a test." in words
    assert "seeds = [ 1, 2, 3, ]" in words  # the sweep's file, not one cell
    assert "Precision" not in words
    assert "accuracy" not in words


def test_every_metric_has_a_column_of_its_own(swept):
    (first, *_) = rows_of(swept[0] / "results.csv")
    assert list(first)[:7] == ["attack", "rule", "f", "seed", "status", "rmse", "loss"]
    assert float(first["loss"]) == pytest.approx(float(first["rmse"]) ** 2, rel=0.05)
    assert float(first["train-loss"]) > 0
    assert "accuracy" not in first


def test_settings_can_be_changed_when_a_report_is_drawn_again(swept, tmp_path):
    out, before = swept
    again = Comparison.load(out, {"metric": "loss", "interval": "bootstrap", "compare": "attack"})
    assert (again.metric, again.lines) == ("loss", ("none", "sign-flip", "alie"))
    group = again.group_at("none", ("FedAvg", "f=2"))
    assert group.interval != before.group_at("FedAvg", ("none", "f=2")).sample_of("loss").interval
    assert min(group.by_seed.values()) <= group.interval.low
    assert "percentile bootstrap" in render(again)
    with pytest.raises(UnknownNameError, match=r"unknown metric of the sweep 'rms'.*'rmse'"):
        write_report(Comparison.load(out, {"metric": "rms"}), tmp_path)


def test_manifests_name_the_metric_and_old_ones_without_it_are_read(swept):
    run = swept[1].rows[0].run
    manifest = json.loads((run.path / "manifest.json").read_text())
    assert manifest["objective"] == {"primary": "rmse", "higher-is-better": {"rmse": False}}
    old = type(run)(run.path, {**manifest, "objective": None}, run.rounds, run.clients)
    assert (old.objective.primary, old.primary) == ("loss", run.final["loss"])


SEVEN_SEEDS = REGRESSION.replace("rounds = 4", "rounds = 2").replace(
    "[1, 2, 3]", "[1, 2, 3, 4, 5, 6, 7]"
)
TWO_RULES = ['sweep.attack=["sign-flip"]', 'sweep.rule=["mean", "median"]']


def test_p_values_are_those_of_scipy_on_the_numbers_of_the_table(tmp_path):
    path, out = tmp_path / "seven.toml", tmp_path / "out"
    path.write_text(SEVEN_SEEDS)
    comparison = run_sweep(Sweep.load(path, TWO_RULES), out, report=False)
    values = {
        (row["rule"], row["seed"]): float(row["rmse"]) for row in rows_of(out / "results.csv")
    }
    pairs = [[values[rule, str(seed)] for seed in range(1, 8)] for rule in ("median", "mean")]
    expected = stats.permutation_test(
        pairs,
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
    )
    difference = comparison.differences.lines["median"]
    assert difference.p == pytest.approx(expected.pvalue)
    assert difference.mean == pytest.approx(expected.statistic)
    assert tuple(difference.sample.interval) == pytest.approx(
        tuple(stats.ttest_rel(*pairs).confidence_interval(0.95))
    )
    assert f"{expected.pvalue:.3f}</td>" in render(comparison)
