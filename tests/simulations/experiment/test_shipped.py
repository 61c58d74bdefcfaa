"""Experiments that come with hqde-fl are found by their names, from any folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from hqde_fl.errors import ConfigError, UnknownNameError
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.experiment.shipped import shipped_experiments
from hqde_fl.simulations.sweep.cells import Sweep


def test_a_bare_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Experiment.load("quickstart", ["rounds=2"]).rounds == 2
    assert Sweep.load("robustness").cells
    assert {"quickstart", "demo", "arena"} <= shipped_experiments().keys()


def test_a_file_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").write_text("rounds = 3\n")
    assert Experiment.load("quickstart").rounds == 3


@pytest.mark.parametrize("name", ["quickstart.toml", "experiments/quickstart", "./x/quickstart"])
def test_what_has_a_suffix_or_a_folder_is_a_path(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="cannot be read"):
        Experiment.load(name)


def test_a_misspelt_name() -> None:
    with pytest.raises(UnknownNameError, match="experiment 'quickstat': did you mean 'quickstart'"):
        Experiment.load("quickstat")
