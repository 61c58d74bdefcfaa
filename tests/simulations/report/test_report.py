import re
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from hqde_fl.errors import ConfigError, RunError
from hqde_fl.simulations.console.results_table import results_table
from hqde_fl.simulations.recording.comparison import Comparison, ComparisonAxis
from hqde_fl.simulations.recording.detection import Count, Detection
from hqde_fl.simulations.recording.seed_groups import ComparisonRow
from hqde_fl.simulations.report import write_report
from hqde_fl.simulations.report.charts import line_chart
from hqde_fl.simulations.report.conditions import conditions
from hqde_fl.simulations.report.heat_colours import cell_colours, scale_colours
from hqde_fl.simulations.report.heat_maps import accuracy_maps, detection_maps
from hqde_fl.simulations.report.outcome_grid import outcome_grid
from hqde_fl.simulations.report.scores import filtering_lines, line_scores
from hqde_fl.simulations.report.strip_charts import strip_charts
from hqde_fl.simulations.sweep import Sweep
from hqde_fl.strategies.callbacks import ClientRecord, RoundRecord

EXTERNAL = re.compile(r"""(src|href)\s*=\s*["'](https?:)?//|url\(\s*["']?http|@import""")


def test_the_report_of_one_run_needs_nothing_else(tmp_path, filtering, record):
    run = record(tmp_path / "run", filtering)
    page = write_report(Comparison.of(run), tmp_path / "run").read_text()
    assert not EXTERNAL.search(page)
    for text in ("tiny", "0.700", "sign-flip", "recall: 1 of 2 faulty", "prefers-color-scheme"):
        assert text in page
    assert page.count('<svg class="chart"') == 5
    assert 'class="filtered"' in page
    assert "#0000" not in page  # every colour follows the page into dark mode


def test_the_report_of_a_sweep_compares(tmp_path, tiny, record):
    runs = [record(tmp_path / name, tiny) for name in ("a", "b", "c")]
    rows = [
        ComparisonRow(("mean", "no faults"), "a", runs[0]),
        ComparisonRow(("mean", "3 <crash>"), "b", runs[1], "RunError: it <broke>"),
        ComparisonRow(("median", "no faults"), "c", runs[2]),
        ComparisonRow(("median", "3 <crash>"), "d", None),
    ]
    axes = (
        ComparisonAxis("rule", ("mean", "median"), ("mean", "median")),
        ComparisonAxis("faults", ("no faults", "3 <crash>"), ("no faults", "3 <crash>")),
    )
    comparison = Comparison("many", axes, tuple(rows))
    page = write_report(comparison, tmp_path).read_text()
    assert not EXTERNAL.search(page)
    assert page.count('<svg class="grid"') == 3
    assert "it &lt;broke&gt;" in page
    assert "<crash>" not in page
    assert "not run" in page
    comparison.save(tmp_path)
    again = Comparison.load(tmp_path)
    assert [row.labels for row in again.rows] == [row.labels for row in rows]
    assert again.rows[1].error == "RunError: it <broke>"
    assert again.rows[3].run is None


@pytest.mark.parametrize(
    ("conditions", "width", "heads"),
    [
        (2, 120, ["[rule] accuracy", "[bold]1"]),
        (2, 80, ["[rule] faults accuracy"]),
        (5, 120, ["[rule] worst under"]),
        (5, 64, ["[rule] worst under"]),
    ],
    ids=["side by side", "too narrow", "only the worst", "only the worst, narrow"],
)
def test_a_table_in_the_terminal(tmp_path, tiny, record, conditions, width, heads):
    """Numbers are never cut off, and brackets in a label are no markup."""
    run, rule = record(tmp_path / "run", tiny), "filter (detectors=[mad, twins])"
    faults = tuple(f"[bold]{number}" for number in range(conditions))
    rows = tuple(ComparisonRow((rule, each), "run", run) for each in faults)
    axes = (ComparisonAxis("[rule]", (rule,), (rule,)), ComparisonAxis("faults", faults, faults))
    console = Console(file=StringIO(), width=width)
    console.print(results_table(Comparison("many", axes, rows), width))
    printed = console.file.getvalue()
    words = " ".join(printed.split())
    assert "\N{HORIZONTAL ELLIPSIS}" not in printed
    assert "0.700" in printed
    assert all(
        part in words for part in ("filter", "(detectors=[mad,", "twins])", "[bold]0", *heads)
    )


ROBUST = """
rounds = 2
clients.count = 4
engine.name = "inline"
[sweep]
rule = ["sign-guard", "byzantine-filter", { label = "<trim>", name = "trimmed-mean", f = "$f" }]
attack = ["sign-flip", "label-flip", "zero"]
f = [0, 1]
seeds = [1, 2]
"""


