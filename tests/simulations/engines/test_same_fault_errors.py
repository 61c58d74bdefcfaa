"""A fault whose code fails ends the run with the same message on every engine.

This module comes after ``test_ray_cluster``, which wants a process without a Ray.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from hqde_fl.errors import RunError
from hqde_fl.simulations.experiment.experiment import APP_ROOT, Experiment
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.run import run_experiment

OWN = (
    "fault 'label-flip' of client 3 failed in round 2: "
    "ConfigError: LabelFlip(classes=2) needs labels below 2, found 2"
)


def experiment(task: str, start: int = 1) -> Experiment:
    return Experiment.parse(
        {
            "rounds": 2,
            "task": {"name": f"tests.simulations.odd_tasks:{task}"},
            "clients": {"count": 4},
            "strategy": {"rule": "mean"},
            "faults": [{"name": "label-flip", "clients": [3], "start": start}],
        }
    )


def ended_by_its_fault(engine: str, out: Path) -> None:
    with pytest.raises(RunError) as caught:
        run_experiment(experiment("surprise", start=2), out, engine=engine)
    assert OWN in str(caught.value)
    manifest = Run.load(out).manifest
    assert manifest["status"] == "failed"
    assert manifest["error"].startswith(f"RunError: {OWN}")


@pytest.mark.usefixtures("one_ray")
@pytest.mark.xdist_group("ray")
def test_ray(tmp_path: Path) -> None:
    ended_by_its_fault("ray", tmp_path / "own")
    run_experiment(experiment("failing"), tmp_path / "honest", engine="ray")
    run = Run.load(tmp_path / "honest")
    (reason,) = {each["reason"] for each in run.clients if each["partition"] == 3}
    assert reason.startswith("failed: client 3: the data set raised OSError: disk failed (odd_task")


@pytest.mark.zoo
def test_flower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(APP_ROOT)  # the task's module is found from there
    ended_by_its_fault("flower", tmp_path / "own")
