"""A run that its SuperLink still runs is not resumed beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.deploy import named_superlink
from hqde_fl.simulations.engines.flower import flower_run
from hqde_fl.simulations.engines.flower.flower_run import LOG_FILE, unfinished_run
from hqde_fl.simulations.engines.flower.superlink import SuperLink
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.run_directory import RunDirectory
from hqde_fl.simulations.run import run_experiment

LOG = "Successfully started run 11\nround 1\nSuccessfully started run 22\n"


@pytest.mark.parametrize(
    ("log", "finished", "expected"),
    [
        (LOG, False, "22"),
        (LOG, True, ""),
        (LOG, None, ""),
        ("no run was started", False, ""),
        (None, False, ""),
    ],
)
def test_the_last_run_of_the_log_is_asked_for(
    log: str | None,
    finished: bool | None,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if log is not None:
        (tmp_path / LOG_FILE).write_text(log)
    monkeypatch.setattr(flower_run, "is_finished", lambda *_: finished)
    assert unfinished_run(tmp_path, tmp_path / "home") == expected


def test_resuming_a_run_that_goes_on_says_how_to_stop_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = Experiment.parse({"engine": {"name": "flower"}, "clients": {"count": 2}})
    with pytest.raises(KeyboardInterrupt), RunDirectory(tmp_path, experiment).recording():
        raise KeyboardInterrupt
    (tmp_path / LOG_FILE).write_text(LOG)
    home = tmp_path / "home"
    target = named_superlink.Target(SuperLink(home, {}))
    monkeypatch.setattr(named_superlink, "find", lambda *_: target)
    monkeypatch.setattr(flower_run, "is_finished", lambda *_: False)
    message = rf"run 22 still goes on in the SuperLink of fed: .* FLWR_HOME={home} flwr stop 22$"
    with pytest.raises(ConfigError, match=message):
        run_experiment(experiment, tmp_path, superlink="fed", resume=True)
