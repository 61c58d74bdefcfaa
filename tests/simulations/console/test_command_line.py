import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hqde_fl.errors import RunError
from hqde_fl.simulations.console import command_line, entry
from hqde_fl.simulations.recording.manifest import read_manifest
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.strategies.callbacks import RoundRecord

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def invoke(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: CliRunner().invoke(command_line.app, [*map(str, arguments)])


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ('rul = "krum"\n', [], "error: unknown key 'rul': did you mean 'strategy.rule'?"),
        (
            '[strategy.rule]\nname = "trimmed-mean"\nf = 20\n',
            [],
            "error: TrimmedMean(f=20) needs at least 41 updates, found 10 clients",
        ),
        ('[[faults]]\nname = "sign-flop"\ncount = 1\n', [], "did you mean 'sign-flip'?"),
        (None, [], "cannot be read"),
        ("rounds = ", [], "is not valid TOML"),
        ("", ["--set", "strategy.rule.f=3"], "parameter 'f' does not belong to rule 'mean'"),
        ("", ["--seed", "-1"], "seed needs to be >= 0, found -1"),
        ("", ["--engine", "inlin"], "did you mean 'inline'?"),
        ("", ["--data-dir", "x"], "parameter 'data-dir' does not belong to task 'digits'"),
        ("[sweep]\nseed = [1]\n", [], "run it with `hqde-fl sweep"),
    ],
)
def test_a_wrong_experiment_is_one_line_exit_2_and_nothing_written(
    invoke, tmp_path, content, options, message
):
    file = tmp_path / "experiment.toml"
    if content is not None:
        file.write_text(content)
    before = sorted(tmp_path.iterdir())
    result = invoke("run", file, *options)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.usefixtures("with_reports")
def test_run_sweep_and_report(invoke, tiny_file, tmp_path):
    result = invoke("run", tiny_file, "--seed", 3, "--out", "run", "--set", "rounds=1")
    assert result.exit_code == 0, result.output
    assert "tiny: digits (hidden=8), 4 clients, iid, 1 rounds, seed 3, engine inline" in (
        result.stdout
    )
    assert "round 1/1  accuracy" in result.stdout
    assert "report: run/report.html" in result.stdout
    assert Run.load(tmp_path / "run").manifest["seed"] == 3

    (tmp_path / "run" / "report.html").unlink()
    assert invoke("report", "run").exit_code == 0
    assert (tmp_path / "run" / "report.html").exists()
    assert invoke("report", ".").exit_code == 2

    again = invoke("run", tiny_file, "--out", "run")
    assert again.exit_code == 2
    assert "is not an empty directory" in again.stderr

    study = tmp_path / "study.toml"
    study.write_text(tiny_file.read_text() + '[sweep]\nstrategy.rule = ["mean", "median"]\n')
    result = invoke("sweep", study, "--out", "study", "--set", "rounds=1")
    assert result.exit_code == 0, result.output
    assert "[2/2] median: accuracy" in result.stdout
    assert "Final accuracy" in result.stdout
    assert "report: study/report.html" in result.stdout
    (cell, _) = (tmp_path / "study" / "cells").iterdir()
    assert not (cell / "report.html").exists()
    assert invoke("report", cell).exit_code == 0
    assert (cell / "report.html").exists()
    again = invoke("sweep", study, "--out", "study", "--set", "rounds=1", "--resume", "--dry-run")
    assert "2 cells, 2 of them different, 0 to run" in again.stdout
    again = invoke("sweep", study, "--out", "study", "--set", "rounds=1", "--resume")
    assert "2 cells have finished before, 0 to go" in again.stdout
    assert invoke("sweep", study, "--resume").exit_code == 2


def test_a_dry_run_checks_and_writes_nothing(invoke, tiny_file, tmp_path):
    before = sorted(tmp_path.iterdir())
    assert "faults: 1 sign-flip, clients" in invoke("run", tiny_file, "--dry-run").stdout
    study = tmp_path / "study.toml"
    study.write_text(tiny_file.read_text() + "[sweep]\nseeds = [1, 2]\nfaults = [[], []]\n")
    lines = invoke("sweep", study, "--dry-run").stdout.splitlines()
    assert [line.split("  ")[1] for line in lines[:2]] == [
        "seed=1, no faults #1",
        "seed=1, no faults #2",
    ]
    assert lines[1].endswith("same as seed=1, no faults #1")
    assert lines[-1] == (
        "4 cells, 2 of them different, 2 to run; their time is unknown: no cell has finished in "
        "runs/tiny-TIME (--probe times a few rounds)"
    )
    probed = invoke("sweep", study, "--dry-run", "--probe").stdout.splitlines()[-1]
    assert probed.startswith("4 cells, 2 of them different, 2 to run; about ")
    assert probed.endswith("on as many free cores (3 rounds of 2 cells were timed)")
    assert sorted(tmp_path.iterdir()) == sorted([*before, study])


