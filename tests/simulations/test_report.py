import re

import pytest

from hqde_fl.errors import RunError
from simulations.comparison import Comparison, Row, Shown
from simulations.report import write_report
from simulations.report.figures import curves
from simulations.report.grid import grid
from strategies.callbacks import ClientRecord, RoundRecord

EXTERNAL = re.compile(r"""(src|href)\s*=\s*["'](https?:)?//|url\(\s*["']?http|@import""")


def test_the_report_of_one_run_needs_nothing_else(tmp_path, tiny, record):
    run = record(tmp_path / "run", tiny)
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
        Row(("mean", "no faults"), "a", runs[0]),
        Row(("mean", "3 <crash>"), "b", runs[1], "RunError: it <broke>"),
        Row(("median", "no faults"), "c", runs[2]),
        Row(("median", "3 <crash>"), "d", None),
    ]
    axes = (
        Shown("rule", ("mean", "median"), ("mean", "median")),
        Shown("faults", ("no faults", "3 <crash>"), ("no faults", "3 <crash>")),
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
    rows = (Row(("a",), "a", None, "DataError: gone"),)
    with pytest.raises(RunError, match="there is no run to report: DataError: gone"):
        write_report(Comparison("x", (Shown("seed", ("a",), ("a",)),), rows), tmp_path)


def test_the_grid_puts_faulty_clients_first_and_shows_influence(tmp_path, tiny, record):
    drawn = grid(record(tmp_path / "run", tiny), room=640)
    (faulty,) = tiny.faulty
    assert drawn.lines[0].label == str(faulty)
    assert drawn.lines[0].fault == "sign-flip"
    assert [line.fault for line in drawn.lines[1:]] == [None] * 3
    assert len(drawn.squares) == 8
    assert drawn.statuses == ("kept", "filtered")
    assert drawn.lines[0].share == pytest.approx(1 / 8)
    assert drawn.lines[1].share == pytest.approx(1 / 4)


def test_clients_of_unknown_partition_are_drawn_by_node(tmp_path, tiny, record):
    client = ClientRecord(1, 77, None, False, 0.0, "failed: <b>", 1, 0, None)
    run = record(tmp_path / "run", tiny, [RoundRecord(round=1, asked=1, clients=(client,))])
    assert grid(run, room=640).lines[0].label == "77"
    assert "failed: &lt;b&gt;" in write_report(Comparison.of(run), tmp_path).read_text()


def test_a_chart_is_the_same_every_time_and_its_text_is_text():
    series = {"a": [(0, 0.5), (1, None), (2, 0.7)]}
    first = curves(series, "x < y & z")
    assert first == curves(series, "x < y & z")
    assert ">round</text>" in first
    assert 'aria-label="x ( y and z"' in first
