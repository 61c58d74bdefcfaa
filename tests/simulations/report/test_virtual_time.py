"""Virtual time, and the time to a target, in reports, tables and the progress line."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from hqde_fl.simulations.console.progress import describe
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.comparison import Comparison, ComparisonAxis
from hqde_fl.simulations.recording.run_directory import round_line
from hqde_fl.simulations.recording.seed_groups import ComparisonRow
from hqde_fl.simulations.report import write_report
from hqde_fl.simulations.sweep.tables import write_tables
from hqde_fl.strategies.callbacks import RoundRecord


def rounds(*times: float | None, metric: str = "accuracy") -> list[RoundRecord]:
    """Rounds whose metric is 0.1, 0.3, 0.5, ..."""
    values = [0.1 + 0.2 * number for number in range(len(times))]
    if metric == "loss":
        values = [1 - value for value in values]
    return [
        RoundRecord(number, server={metric: value}, virtual_time=time)
        for number, (time, value) in enumerate(zip(times, values, strict=True))
    ]


def with_target(experiment: Experiment, target: float, primary: str = "accuracy") -> Experiment:
    table = experiment.to_table()
    return Experiment.parse({**table, "metrics": {"target": target, "primary": primary}})


@pytest.mark.parametrize(
    ("target", "times", "reached"),
    [
        (0.3, (None, 2.5, 4.0), (1, 2.5)),
        (0.31, (None, 2.5, 4.0), (2, 4.0)),
        (0.05, (None, 2.5, 4.0), (0, 0.0)),
        (0.9, (None, 2.5, 4.0), (None, None)),
        (0.3, (None, None, None), (1, None)),
        (0.0, (None, 2.5, 4.0), (None, None)),
    ],
)
def test_a_target_is_reached_in_the_first_round_that_is_good_enough(
    tmp_path, tiny, record, target, times, reached
) -> None:
    run = record(tmp_path / "run", with_target(tiny, target), rounds(*times))
    assert run.virtual_time == times[-1]
    assert (run.target_line and run.target_line["round"], run.time_to_target) == reached


def test_a_target_of_a_metric_that_is_better_the_lower_it_is(tmp_path, tiny, record) -> None:
    lines = rounds(None, 1.0, 2.0, metric="loss")
    run = record(tmp_path / "run", with_target(tiny, 0.71, "loss"), lines)
    assert run.time_to_target == 1.0


def test_results_have_the_virtual_time_and_the_time_to_the_target(tmp_path, tiny, record) -> None:
    run = record(tmp_path / "run", with_target(tiny, 0.5), rounds(None, 2.5, 4.0))
    rows = (ComparisonRow(("a",), "run", run),)
    axes = (ComparisonAxis("rule", ("a",), ("a",)),)
    write_tables(comparison := Comparison("one", axes, rows), tmp_path)
    with (tmp_path / "results.csv").open(newline="") as lines:
        (row,) = csv.DictReader(lines)
    names = ("virtual-time", "rounds-to-target", "time-to-target")
    assert [row[name] for name in names] == ["4.0", "2", "4.0"]
    page = write_report(comparison, tmp_path).read_text()
    assert "<th>virtual seconds a run</th>" in page
    assert "<th>virtual seconds to the target</th>" in page


def page_of(tmp_path: Path, run) -> str:
    return write_report(Comparison.of(run), tmp_path).read_text()


def test_the_page_of_a_run_shows_the_curve_over_virtual_time(tmp_path, tiny, record) -> None:
    run = record(tmp_path / "run", with_target(tiny, 0.3), rounds(None, 90.0, 240.0))
    page = page_of(tmp_path, run)
    assert "Accuracy against virtual time" in page
    assert "virtual seconds</text>" in page.replace("\n", "")
    assert "<b>4.00 min</b><span>virtual time</span>" in page
    assert "<b>90.0 s</b>" in page
    assert "round 1" in page


def test_without_a_virtual_clock_nothing_is_shown(tmp_path, tiny, record) -> None:
    page = page_of(tmp_path, record(tmp_path / "run", tiny, rounds(None, None)))
    assert "virtual" not in page[: page.index("<h2>What ran</h2>")].split("</style>")[-1]


def test_the_progress_line_has_the_virtual_time() -> None:
    record = RoundRecord(round=1, server={"accuracy": 0.5}, seconds=0.21, virtual_time=12.345)
    assert describe(round_line(record), 3).endswith("virtual 12.3 s  0.2 s")