def test_the_default_directory_has_the_name_and_the_time(invoke, tiny_file, tmp_path):
    assert invoke("run", tiny_file, "--set", "rounds=1").exit_code == 0
    (directory,) = (tmp_path / "runs").iterdir()
    assert directory.name.startswith("tiny-20")


def test_a_failed_run_exits_1_with_one_line(invoke, tiny_file, monkeypatch):
    from hqde_fl.simulations import run

    def fail(*_args, **_options):
        raise RunError("the engine\nbroke")

    monkeypatch.setattr(run, "run_experiment", fail)
    result = invoke("run", tiny_file)
    assert (result.exit_code, result.stderr) == (1, "error: the engine broke\n")


@pytest.mark.parametrize("place", ["file/x", "n" * 300], ids=["below-a-file", "long"])
@pytest.mark.parametrize(
    "command",
    [["run", "--out"], ["run", "--resume"], ["sweep", "--out"], ["nodes", "init"]],
    ids=lambda command: "-".join(command),
)
def test_a_path_that_cannot_be_written_is_one_line(invoke, tiny_file, tmp_path, command, place):
    (tmp_path / "file").touch()
    name, option = command
    file = [tiny_file] if name != "nodes" else []
    if name == "sweep":
        tiny_file.write_text(tiny_file.read_text() + "[sweep]\nseed = [1]\n")
    result = invoke(name, *file, option, place)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"error: {tmp_path / place}")


