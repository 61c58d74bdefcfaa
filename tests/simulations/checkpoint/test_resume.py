"""A resumed run has the result of an undisturbed one, or fails with the reason."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from benchmarks.crashes import FEEDBACK, comparable, drill
from hqde_fl.errors import CheckpointError, ConfigError, RunError
from hqde_fl.simulations.checkpoint import container
from hqde_fl.simulations.checkpoint.resume import exclusive, stored_experiment
from hqde_fl.simulations.checkpoint.store import DIRECTORY, REFUSED
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.run import run_experiment

TINY = {
    "name": "tiny",
    "seed": 7,
    "rounds": 4,
    "task": {"name": "digits", "hidden": 8},
    "clients": {"count": 4, "lr": 0.1},
    "engine": {"name": "inline"},
}
PARTS: dict[str, dict[str, Any]] = {
    "feedback": {"strategy": {"rule": "byzantine-filter", "fraction-train": 0.6, **FEEDBACK}},
    "members": {
        "clients": {"count": 4, "lr": 0.1, "members": 2},
        "strategy": {"server-optimizer": "yogi", "codec": FEEDBACK["codec"]},
    },
    "attack": {
        "strategy": {"rule": {"name": "centered-clipping"}},
        "faults": [{"name": "mimic", "count": 1}],
    },
    "virtual time": {
        "clients": {
            "count": 4,
            "lr": 0.1,
            "speed": {"name": "log-uniform", "seconds-per-example": 0.01, "jitter": 0.3},
            "bandwidth": {"name": "log-uniform", "up": 0.1},
            "drop-out": 0.2,
        },
        "strategy": {"rule": "mean", "downlink": "quantized", "deadline": 3.0, **FEEDBACK},
    },
    "edges": {
        "clients": {"count": 4, "lr": 0.1},
        "strategy": {"rule": "centered-clipping", **FEEDBACK},
        "edges": {
            "groups": 2,
            "rounds": 2,
            "rule": "centered-clipping",
            "codec": FEEDBACK["codec"],
            "downlink": "quantized",
        },
        "faults": [
            {"name": "mimic", "clients": [0]},
            {"name": "stale", "rounds": 2, "clients": [1], "level": "edge"},
        ],
    },
    "stale": {"strategy": {"rule": "median"}, "faults": [{"name": "stale", "count": 1}]},
    "kept optimizer": {
        "clients": {
            "count": 4,
            "steps": 3,
            "momentum": 0.9,
            "dampening": 0.9,
            "keep-optimizer": True,
            "lr-schedule": {"name": "cosine", "rounds": 4},
            "members": 2,
            "assignment": "round-robin",
        },
        "strategy": {
            "rule": "median",
            "fraction-train": 0.6,
            "server-lr-schedule": {"name": "step", "every": 1, "gamma": 0.5},
            **FEEDBACK,
        },
    },
    "control variates": {
        "clients": {"count": 4, "lr": 0.1, "control-variates": True},
        "strategy": {"rule": "centered-clipping", "fraction-train": 0.6, "downlink": "quantized"},
        "faults": [{"name": "mimic", "count": 1}],
    },
}


def experiment(part: str = "feedback", rounds: int = 4, **more: Any) -> Experiment:
    return Experiment.parse({**TINY, **PARTS[part], "rounds": rounds, **more})


def model(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes()


def same(one: Path, other: Path) -> bool:
    names = ("rounds.jsonl", "clients.jsonl", "edges.jsonl")
    files = [name for name in names if (one / name).exists()]
    alike = all(comparable(one / name) == comparable(other / name) for name in files)
    return alike and model(one) == model(other)


def checkpoints(run: Path) -> list[str]:
    return sorted(path.name for path in (run / DIRECTORY).glob("round-*"))


@pytest.mark.parametrize("part", PARTS)
def test_a_run_that_goes_on_is_the_run_that_was_never_interrupted(
    tmp_path: Path, part: str
) -> None:
    run_experiment(experiment(part), tmp_path / "whole", report=False)
    run_experiment(experiment(part, rounds=2), tmp_path / "two", report=False)
    run_experiment(experiment(part), tmp_path / "two", report=False, resume=True)
    assert same(tmp_path / "whole", tmp_path / "two")
    manifest = Run.load(tmp_path / "two").manifest
    assert (manifest["status"], manifest["experiment"]["rounds"]) == ("finished", 4)
    assert [each["round"] for each in manifest["resumed"]] == [2]
    assert all(line["feedback-lost"] == 0 for line in Run.load(tmp_path / "two").rounds)


@pytest.fixture
def interrupted(tmp_path: Path) -> Callable[..., Path]:
    """A function that makes a run directory as a kill in round 4 leaves it."""

    def interrupted(keep: int = 3) -> Path:
        out = tmp_path / "run"
        run_experiment(experiment(rounds=3, checkpoint={"keep": keep}), out, report=False)
        (out / "model.safetensors").unlink()
        with (out / "clients.jsonl").open("a") as file:
            file.write('{"round": 4, "node": 1}\n')
        with (out / "rounds.jsonl").open("a") as file:
            file.write('{"round": 4}\n{"round": 5, "asked')
        return out

    return interrupted


def test_what_was_recorded_after_the_checkpoint_is_cut(
    tmp_path: Path, interrupted: Callable[..., Path]
) -> None:
    run_experiment(experiment(), tmp_path / "whole", report=False)
    run_experiment(experiment(), interrupted(), report=False, resume=True)
    assert same(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize(
    ("file", "tail"),
    [("rounds.jsonl", b"\0" * 300 + b"\n"), ("clients.jsonl", b'{"torn\n\xff\n')],
    ids=["zeros", "torn"],
)
def test_what_is_cut_need_not_be_readable(tmp_path: Path, file: str, tail: bytes) -> None:
    run_experiment(experiment(rounds=2), tmp_path / "whole", report=False)
    run_experiment(experiment(rounds=1), tmp_path / "run", report=False)
    with (tmp_path / "run" / file).open("ab") as lines:
        lines.write(tail)
    run_experiment(experiment(rounds=2), tmp_path / "run", report=False, resume=True)
    assert same(tmp_path / "whole", tmp_path / "run")


def test_a_checkpoint_of_an_older_format_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container, "VERSION", 2)
    run_experiment(experiment(rounds=1, checkpoint={"keep": 1}), tmp_path / "run", report=False)
    monkeypatch.undo()
    with pytest.raises(CheckpointError) as caught:
        run_experiment(experiment(rounds=2), tmp_path / "run", report=False, resume=True)
    reason = "of format version 2, written by another version of hqde-fl: this one reads version 3"
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{}"], ids=["empty", "list", "table"])
def test_without_a_manifest_the_newest_checkpoint_has_the_experiment(
    tmp_path: Path, interrupted: Callable[..., Path], text: str
) -> None:
    run_experiment(experiment(), tmp_path / "whole", report=False)
    out = interrupted()
    (out / "manifest.json").write_text(text)
    damage(out / DIRECTORY / "round-000003.safetensors", "torn")
    assert stored_experiment(out) == experiment(rounds=3).to_table()
    run_experiment(experiment(), out, report=False, resume=True)
    assert same(tmp_path / "whole", out)
    assert [each["round"] for each in Run.load(out).manifest["resumed"]] == [2]
    shutil.rmtree(out / DIRECTORY)
    (out / "manifest.json").write_text(text)
    with pytest.raises(ConfigError, match=r"is no run directory: no readable manifest\.json"):
        run_experiment(experiment(), out, resume=True)


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    middle = len(data) // 2
    torn = data[:middle]
    path.write_bytes(
        torn if how == "torn" else torn + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    )


@pytest.mark.parametrize("how", ["torn", "tampered"])
@pytest.mark.parametrize("file", ["round", "clients"])
def test_a_damaged_checkpoint_is_refused_by_name_and_the_one_before_it_used(
    tmp_path: Path,
    interrupted: Callable[..., Path],
    caplog: pytest.LogCaptureFixture,
    how: str,
    file: str,
) -> None:
    run_experiment(experiment(), tmp_path / "whole", report=False)
    out = interrupted()
    damage(out / DIRECTORY / f"{file}-000003.safetensors", how)
    run_experiment(experiment(), out, report=False, resume=True)
    assert same(tmp_path / "whole", out)
    assert "checkpoint round-000003.safetensors refused: " in caplog.text
    (resumed,) = Run.load(out).manifest["resumed"]
    assert resumed["round"] == 2
    assert list(resumed["refused"]) == ["round-000003.safetensors"]
    assert (out / DIRECTORY / f"round-000003.safetensors{REFUSED}").exists()


def test_without_any_usable_checkpoint_there_is_an_error(
    interrupted: Callable[..., Path],
) -> None:
    out = interrupted(keep=1)
    assert checkpoints(out) == ["round-000003.safetensors"]
    damage(out / DIRECTORY / "round-000003.safetensors", "torn")
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"no usable checkpoint in .*round-000003.*torn"):
            run_experiment(experiment(), out, report=False, resume=True)


def test_records_that_lost_lines_refuse_the_checkpoint(interrupted: Callable[..., Path]) -> None:
    out = interrupted()
    lines = (out / "rounds.jsonl").read_bytes().splitlines(keepends=True)
    (out / "rounds.jsonl").write_bytes(b"".join(lines[:3]))  # rounds 0 to 2
    run_experiment(experiment(), out, report=False, resume=True)
    (resumed,) = Run.load(out).manifest["resumed"]
    assert resumed["round"] == 2
    assert "rounds.jsonl has" in resumed["refused"]["round-000003.safetensors"]


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"seed": 8}, r"run with seed = 7, found 8"),
        ({"rounds": 2}, r"run with rounds = 3, found 2"),
        ({"clients": {"count": 4, "lr": 0.2}}, r"run with clients\.lr = 0\.1, found 0\.2"),
        ({"faults": [{"name": "zero", "count": 1}]}, r"run with faults = \[\], found \[\{"),
    ],
)
def test_another_experiment_is_refused_by_the_key_that_differs(
    interrupted: Callable[..., Path], changed: dict[str, Any], complaint: str
) -> None:
    other = {**TINY, **PARTS["feedback"], "rounds": 3, **changed}
    with pytest.raises(ConfigError, match=complaint):
        run_experiment(Experiment.parse(other), interrupted(), resume=True)


def test_how_often_and_how_many(tmp_path: Path) -> None:
    run_experiment(experiment(checkpoint={"every": 3, "keep": 9}), tmp_path / "a", report=False)
    assert [name[6:12] for name in checkpoints(tmp_path / "a")] == ["000000", "000003", "000004"]
    run_experiment(experiment(checkpoint={"every": 0}), tmp_path / "b", report=False)
    assert not (tmp_path / "b" / DIRECTORY).exists()
    assert Run.load(tmp_path / "a").manifest["checkpoints"]["written"] == 3


def test_a_run_that_is_complete_is_left_alone_and_an_empty_directory_gets_one(
    tmp_path: Path,
) -> None:
    out, heard = tmp_path / "run", []
    for _ in range(2):
        run_experiment(experiment(rounds=1), out, report=False, resume=True, on_round=heard.append)
    assert [line["round"] for line in heard] == [0, 1]
    assert Run.load(out).manifest["resumed"] == []
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious.txt").touch()
    with pytest.raises(ConfigError, match="not an empty directory"):
        run_experiment(experiment(rounds=1), tmp_path / "mine", resume=True)


def test_clients_that_lost_their_error_feedback_are_counted(tmp_path: Path) -> None:
    """As after resuming on an engine that cannot restore the clients' states."""
    out = tmp_path / "run"
    plain = {"strategy": {"codec": FEEDBACK["codec"]}}
    run_experiment(Experiment.parse({**TINY, **plain, "rounds": 2}), out, report=False)
    for path in (out / DIRECTORY).glob("clients-*"):
        path.unlink()
    from hqde_fl.simulations.checkpoint import store
    from hqde_fl.simulations.checkpoint.client_state_files import Shelf

    path = out / DIRECTORY / "round-000002.safetensors"
    snapshot = store.container.read(path, store.TREE)
    forgotten = store.replace(snapshot, shelf=Shelf())
    store.container.write(path, store.TREE, forgotten)
    run_experiment(Experiment.parse({**TINY, **plain}), out, report=False, resume=True)
    assert [line["feedback-lost"] for line in Run.load(out).rounds] == [0, 0, 0, 4, 0]


