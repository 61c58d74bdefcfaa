"""A run's files are for their owner alone."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.atomic_files import replace_file
from hqde_fl.simulations.run import run_experiment


@pytest.fixture
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("with_reports")
def test_all_files_of_a_run_have_mode_600(
    tiny: Experiment, tmp_path: Path, usual_umask: None
) -> None:
    out = tmp_path / "run"
    run_experiment(Experiment.parse(tiny.to_table() | {"checkpoint": {"every": 1}}), out)
    files = [path for path in out.rglob("*") if path.is_file()]
    assert {"manifest.json", "rounds.jsonl", "monitor.jsonl", "report.html"} <= {
        path.name for path in files
    }
    assert any("checkpoint" in path.parent.name for path in files)
    assert {path.name: oct(mode(path)) for path in files if mode(path) != 0o600} == {}


def test_a_file_that_is_replaced_keeps_its_mode(tmp_path: Path, usual_umask: None) -> None:
    path = tmp_path / "report.html"
    replace_file(path, b"first")
    assert mode(path) == 0o600
    path.chmod(0o644)
    replace_file(path, b"second")
    assert mode(path) == 0o644
