import io

import pytest
from rich.console import Console

from hqde_fl.clients.objective import Objective
from hqde_fl.errors import RunError
from hqde_fl.simulations.recording.comparison import Comparison
from hqde_fl.simulations.report import render
from hqde_fl.simulations.sweep import Sweep, interim_report, run_sweep
from hqde_fl.simulations.sweep.interim_report import InterimReport
from hqde_fl.simulations.sweep.progress import SweepProgress
from hqde_fl.simulations.sweep.ranking import RankingSoFar

from .conftest import ROBUST


def shown(watch):
    """Return what a watch shows on a terminal, as lines."""
    console = Console(file=io.StringIO(), width=120)
    console.print(watch.view())
    return [line.rstrip() for line in console.file.getvalue().splitlines() if line.strip()]


def test_a_terminal_shows_what_runs_and_the_ranking_so_far(file):
    sweep = Sweep.load(file(ROBUST))
    watch = SweepProgress(Console(file=io.StringIO(), width=120), sweep)
    first, second, third = (sweep.cells[place] for place in (0, 8, 9))
    watch.planned(sweep.distinct, 0)
    watch.began(first)
    watch.on_round(first, {"round": 1, "server": {"accuracy": 0.5}})
    lines = shown(watch)
    assert lines[0].split()[:2] == ["running", "mean,"]
    assert lines[0].endswith("round 1/2  accuracy 0.500")
    assert not any("so far" in line for line in lines)
    for cell, value in ((first, 0.6), (second, 0.9), (third, 0.7)):
        watch.began(cell)
        watch.measured(cell, {"accuracy": value, "loss": 1.0}, Objective())
        watch.ended(cell, None)
    lines = shown(watch)
    assert lines[0] == "accuracy so far"
    assert lines[1].split() == ["rule", "worst", "mean", "cells"]
    assert lines[2].split()[-3:] == ["0.700", "0.800", "2/6"]
    assert lines[2].split()[0] == "trimmed-mean"
    assert lines[3].split() == ["mean", "0.600", "0.600", "1/6"]
    assert "left" in lines[-1]


@pytest.mark.parametrize(
    ("objective", "best"), [(Objective("rmse"), "mean"), (Objective("r2"), "trimmed-mean (f=$f)")]
)
def test_the_ranking_has_the_direction_of_the_metric(file, objective, best):
    ranking = RankingSoFar(Sweep.load(file(ROBUST)))
    cells = Sweep.load(file(ROBUST)).cells
    for cell, value in ((cells[0], 1.0), (cells[1], 2.0), (cells[8], 3.0)):
        ranking.add(cell.key, {objective.primary: value}, objective)
    lines = ranking.lines
    assert lines[0].label.startswith(best.partition(" ")[0])
    assert {line.label[:4]: line.worst for line in lines}["mean"] == (
        2.0 if objective.primary == "rmse" else 1.0
    )


def test_a_live_view_leaves_only_the_lines_of_the_cells(file, recorded, tmp_path):
    sweep, text = Sweep.load(file(ROBUST)), io.StringIO()
    console = Console(file=text, width=120, force_terminal=True, color_system=None)
    with SweepProgress(console, sweep) as watch:
        run_sweep(sweep, tmp_path / "out", watch=watch, report=False)
    assert "[12/12]" in text.getvalue()
    assert "accuracy so far" in text.getvalue()
    assert not watch._live.is_started


def test_cells_finished_before_are_in_the_ranking(file, recorded, tmp_path):
    sweep = Sweep.load(file(ROBUST))
    run_sweep(sweep, tmp_path / "out", report=False)
    watch = SweepProgress(Console(file=io.StringIO(), width=120), sweep)
    run_sweep(sweep, tmp_path / "out", resume=True, watch=watch, report=False)
    assert any(line.split()[-1] == "6/6" for line in shown(watch))


def test_the_report_of_an_unfinished_sweep_says_how_far_it_is(
    file, recorded, tmp_path, monkeypatch
):
    monkeypatch.setattr(interim_report, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(interim_report, "PAUSE_RATIO", 0.0)
    pages = []
    monkeypatch.setattr(
        InterimReport, "refresh", lambda self: (self.draw(), pages.append(self._out))
    )
    recorded[3], recorded[5] = RunError("gone"), KeyboardInterrupt()
    sweep, out = Sweep.load(file(ROBUST)), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run_sweep(sweep, out)
    assert len(pages) == 4
    page = (out / "report.html").read_text()
    assert "6 of\n16 cells so far." in page
    assert "1 of 16 cells failed. gone" in " ".join(page.split())
    assert not (out / "figures").exists()
    assert render(Comparison.load(out)).count("cells so far") == 1


def test_a_report_that_cannot_be_drawn_is_one_warning(tmp_path, caplog):
    def broken():
        raise OSError(28, "No space left on device")

    interim = InterimReport(tmp_path, broken)
    interim.refresh()  # too early
    assert not caplog.records
    interim.draw()
    interim.refresh()
    (entry,) = caplog.records
    assert "report.html is not drawn before the end: OSError: [Errno 28] No" in entry.getMessage()


def test_a_page_is_drawn_at_most_every_few_seconds(tmp_path, monkeypatch, comparison_of_one):
    times = iter([0.0, 9.9, 10.0, 10.0, 10.5, 20.4, 20.5, 20.5, 22.5])
    monkeypatch.setattr(interim_report.time, "monotonic", lambda: next(times))
    drawn = []
    interim = InterimReport(tmp_path, lambda: drawn.append(1) or comparison_of_one)
    for count in (0, 1, 1, 2):
        interim.refresh()
        assert len(drawn) == count
    assert interim._next == 22.5 + 40.0  # the second drawing took two seconds


@pytest.fixture
def comparison_of_one():
    """Return a comparison without any run."""
    return Comparison("nothing", (), ())