def test_two_processes_cannot_write_into_one_directory(tmp_path: Path) -> None:
    refused = pytest.raises(ConfigError, match="is in use: another process")
    with exclusive(tmp_path / "run"), refused, exclusive(tmp_path / "run", wait=0.0):
        pass
    with exclusive(tmp_path / "run", wait=0.0):
        assert os.listdir(tmp_path / "run") == []


@pytest.mark.drills
@pytest.mark.parametrize("engine", ["ray", "flower"])
def test_what_clients_keep_outlives_kills_on_every_engine(tmp_path: Path, engine: str) -> None:
    kept = experiment("kept optimizer", rounds=20, engine={"name": engine})
    result = drill(tmp_path, kept, kills=2, seed=32)  # in the first six rounds, and in the start
    assert result.kills == 2
    assert any(result.resumed)  # what was kept mattered
    assert result.same_model
    assert result.same_records or engine == "flower"  # whose node ids are other ones in each run


@pytest.mark.drills
def test_killed_three_times_and_resumed(tmp_path: Path) -> None:
    result = drill(tmp_path, experiment(rounds=20), kills=3, seed=32)  # in the first six rounds
    assert result.kills == 3
    assert result.same_model
    assert result.same_records


LIMITED = """
import resource, sys
from pathlib import Path
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.run import run_experiment
from hqde_fl.errors import RunError

def limit(line):
    if line["round"] == 2:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))

try:
    run_experiment(Experiment.from_json(sys.argv[1]), Path(sys.argv[2]), on_round=limit)
except RunError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_full_disk_ends_the_run_by_name_and_the_checkpoint_before_it_is_good(
    tmp_path: Path,
) -> None:
    """The process cannot write files larger than 8 KiB, as if the disk were full."""
    run_experiment(experiment(), tmp_path / "whole", report=False)
    out = tmp_path / "run"
    command = [sys.executable, "-c", LIMITED, experiment().to_json(), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "round-00000" in done.stdout or "clients-00000" in done.stdout, done.stderr
    assert "cannot be written" in done.stdout
    assert json.loads((out / "manifest.json").read_text())["status"] in ("failed", "running")
    run_experiment(experiment(), out, report=False, resume=True)
    assert same(tmp_path / "whole", out)


def test_the_command_line(tmp_path: Path, interrupted: Callable[..., Path]) -> None:
    from typer.testing import CliRunner

    from hqde_fl.simulations.console.command_line import app

    out = interrupted()
    runner = CliRunner()
    refused = runner.invoke(app, ["run", "--resume", str(out), "--set", "seed=8"])
    assert refused.exit_code == 2
    assert "seed = 7, found 8" in refused.output
    file = tmp_path / "tiny.toml"
    file.write_text(tomli_w.dumps(experiment(rounds=4).to_table()))
    done = runner.invoke(app, ["run", str(file), "--resume", str(out)])
    assert done.exit_code == 0, done.output
    assert "round 4/4" in done.output
    assert "round 3/4" not in done.output
    for arguments, complaint in (
        (["run"], "FILE is missing"),
        (["run", "--resume", str(out), "--out", "x"], "leave out --out"),
        (["run", "--resume", str(tmp_path)], "is no run directory"),
    ):
        result = runner.invoke(app, arguments)
        assert result.exit_code == 2
        assert complaint in result.output


def test_a_full_disk_names_the_records_too(tmp_path: Path) -> None:
    from hqde_fl.simulations.recording.atomic_files import replace_file

    with pytest.raises(RunError, match=r"absent/file cannot be written: No such file"):
        replace_file(tmp_path / "absent" / "file", b"")