@pytest.fixture
def swept(tmp_path, record):
    """The function that makes a sweep from the text of a file.

    Its records say that the faulty were caught in the first of two rounds.
    """

    def swept(text):
        path = tmp_path / "robust.toml"
        path.write_text(text)
        sweep = Sweep.load(path)
        for cell in sweep.distinct:
            record(tmp_path / cell.directory, cell.experiment)
        cells = [(cell.labels, cell.directory, None) for cell in sweep.cells]
        return Comparison.read(tmp_path, sweep.name, sweep.axes, cells)

    return swept


@pytest.fixture
def robust(swept):
    return swept(ROBUST)


SETUP = ROBUST.partition("[sweep]")[0]


def test_a_sweep_over_seeds_alone_is_one_line(tmp_path, swept):
    page = write_report(swept(SETUP + "[sweep]\nseeds = [1, 2]\n"), tmp_path).read_text()
    assert page.count("<tr><th>robust</th>") == 2  # its accuracy and what it cost
    assert "mean over 2 seeds" in page


def labelled(*labels):
    partitions = ", ".join(f'{{ label = "{label}", name = "iid" }}' for label in labels)
    return f"""{SETUP}
    [sweep]
    rule = ["mean", {{ label = '$\\bad$', name = "median" }}]
    attack = ["none", {{ name = "zero", count = 1 }}]
    partition = [{partitions}]
    """


@pytest.mark.filterwarnings("error:Glyph")
def test_whatever_labels_say_they_can_be_drawn(tmp_path, swept):
    write_report(swept(labelled("1/2 split", "\u65e5\u672c\u8a9e $")), tmp_path)
    assert sorted(path.stem for path in (tmp_path / "figures").glob("*.pdf")) == [
        "accuracy",
        "rule-by-attack-1-2-split",
        "rule-by-attack-\u65e5\u672c\u8a9e",
        "rule-by-partition-worst-over-the-rest",
    ]


def test_every_figure_is_a_file_of_its_own(swept):
    comparison = swept(labelled("a, b", "a b", "A B", "a b 2", "long " * 80))
    first, *others, _ = (heat.file_name for heat in accuracy_maps(comparison))
    assert first == "rule-by-attack-a-b"
    assert others[:3] == [f"{first}-2", "rule-by-attack-A-B-3", f"{first}-2-2"]
    assert len(others[3]) <= 60


def test_conditions_that_are_all_the_same_are_called_by_their_own_axis(swept):
    comparison = swept(
        SETUP + "[sweep]\nrule = ['mean', 'median']\nattack = ['none', 'zero']\nf = [0]\n"
        "partition = [{ label = 'a', name = 'iid' }, { label = 'b', name = 'iid' }]\n"
    )
    columns = {heat.title: heat.columns for heat in accuracy_maps(comparison)}
    assert columns["rule by partition, worst over the rest"] == ("any partition",)
    assert columns["rule by attack, f=0, a"] == ("any attack",)


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


def test_many_conditions_make_heat_maps_and_a_ranking(tmp_path, robust):
    assert [(m.title, len(m.lines), m.columns) for m in accuracy_maps(robust)] == [
        ("rule by attack, f=0", 3, ("any attack",)),
        ("rule by attack, f=1", 3, ("sign-flip", "label-flip", "zero")),
        ("rule by f, worst over the rest", 3, ("f=0", "f=1")),
    ]
    (cell, *_) = accuracy_maps(robust)[1].cells[0]
    assert cell.value == pytest.approx(0.7)
    assert cell.spread == 0
    assert filtering_lines(robust) == ["sign-guard", "byzantine-filter"]
    scores = line_scores(robust)
    score = scores[0]
    assert (score.worst.accuracy, score.missing) == (pytest.approx(0.7), 0)
    assert score.detection == Detection(Count(12, 36), Count(12, 36), Count(6, 0))
    trimmed = next(score for score in scores if score.line == "<trim>")
    assert trimmed.detection == Detection(Count(12, 36))
    assert trimmed.detection.recall is None
    f1, precision, recall = detection_maps(robust)
    assert [heat.cells[0][0].value for heat in (f1, precision, recall)] == [
        pytest.approx(2 / 3),
        1.0,
        0.5,
    ]
    assert [c.title for c in conditions(robust)] == [
        "f=0",
        "sign-flip, f=1",
        "label-flip, f=1",
        "zero, f=1",
    ]
    (chart, *_) = strip_charts(robust, filtering_lines(robust))
    assert chart.strips[0].rounds == ((1, 1.0, 0.0), (2, 0.0, 0.0))
    page = write_report(robust, tmp_path).read_text()
    assert not EXTERNAL.search(page)
    assert "#0000" not in page
    assert page.count('<table class="heat">') == 6
    assert page.count('<svg class="strips"') == 2
    assert page.count('<svg class="grid"') == 3
    assert page.count('<svg class="chart"') == 8  # accuracy and loss under four conditions
    assert "&lt;trim&gt;" in page
    assert "<trim>" not in page
    figures = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert figures == [
        f"{name}.{kind}"
        for name in ("accuracy", "rule-by-attack-f=0", "rule-by-attack-f=1", WORST)
        for kind in ("pdf", "png")
    ]
    assert (tmp_path / "figures" / f"{WORST}.pdf").read_bytes().startswith(b"%PDF")
    before = {path: path.read_bytes() for path in (tmp_path / "figures").iterdir()}
    write_report(robust, tmp_path)
    assert {path: path.read_bytes() for path in (tmp_path / "figures").iterdir()} == before


