import re

import pytest

from hqde_fl.errors import RunError
from hqde_fl.simulations.recording.comparison import Comparison, ComparisonAxis
from hqde_fl.simulations.recording.seed_groups import ComparisonRow
from hqde_fl.simulations.report import write_report
from hqde_fl.strategies.callbacks import ClientRecord, RoundRecord

EXTERNAL = re.compile(r"""(src|href)\s*=\s*["'](https?:)?//|url\(\s*["']?http|@import""")


def test_the_page_of_a_run_loads_nothing_from_elsewhere(tmp_path, filtering, record):
    run = record(tmp_path / "run", filtering)
    page = write_report(Comparison.of(run), tmp_path / "run").read_text()
    assert not EXTERNAL.search(page)
    for text in ("tiny", "0.700", "sign-flip", "recall: 1 of 2 faulty", "prefers-color-scheme"):
        assert text in page
    assert page.count('<svg class="chart"') == 5
    assert 'class="filtered"' in page
    assert "#0000" not in page  # every colour follows the page into dark mode


def test_the_page_of_a_sweep_shows_all_cells_and_escapes_their_text(tmp_path, tiny, record):
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


def test_a_sweep_over_seeds_alone_has_one_line(tmp_path, swept):
    page = write_report(swept("seeds = [1, 2]"), tmp_path).read_text()
    assert page.count("<tr><th>robust</th>") == 2  # its accuracy and what it cost
    assert "Mean over 2 seeds" in page


@pytest.mark.slow
def test_the_page_of_a_large_sweep_has_heat_maps_and_strip_charts(tmp_path, robust):
    page = write_report(robust, tmp_path).read_text()
    assert any((tmp_path / "figures").iterdir())
    assert not EXTERNAL.search(page)
    assert "#0000" not in page
    assert page.count('<table class="heat">') == 6
    assert page.count('<svg class="strips"') == 2
    assert page.count('<svg class="grid"') == 3
    assert page.count('<svg class="chart"') == 8  # accuracy and loss under four conditions
    assert "&lt;trim&gt;" in page
    assert "<trim>" not in page


def test_a_run_without_a_round_still_has_a_report(tmp_path, tiny, record):
    run = record(tmp_path / "run", tiny, [])
    assert "No round was completed" in write_report(Comparison.of(run), tmp_path).read_text()


def test_the_page_shows_runs_with_missing_or_infinite_metrics(tmp_path, tiny, record):
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


def test_a_report_without_any_run_is_an_error(tmp_path):
    rows = (ComparisonRow(("a",), "a", None, "DataError: gone"),)
    with pytest.raises(RunError, match="there is no run to report: DataError: gone"):
        write_report(Comparison("x", (ComparisonAxis("seed", ("a",), ("a",)),), rows), tmp_path)


def test_clients_of_unknown_partition_are_drawn_by_node(tmp_path, tiny, record):
    client = ClientRecord(1, 77, None, False, 0.0, "failed: <b>", 1, 0, None)
    run = record(tmp_path / "run", tiny, [RoundRecord(round=1, asked=1, clients=(client,))])
    assert "failed: &lt;b&gt;" in write_report(Comparison.of(run), tmp_path).read_text()
