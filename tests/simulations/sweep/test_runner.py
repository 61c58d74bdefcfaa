import csv
import json
import os
import signal
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from hqde_fl.errors import ConfigError, HQDEError
from hqde_fl.simulations.experiment.experiment import APP_ROOT
from hqde_fl.simulations.recording.comparison import Comparison
from hqde_fl.simulations.recording.directory_lock import directory_lock
from hqde_fl.simulations.recording.manifest import add_to_manifest
from hqde_fl.simulations.sweep import Sweep, Watch, run_sweep, runner

from .conftest import ROBUST

WAIT = 120


class Noted(Watch):
    """Watch that keeps what it receives."""

    def __init__(self):
        self.events = []

    def planned(self, cells, finished):
        self.events.append((len(cells), finished))

    def began(self, cell):
        self.events.append(cell.key)

    def ended(self, cell, error):
        self.events.append(error)


def rows_of(out):
    with (out / "results.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.slow
@pytest.mark.usefixtures("with_reports")
def test_a_sweep_leaves_tidy_tables_and_a_cell_that_fails_is_a_row(file, recorded, tmp_path):
    sweep = Sweep.load(file(ROBUST.replace('"mean"', '"sign-guard"')))
    recorded[2] = ValueError("boom\nand more")
    watch = Noted()
    comparison = run_sweep(sweep, tmp_path / "out", watch=watch)
    assert watch.events[:5] == [
        (12, 0),
        sweep.cells[0].key,
        None,
        sweep.cells[1].key,
        "ValueError: boom",
    ]
    assert len(recorded["calls"]) == 12
    rows = rows_of(tmp_path / "out")
    assert len(rows) == 16
    assert [row["status"] for row in rows].count("failed") == 2
    assert rows[1]["error"] == rows[5]["error"] == "ValueError: boom"
    assert rows[1]["accuracy"] == ""
    assert (rows[2]["rule"], rows[2]["attack"], rows[2]["f"]) == ("sign-guard", "sign-flip", "1")
    assert (rows[2]["seed"], rows[3]["seed"]) == ("1", "2")
    assert rows[2]["recall"] == "0.5"
    assert float(rows[2]["f1"]) == pytest.approx(2 / 3)
    assert (rows[2]["judged-faulty"], rows[2]["judged-honest"]) == ("2", "6")
    trimmed = rows[10]
    assert (trimmed["rule"], trimmed["f"], trimmed["faulty"]) == ("trimmed-mean", "1", "2")
    assert [trimmed[name] for name in ("judged-faulty", "precision", "recall", "f1")] == [
        "0",
        "",
        "",
        "",
    ]
    assert rows[0]["cell"] == rows[4]["cell"]
    table = pq.read_table(tmp_path / "out" / "results.parquet")
    assert table.num_rows == 16
    assert table.column("f").to_pylist()[2:4] == [1, 1]
    assert table.column("accuracy").to_pylist()[1] is None
    assert table.column_names == list(rows[0])
    assert not any("seconds" in name for name in rows[0])
    assert "wall" not in (tmp_path / "out" / "results.csv").read_text()
    assert (tmp_path / "out" / "report.html").exists()
    again = Comparison.load(tmp_path / "out")
    assert again.groups[1].labels == ("sign-guard", "sign-flip", "f=1")
    assert again.groups[1].mean == pytest.approx(0.7)
    assert again.groups[0].error == "ValueError: boom"
    assert again.groups[0].status == "failed"
    assert comparison.columns == again.columns


def test_finished_cells_are_kept_and_all_others_run_again(file, recorded, tmp_path):
    sweep, out = Sweep.load(file()), tmp_path / "out"
    recorded[3] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run_sweep(sweep, out, report=False)
    assert [row.status for row in Comparison.load(out).rows] == ["finished"] * 2 + ["not run"] * 6
    with pytest.raises(ConfigError, match="holds a sweep: go on with --resume"):
        run_sweep(sweep, out)
    rounds = out / sweep.cells[1].directory / "rounds.jsonl"  # cut short, as by a kill
    rounds.write_text("".join(rounds.read_text().splitlines(keepends=True)[:-1]))
    watch = Noted()
    comparison = run_sweep(sweep, out, resume=True, watch=watch, report=False)
    assert watch.events[0] == (7, 1)
    assert recorded["calls"].count(sweep.cells[0].key) == 1
    assert recorded["calls"].count(sweep.cells[1].key) == 2
    assert {row.status for row in comparison.rows} == {"finished"}
    with pytest.raises(ConfigError, match="holds no sweep to resume"):
        run_sweep(sweep, tmp_path / "nothing", resume=True)


def test_a_cell_whose_process_was_killed_is_interrupted(file, recorded, tmp_path):
    sweep, out = Sweep.load(file()), tmp_path / "out"
    run_sweep(sweep, out, report=False)
    for cell in sweep.cells[:2]:
        add_to_manifest(out / cell.directory, {"status": "running"})  # as when it is killed
    recorded[len(recorded["calls"]) + 1] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run_sweep(sweep, out, resume=True, report=False)
    expected = ["not run", "interrupted"] + ["finished"] * 6
    assert [row["status"] for row in rows_of(out)] == expected
    assert [row.status for row in Comparison.load(out).rows] == expected


def test_an_axis_keeps_its_values_beside_results_of_the_same_name(file, recorded, tmp_path):
    text = "task = { name = 'digits', hidden = 8 }\n[sweep]\nrounds = [2, 3]\n"
    recorded[2] = ValueError("boom")
    run_sweep(Sweep.load(file(text)), tmp_path / "out", report=False)
    rows = [(row["rounds"], row["status"]) for row in rows_of(tmp_path / "out")]
    assert rows == [("2", "finished"), ("3", "failed")]


def test_a_directory_has_one_sweep_at_a_time(file, recorded, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "LOCK_SECONDS", 0.0)
    sweep, out = Sweep.load(file()), tmp_path / "out"
    run_sweep(sweep, out, report=False)
    with (
        directory_lock(out, HQDEError()),
        pytest.raises(ConfigError, match=r"another sweep is running in .*out"),
    ):
        run_sweep(sweep, out, resume=True)
    assert run_sweep(sweep, out, resume=True, report=False).rows


@pytest.mark.parametrize(
    ("override", "jobs", "message"),
    [
        ("rounds=1", 0, "--jobs must be >= 1, found 0"),
        ("engine.name=ray", 2, "--jobs 2 needs engine inline, found ray"),
    ],
)
def test_impossible_numbers_of_jobs(file, tmp_path, override, jobs, message):
    with pytest.raises(ConfigError, match=message):
        run_sweep(Sweep.load(file(), [override]), tmp_path / "out", jobs=jobs)
    assert not (tmp_path / "out").exists()


def test_missing_data_stops_a_sweep_before_it_starts(file, tmp_path):
    sweep = Sweep.load(file('[task]\nname="fashion-mnist"\ndata-dir="/no"\n[sweep]\nseed=[1]\n'))
    with pytest.raises(ConfigError, match="is not a directory"):
        run_sweep(sweep, tmp_path / "out")
    assert not (tmp_path / "out").exists()


KILLS = """
rounds = 8
[task]
name = "held:task"
[clients]
count = 4
[engine]
name = "inline"
[sweep]
rule = ["mean", "median"]
attack = ["sign-flip", "ipm"]
f = [0, 1]
seeds = [1, 2]
"""
HELD = """
import os, signal
from hqde_fl.simulations.tasks.digits import Digits
from hqde_fl.simulations.tasks.partition import PARTITIONERS

def task(partitions, seed, partition):
    if name := os.environ.get("HELD"):  # one of the last cells waits to be killed
        with open(name, "a") as file:
            file.write("x")
            if file.tell() == 12:
                signal.pause()
    return Digits(hidden=8).build(PARTITIONERS.build("iid"), seed)
"""


@pytest.mark.slow
def test_killed_at_any_moment_and_resumed_the_results_are_the_same(file, tmp_path, monkeypatch):
    (tmp_path / "held.py").write_text(HELD)
    monkeypatch.syspath_prepend(tmp_path)
    path = file(KILLS)
    undisturbed = run_sweep(Sweep.load(path), tmp_path / "whole", report=False)
    assert {row.status for row in undisturbed.rows} == {"finished"}
    out = tmp_path / "killed"
    command = [
        sys.executable,
        "-m",
        "hqde_fl.simulations.console.entry",
        "sweep",
        str(path),
        "--out",
        str(out),
    ]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(APP_ROOT), str(tmp_path)]),
        "OMP_NUM_THREADS": "1",
        "HELD": str(tmp_path / "cells-begun"),
    }
    process = subprocess.Popen(
        [*command, "--jobs", "2"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("[ 2/12]"):
                break
        process.send_signal(signal.SIGKILL)
        process.wait(WAIT)
    finally:
        process.kill()
        process.wait(WAIT)
    done = [row for row in Comparison.load(out).rows if row.status == "finished"]
    assert 2 <= len(done) < 16
    with directory_lock(out, HQDEError(), WAIT):  # its workers have ended too
        left = {path.name: path.stat().st_mtime_ns for path in (out / "cells").glob("*/*")}
    comparison = run_sweep(Sweep.load(path), out, jobs=2, resume=True, report=False)
    assert {row.status for row in comparison.rows} == {"finished"}
    assert left
    for name in ("results.csv", "results.parquet"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert (out / "timings.csv").read_bytes() != (tmp_path / "whole" / "timings.csv").read_bytes()


@pytest.mark.slow
def test_a_cell_whose_process_dies_is_a_row_and_the_others_go_on(file, tmp_path, monkeypatch):
    (tmp_path / "dies.py").write_text(
        "import os\n"
        "from hqde_fl.simulations.tasks.digits import Digits\n"
        "from hqde_fl.simulations.tasks.partition import PARTITIONERS\n"
        "PARENT = int(os.environ['SWEEP_PROCESS'])\n"
        "def task(partitions, seed, partition):\n"
        "    if seed == 2 and os.getpid() != PARENT:\n"
        "        os._exit(7)\n"
        "    print('not news')\n"
        "    return Digits(hidden=8).build(PARTITIONERS.build('iid'), seed)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SWEEP_PROCESS", str(os.getpid()))
    text = '[task]\nname = "dies:task"\n[clients]\ncount = 2\n[sweep]\nseeds = [1, 2, 3, 4]\n'
    sweep = Sweep.load(file(text), ["engine.name=inline", "rounds=1"])
    comparison = run_sweep(sweep, tmp_path / "out", jobs=2, report=False)
    assert [row.status for row in comparison.rows] == ["finished", "failed", "finished", "finished"]
    assert comparison.rows[1].error == "RunError: its process ended with exit status 7"
    assert rows_of(tmp_path / "out")[1]["accuracy"] == ""


UNGUARDED = """
import sys
from pathlib import Path
from hqde_fl.simulations.sweep import Sweep, run_sweep
sweep = Sweep.load(sys.argv[1], ["engine.name=inline", "rounds=1"])
rows = run_sweep(sweep, Path(sys.argv[2]), jobs=2, report=False).rows
print([row.status for row in rows])
"""


@pytest.mark.slow
def test_a_script_without_a_main_guard_runs_a_sweep_in_processes(file, tmp_path):
    path = file("task = { name = 'digits', hidden = 8 }\n[sweep]\nseeds = [1, 2]\n")
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED)
    ended = subprocess.run(
        [sys.executable, script, path, tmp_path / "out"],
        env=os.environ | {"PYTHONPATH": str(APP_ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stdout.splitlines()[-1:] == ["['finished', 'finished']"], ended.stderr


@pytest.mark.slow
def test_the_demo_shows_that_the_mean_falls_and_the_filter_holds(tmp_path):
    sweep = Sweep.load(APP_ROOT / "experiments" / "demo.toml")
    cells = {row.labels: row for row in run_sweep(sweep, tmp_path / "out", report=False).rows}
    clean = cells["mean (weighted)", "no faults"].final("accuracy")
    assert clean > 0.9
    assert cells["mean (weighted)", "3 sign-flip"].final("accuracy") < 0.5
    for faults in ("no faults", "3 sign-flip"):
        row = cells["byzantine-filter", faults]
        assert row.final("accuracy") > clean - 0.05
        assert row.run.detection.false_alarms == 0
    assert cells["byzantine-filter", "3 sign-flip"].run.detection.recall > 0.9
    assert json.loads((tmp_path / "out" / "sweep.json").read_text())["name"] == "demo"
    timings = (tmp_path / "out" / "timings.csv").read_text().splitlines()
    assert timings[0] == "rule,faults,cell,seconds,round-seconds,memory-mib,ended"
    time_taken = [float(line.split(",")[3]) for line in timings[1:]]
    assert len(time_taken) == 6
    assert min(time_taken) > 0
