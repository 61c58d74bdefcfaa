import io

import pytest
from rich.console import Console

from hqde_fl.errors import ConfigError, RunError
from hqde_fl.simulations.console.durations import duration_text
from hqde_fl.simulations.recording.manifest import add_to_manifest
from hqde_fl.simulations.sweep import Sweep, command, estimate, run_sweep
from hqde_fl.simulations.sweep.progress import SweepProgress

from .conftest import ROBUST


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (5339, "89 min"), (7500, "2 h 5 min")],
)
def test_durations_as_text(seconds, text):
    assert duration_text(seconds) == text


def test_a_sweep_shows_its_progress_and_the_time_left(file, recorded, tmp_path):
    sweep, text = Sweep.load(file(ROBUST)), io.StringIO()
    recorded[3] = RunError("gone")
    with SweepProgress(Console(file=text, width=200), sweep) as watch:
        run_sweep(sweep, tmp_path / "out", watch=watch, report=False)
    lines = text.getvalue().splitlines()
    assert len(lines) == 12
    assert lines[0].startswith("[ 1/12] mean, sign-flip, f=0, seed=1: accuracy 0.700, 0.")
    assert lines[0].endswith(" s left")
    assert "f=1, seed=1: failed: gone" in lines[2]
    assert lines[11].startswith("[12/12]")


def test_the_time_is_estimated_from_finished_cells(file, recorded, tmp_path):
    sweep, out = Sweep.load(file(ROBUST)), tmp_path / "out"
    run_sweep(sweep, out, report=False)
    for cell in sweep.distinct[:2]:
        add_to_manifest(out / cell.directory, {"wall-seconds": 4.0})
    missing = sweep.distinct[2:]
    estimated = estimate.from_finished(sweep.distinct[:2], missing, out)
    assert estimated.seconds == pytest.approx(4.0 * len(missing))
    assert estimated.source == "from 2 finished cells"
    assert estimate.from_finished([], missing, out) is None


def test_a_plan_estimates_from_an_earlier_sweep(file, recorded, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweep, text = Sweep.load(file(ROBUST)), io.StringIO()
    command.show_plan(sweep, Console(file=text, width=200), None)
    assert text.getvalue().endswith(
        f"no cell has finished in runs/{sweep.name}-TIME (--probe times a few rounds)\n"
    )
    out = tmp_path / "runs" / f"{sweep.name}-20260101-000000"
    run_sweep(sweep, out, report=False)
    for cell in sweep.distinct:
        add_to_manifest(out / cell.directory, {"wall-seconds": 30.0})
    for given in (None, out):
        text = io.StringIO()
        command.show_plan(sweep, Console(file=text, width=200), given)
        last = text.getvalue().splitlines()[-1]
        assert last.startswith("16 cells, 12 of them different, 12 to run; about 6 min with")
        assert last.endswith(f"(from 12 finished cells in {given or out.relative_to(tmp_path)})")


def test_the_newest_sweep_of_a_name_is_resumed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="no sweep to resume in runs/study-"):
        command.newest_directory("study")
    for name in ("study-20260101-000000", "study-20260102-000000", "study-two-20260104-000000"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "sweep.json").touch()
    (tmp_path / "runs" / "study-20260103-000000").mkdir()
    assert command.newest_directory("study").name == "study-20260102-000000"