def test_a_report_is_written_whole_or_not_at_all(invoke, tiny, record, tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    record(tmp_path / "run", tiny)
    monkeypatch.setattr("hqde_fl.simulations.recording.atomic_files.os.fsync", full)
    result = invoke("report", "run")
    page = "run/report.html"
    assert (result.exit_code, result.stderr) == (
        1,
        f"error: {page} cannot be written: No space left on device\n",
    )
    assert not (tmp_path / page).exists()


@pytest.mark.usefixtures("with_reports")
def test_a_run_whose_report_cannot_be_written_has_succeeded(invoke, tiny_file, monkeypatch, caplog):
    from hqde_fl.simulations import report

    def full(*_):
        raise RunError("report.html cannot be written: No space left on device")

    monkeypatch.setattr(report, "write_report", full)
    result = invoke("run", tiny_file, "--out", "run", "--set", "rounds=1")
    assert result.exit_code == 0
    assert "final: accuracy" in result.stdout
    assert "report:" not in result.stdout
    assert "`hqde-fl report" in caplog.text
    assert read_manifest(Path("run"))["status"] == "finished"


@pytest.mark.parametrize(
    ("means", "expected"),
    [
        (
            {"eval-accuracy": 0.75, "eval-loss": float("nan")},
            "eval-accuracy 0.7500, eval-loss not finite (means of the clients: the server has no "
            "test set)",
        ),
        ({}, "no metrics: the server has no test set, and no client reported any"),
    ],
)
def test_the_final_metrics_without_a_test_set_are_those_of_the_clients(
    means, expected, tiny, record, tmp_path
):
    record(tmp_path / "run", tiny, [RoundRecord(round=1, clients_evaluate=means)])
    assert command_line._final(tmp_path / "run") == expected


def test_a_full_disk_is_recorded_and_the_message_says_how_to_go_on(
    invoke, tiny_file, tmp_path, monkeypatch
):
    from hqde_fl.simulations.recording import run_directory

    append = run_directory.append_lines

    def fill(path, lines):
        """Fail from round 2 on, as long as the run has not ended."""
        if any(line.get("round") == 2 for line in lines) and (tmp_path / "run/.reserve").exists():
            try:
                raise OSError(errno.ENOSPC, "No space left on device")
            except OSError as error:
                raise RunError(f"{path.name} cannot be written: {error.strerror}") from error
        append(path, lines)

    monkeypatch.setattr(run_directory, "append_lines", fill)
    options = ["--set", "rounds=3", "--set", "checkpoint.every=1"]
    result = invoke("run", tiny_file, "--out", "run", *options)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == (
        "error: clients.jsonl cannot be written: No space left on device: "
        "`hqde-fl run --resume run` goes on"
    )
    run = Run.load(tmp_path / "run")
    assert (run.manifest["status"], len(run.rounds)) == ("failed", 2)
    assert not (tmp_path / "run/.reserve").exists()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert invoke("run", "--resume", "run").exit_code == 0
    assert len(Run.load(tmp_path / "run").rounds) == 4


def test_list(invoke):
    result = invoke("list")
    assert result.exit_code == 0
    for text in ("rules", "trimmed-mean", "faults", "sign-flip", "tasks", "digits", "sgd", "shard"):
        assert text in result.stdout
    assert "faults" not in invoke("list", "rules").stdout
    wrong = invoke("list", "rule")
    assert wrong.exit_code == 2
    assert "did you mean 'rules'?" in wrong.stderr


def test_usage_errors_exit_2(invoke):
    assert invoke("run").exit_code == 2
    assert invoke("runn").exit_code == 2


@pytest.mark.parametrize("arguments", [["--version"], ["list"]])
def test_small_commands_import_neither_ray_nor_matplotlib(arguments):
    code = (
        f"import sys; sys.argv[1:] = {arguments!r}\n"
        "from hqde_fl.simulations.console.command_line import app\n"
        "try: app()\nexcept SystemExit as end: assert not end.code\n"
        "print(*({'ray', 'matplotlib', 'datasets', 'pandas'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == ""
    assert done.stdout


@pytest.mark.slow
def test_ctrl_c_ends_cleanly_and_keeps_what_was_recorded(tiny_file, tmp_path):
    out = tmp_path / "run"
    command = ["run", str(tiny_file), "--set", "rounds=100000", "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "hqde_fl.simulations.console.entry", *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        rounds = out / "rounds.jsonl"
        end = time.monotonic() + 60
        while not (rounds.exists() and rounds.read_text().count("\n") >= 2):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "interrupted, kept in" in errors
    assert "Traceback" not in errors
    run = Run.load(out)
    assert run.manifest["status"] == "interrupted"
    assert run.manifest["error"] is None
    assert len(run.rounds) >= 2
    assert json.loads((out / "manifest.json").read_text())["ended"]


def test_a_fault_that_cannot_act_or_fails_is_one_line(invoke, tmp_path):
    file = tmp_path / "odd.toml"

    def write(task, more=""):
        file.write_text(
            f'rounds = 1\ntask.name = "tests.simulations.odd_tasks:{task}"\nclients.count = 4\n'
            'engine.name = "inline"\n[[faults]]\nname = "label-flip"\nclients = [3]\n' + more
        )

    write("regression")
    for arguments in (["--dry-run"], []):
        result = invoke("run", file, *arguments)
        assert result.exit_code == 2
        (line,) = result.stderr.splitlines()
        assert line.startswith(
            "error: fault 'label-flip' cannot act on this task: the task must be"
        )
    file.write_text(file.read_text() + "[sweep]\nseeds = [1, 2]\n")
    assert invoke("sweep", file, "--dry-run").exit_code == 2
    assert invoke("sweep", file).exit_code == 2
    write("surprise")
    result = invoke("run", file)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: fault 'label-flip' of client 3 failed in round 1: ConfigError: ")
    assert invoke("run", file, "--dry-run").exit_code == 0


@pytest.mark.parametrize("command", [["sweep"], ["audit"], ["nodes", "init"]])
def test_the_help_has_plain_brackets(invoke, command):
    text = invoke(*command, "--help").stdout
    assert "[required]" in text
    assert "\\" not in text


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("--rounds", "use --set rounds=..."),
        ("--batch_size", "use --set clients.batch-size=..."),
        ("--rule=median", "use --set strategy.rule=..."),
        ("--enigne", "Did you mean '--engine'?"),
        ("--xyz", "No such option '--xyz'."),
    ],
)
def test_an_unknown_option_is_answered_by_what_to_write(invoke, tiny_file, option, hint):
    result = invoke("run", tiny_file, option)
    assert result.exit_code == 2
    assert result.stderr.rstrip().endswith(hint)


def test_a_search_says_on_which_engine_it_runs(invoke):
    stderr = invoke("attack-search", "mean", "--engine", "ray").stderr
    assert stderr.rstrip().endswith("its runs are on engine inline, --jobs at once")


def test_a_task_of_the_users_own_is_not_said_to_be_divided_by_the_default(invoke, tiny_file):
    own = ["--set", "task={name='tests.simulations.odd_tasks:surprise'}"]
    whole = invoke("run", tiny_file, "--dry-run").stdout
    assert "4 clients, iid, 2 rounds" in whole
    assert "iid" not in invoke("run", tiny_file, "--dry-run", *own).stdout


def test_what_stdout_cannot_write_becomes_a_question_mark(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="latin-1"))
    entry._replace_foreign_characters()
    print("ü ☃", flush=True)
    assert written.getvalue() == "ü ?\n".encode("latin-1")