WORST = "rule-by-f-worst-over-the-rest"


def test_a_group_is_worth_the_mean_of_its_seeds_and_needs_all_of_them(robust):
    group = robust.group_at("sign-guard", ("zero", "f=1"))
    assert [row.labels[3] for row in group.rows] == ["seed=1", "seed=2"]
    assert group.accuracy == pytest.approx(0.7)
    broken = replace(group, rows=(group.rows[0], replace(group.rows[1], error="gone")))
    assert broken.accuracy is None
    assert broken.status == "failed"
    assert broken.accuracies == (pytest.approx(0.7),)


def test_the_colours_of_heat_maps_keep_to_one_scale_colours():
    assert cell_colours(-1.0) == cell_colours(0.0)
    assert cell_colours(0.0)[1] == "#ffffff"
    assert cell_colours(1.0)[1] == "#111418"
    assert len(set(scale_colours())) == 11


def test_a_run_without_a_round_still_has_a_report(tmp_path, tiny, record):
    run = record(tmp_path / "run", tiny, [])
    assert "No round was completed" in write_report(Comparison.of(run), tmp_path).read_text()


def test_metrics_that_are_missing_or_not_finite_do_not_stop_it(tmp_path, tiny, record):
    run = record(
        tmp_path / "run",
        tiny,
        [
            RoundRecord(round=0),
            RoundRecord(round=1, server={"loss": float("nan")}, note="it kept the model"),
            RoundRecord(round=2, server={"loss": 1e30, "auc": 0.5}),
        ],
    )
    page = write_report(Comparison.of(run), tmp_path).read_text()
    assert "Round 1 kept the model: it kept the model" in page
    assert "Auc on the test set" in page


def test_nothing_to_report_is_an_error(tmp_path):
    rows = (ComparisonRow(("a",), "a", None, "DataError: gone"),)
    with pytest.raises(RunError, match="there is no run to report: DataError: gone"):
        write_report(Comparison("x", (ComparisonAxis("seed", ("a",), ("a",)),), rows), tmp_path)


def test_the_grid_puts_faulty_clients_first_and_shows_influence(tmp_path, filtering, record):
    drawn = outcome_grid(record(tmp_path / "run", filtering), room=640)
    (faulty,) = filtering.faulty
    assert drawn.lines[0].label == str(faulty)
    assert drawn.lines[0].fault == "sign-flip"
    assert [line.fault for line in drawn.lines[1:]] == [None] * 3
    assert len(drawn.cells) == 8
    assert drawn.outcomes == ("kept", "filtered")
    assert drawn.lines[0].influence == pytest.approx(1 / 8)
    assert drawn.lines[1].influence == pytest.approx(1 / 4)


def test_clients_of_unknown_partition_are_drawn_by_node(tmp_path, tiny, record):
    client = ClientRecord(1, 77, None, False, 0.0, "failed: <b>", 1, 0, None)
    run = record(tmp_path / "run", tiny, [RoundRecord(round=1, asked=1, clients=(client,))])
    assert outcome_grid(run, room=640).lines[0].label == "77"
    assert "failed: &lt;b&gt;" in write_report(Comparison.of(run), tmp_path).read_text()


def test_a_chart_is_the_same_every_time_and_its_text_is_text():
    series = {"a": [(0, 0.5), (1, None), (2, 0.7)]}
    first = line_chart(series, "x < y & z")
    assert first == line_chart(series, "x < y & z")
    assert ">round</text>" in first
    assert 'aria-label="x ( y and z"' in first
