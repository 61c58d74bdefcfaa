"""A resumed run spends no privacy twice and forgets none, whatever ended it and when."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hqde_fl.errors import CheckpointError
from hqde_fl.privacy.ledger import Release
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.privacy_ledger import FileLedger
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.run import run_experiment

TINY: dict[str, Any] = {
    "name": "tiny",
    "seed": 7,
    "rounds": 4,
    "task": {"name": "digits", "hidden": 8},
    "clients": {"count": 6, "lr": 0.1},
    "strategy": {"rule": "mean", "selector": "poisson", "fraction-train": 0.5},
    "privacy": {"target-epsilon": 8.0, "delta": 1e-3, "accountant": "rdp"},
    "engine": {"name": "inline"},
    "monitor": {"enabled": False},
}

KILLED = """
import os, signal, sys
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.privacy_ledger import FileLedger
from hqde_fl.simulations.run import run_experiment

add = FileLedger.add

def add_and_die(self, release):
    add(self, release)
    if release.round == 3:
        os.kill(os.getpid(), signal.SIGKILL)

FileLedger.add = add_and_die
run_experiment(Experiment.from_json(sys.argv[1]), sys.argv[2], report=False)
"""


def experiment(noise: str = "seeded-gaussian", **changes: Any) -> Experiment:
    privacy = {**TINY["privacy"], "noise": noise, **changes.pop("privacy", {})}
    return Experiment.parse({**TINY, "privacy": privacy, **changes})


def kill_in_round_3(settings: Experiment, run: Path) -> None:
    """Run until the noised sum of round 3 may have left, and no checkpoint knows of it."""
    command = [sys.executable, "-c", KILLED, settings.to_json(), str(run)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL


def epsilons(run: Path) -> list[float | None]:
    return [line["epsilon"] for line in Run.load(run).rounds]


def releases(run: Path) -> list[int]:
    return [release.round for release in FileLedger(run).read()]


@pytest.mark.slow
def test_the_same_release_after_a_kill_is_spent_once(tmp_path: Path) -> None:
    run_experiment(experiment(), tmp_path / "whole", report=False)
    kill_in_round_3(experiment(), tmp_path / "killed")
    assert releases(tmp_path / "killed") == [1, 2, 3]
    run_experiment(experiment(), tmp_path / "killed", report=False, resume=True)
    assert releases(tmp_path / "killed") == [1, 2, 3, 4]
    assert epsilons(tmp_path / "killed") == epsilons(tmp_path / "whole")
    models = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("whole", "killed")]
    assert models[0] == models[1]


class CrashError(Exception):
    pass


def crash_in_round(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    add = FileLedger.add

    def add_and_crash(self: FileLedger, release: Release) -> None:
        add(self, release)
        if release.round == number:
            monkeypatch.undo()
            raise CrashError

    monkeypatch.setattr(FileLedger, "add", add_and_crash)


@pytest.mark.parametrize("every", [1, 0], ids=["checkpoints", "none"])
def test_another_release_of_a_round_is_spent_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    fixed = {"target-epsilon": 0.0, "noise-multiplier": 2.0}
    settings = experiment("secure-gaussian", privacy=fixed, checkpoint={"every": every})
    crash_in_round(3, monkeypatch)
    with pytest.raises(CrashError):
        run_experiment(settings, tmp_path / "run", report=False)
    run_experiment(settings, tmp_path / "run", report=False, resume=True)
    repeated = [1, 2, 3, 3, 4] if every else [1, 2, 3, 1, 2, 3, 4]
    assert releases(tmp_path / "run") == repeated
    plan = settings.parts.plan
    assert plan is not None
    spent = {number: repeated.count(number) for number in (1, 2, 3, 4)}
    assert epsilons(tmp_path / "run")[-1] == plan.accountant.epsilon(2.0, spent)


@pytest.mark.slow
def test_more_rounds_keep_the_noise_and_the_budget_decides(tmp_path: Path) -> None:
    run_experiment(experiment(), tmp_path, report=False)
    before = FileLedger(tmp_path).read()
    run_experiment(experiment(rounds=9), tmp_path, report=False, resume=True)
    assert FileLedger(tmp_path).read() == before
    manifest = Run.load(tmp_path).manifest
    assert manifest["status"] == "finished"
    assert "the limit is 8" in manifest["ended-early"]
    assert manifest["privacy"] == {
        "adjacency": "add-or-remove-one",
        "sampling": "Poisson sampling with probability 0.5",
        "accountant": "rdp",
        "delta": 1e-3,
        "noise": "seeded",
    }


def test_a_torn_line_was_never_released(tmp_path: Path) -> None:
    ledger = FileLedger(tmp_path)
    ledger.add(Release(1, "a", 1.0))
    with (tmp_path / "privacy.jsonl").open("a") as file:
        file.write('{"round": 2, "dig')
    assert ledger.read() == [Release(1, "a", 1.0)]
    ledger.add(Release(2, "b", 1.0))
    assert ledger.read() == [Release(1, "a", 1.0), Release(2, "b", 1.0)]


@pytest.mark.parametrize("line", ["{}", "no json", '{"round": "x", "digest": "a"}'])
def test_a_damaged_ledger_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "privacy.jsonl").write_text(line + "\n")
    with pytest.raises(CheckpointError, match=r"privacy\.jsonl is damaged"):
        FileLedger(tmp_path).read()


def test_a_ledger_without_what_the_checkpoint_knows_is_refused(tmp_path: Path) -> None:
    run_experiment(experiment(), tmp_path, report=False)
    (tmp_path / "privacy.jsonl").unlink()
    with pytest.raises(CheckpointError, match="4 of 4 releases are missing"):
        run_experiment(experiment(rounds=5), tmp_path, report=False, resume=True)
