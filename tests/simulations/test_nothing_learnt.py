"""A run without any aggregate has failed; other runs report their void rounds."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from hqde_fl.errors import RunError
from hqde_fl.simulations.console import command_line
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.run import run_experiment
from tests.simulations.conftest import TINY

NOTHING = {
    "all crash": ({"faults": [{"name": "crash", "count": 4}]}, "8 failed (mostly: RuntimeError: "),
    "all send NaN": ({"faults": [{"name": "nan", "count": 4}]}, "rejected (mostly: non-finite"),
    "all send infinity": ({"faults": [{"name": "infinity", "count": 4}]}, "non-finite update"),
    "all send garbage": ({"faults": [{"name": "garbage", "count": 4}]}, "8 rejected (mostly: not"),
    "all shapes are wrong": ({"faults": [{"name": "wrong-shape", "count": 4}]}, "wrong shape"),
    "all dtypes are wrong": ({"faults": [{"name": "wrong-dtype", "count": 4}]}, "wrong dtype"),
    "an array is missing": ({"faults": [{"name": "partial", "count": 4}]}, "missing array"),
    "training diverges": ({"clients": {"count": 4, "lr": 1e30}}, "rejected (mostly: non-finite"),
    "all are late": ({"strategy": {"deadline": 1e-9}}, "8 late (raise the deadline of 1e-09 s"),
    "nobody has data": ({"task": {"name": f"{__name__}:no_data"}}, "4 skipped (no data: check how"),
    "the quorum is missed": (
        {"strategy": {"quorum": 4}, "faults": [{"name": "crash", "count": 1}]},
        "quorum needs at least 4 updates, found 3 (4 asked, 1 rejected or failed)",
    ),
    "the rule is missing one": (
        {"strategy": {"rule": {"name": "krum", "f": 0}}, "faults": [{"name": "crash", "count": 2}]},
        "Krum(f=0) needs at least 3 updates, found 2 (4 asked, 2 rejected or failed)",
    ),
    "the server overflows": (
        {"strategy": {"server-optimizer": {"name": "sgd", "lr": 1e300}}},
        "last round: the aggregated update is not finite",
    ),
}


def no_data(partitions: int, seed: int, partition: object):  # type: ignore[no-untyped-def]
    """Return a task in which no client has data after the check before the run."""
    from dataclasses import replace

    from torch.utils.data import TensorDataset

    from hqde_fl.simulations.tasks import load_task

    task = load_task({"name": "digits", "hidden": 8}, {"name": "iid"}, partitions, seed)
    data = task.partition(0, partitions)
    assert isinstance(data, TensorDataset)
    empty = TensorDataset(*(tensor[:0] for tensor in data.tensors))
    loads = iter([data])
    return replace(task, partition=lambda number, count: next(loads, empty))


@pytest.mark.parametrize("how", NOTHING)
def test_a_run_that_learnt_nothing_has_failed(how: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    change, reason = NOTHING[how]
    experiment = Experiment.parse({**TINY, "faults": [], **change})
    with pytest.raises(RunError, match="no round produced an aggregate") as error:
        run_experiment(experiment, tmp_path / "run")
    assert reason in str(error.value)
    run = Run.load(tmp_path / "run")
    assert run.manifest["status"] == "failed"
    assert reason in run.manifest["error"]
    assert [line["void"] for line in run.rounds] == [False, True, True]
    assert (tmp_path / "run" / "report.html").exists()


def test_the_command_exits_1_and_a_sweep_goes_on(tmp_path, monkeypatch, tiny_file) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    late = ["--set", "strategy.deadline=1e-9"]
    result = CliRunner().invoke(command_line.app, ["run", str(tiny_file), *late, "--out", "late"])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: no round produced an aggregate")
    assert result.stderr.count("\n") == 1
    assert "final:" not in result.stdout
    sweep = tmp_path / "sweep.toml"
    text = tiny_file.read_text()
    sweep.write_text(text + '\n[sweep]\n"strategy.deadline" = [600.0, 1e-9]\n')
    result = CliRunner().invoke(command_line.app, ["sweep", str(sweep), "--out", "sweep"])
    assert result.exit_code == 1
    cells = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["cells"]
    assert [bool(cell["error"]) for cell in cells] == [False, True]


def test_void_rounds_are_one_line_of_a_run_that_learnt_something(  # type: ignore[no-untyped-def]
    tmp_path, monkeypatch, tiny_file
) -> None:
    """Two of four clients crash in round 2, and Krum needs more than two."""
    monkeypatch.chdir(tmp_path)
    faults = '[{name = "crash", count = 2, start = 2, stop = 2}]'
    options = ["--set", 'strategy.rule={name="krum", f=0}', "--set", f"faults={faults}"]
    options += ["--set", "rounds=3", "--out", "some"]
    result = CliRunner().invoke(command_line.app, ["run", str(tiny_file), *options])
    assert result.exit_code == 0, result.output
    assert "1 of 3 rounds were void, the model was kept: 2" in result.stdout
    assert [line["void"] for line in Run.load("some").rounds] == [False, False, True, False]


def test_a_dry_run_warns_of_a_rule_that_bears_no_silent_client(  # type: ignore[no-untyped-def]
    tmp_path, monkeypatch, tiny_file
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--set", 'strategy.rule={name="krum", f=1}', "--set", "clients.count=5"]
    result = CliRunner().invoke(command_line.app, ["run", str(tiny_file), *options, "--dry-run"])
    assert result.exit_code == 0
    assert "warning: Krum(f=1) needs 5 updates, found 5 clients: a round is void as soon as 1" in (
        result.stderr
    )
    result = CliRunner().invoke(command_line.app, ["run", str(tiny_file), "--dry-run"])
    assert "warning" not in result.stderr
