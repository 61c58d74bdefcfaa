"""The user's own files that an app brings along to nodes that have none of them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.cli.build import build_fab_from_disk

from hqde_fl import own_files
from hqde_fl.errors import ConfigError
from hqde_fl.simulations.engines.flower import carried_files
from hqde_fl.simulations.engines.flower.app_writer import write_app
from hqde_fl.simulations.engines.flower.carried_files import CarriedFiles
from hqde_fl.simulations.experiment import own_modules
from tests.simulations.command import environment

TASK = """
from dataclasses import dataclass
import helper_beside
from parts.inner import HIDDEN
from hqde_fl.rules import Median
from hqde_fl.simulations.tasks.digits import Digits
from hqde_fl.simulations.tasks.partition import PARTITIONERS

assert helper_beside.HERE


def task(partitions, seed, partition):
    return Digits(hidden=HIDDEN).build(PARTITIONERS.build(partition), seed)
"""
LOADED = """
import json, sys
from pathlib import Path
import hqde_fl_run
from hqde_fl.simulations.experiment.experiment import Experiment

table = json.loads(sys.argv[1])
print(sum(p.numel() for p in Experiment.parse(table).load_task().model().parameters()))
print(json.dumps([place for place in sys.path if sys.argv[2] in place]))
"""


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    path, folders, modules = list(sys.path), list(own_files.folders), set(sys.modules)
    yield
    sys.path[:], own_files.folders[:] = path, folders
    for name in set(sys.modules) - modules:
        del sys.modules[name]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a study, which is searched, with files of the user's own."""
    folder = tmp_path / "submitter" / "study"
    (folder / "parts").mkdir(parents=True)
    (folder / "mine.py").write_text(TASK)
    (folder / "helper_beside.py").write_text("HERE = True\n")
    (folder / "unrelated.py").write_text("raise RuntimeError\n")
    (folder / "parts/__init__.py").touch()
    (folder / "parts/inner.py").write_text("HIDDEN = 3\n")
    (folder / "classes.json").write_text("[1, 2]")
    monkeypatch.chdir(tmp_path)
    own_modules.add_folders([folder])
    return folder


def table(name: str = "mine.py:task", **engine: Any) -> dict[str, Any]:
    return {"task": {"name": name}, "clients": {"count": 2}, "engine": {"name": "flower", **engine}}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mine.py:task", "mine:task", "ABSOLUTE:task", "../mine.py:task"])
def test_an_app_finds_its_files_where_the_submitters_folders_do_not_exist(
    folder: Path, tmp_path: Path, name: str
) -> None:
    if name.startswith(".."):
        own_modules.add_folders([folder / "parts"])
    experiment = table(name.replace("ABSOLUTE", str(folder / "mine.py")))
    carried = CarriedFiles.of(experiment)
    names = {Path(place).name for place in carried.files}
    assert names == {"mine.py", "helper_beside.py", "__init__.py", "inner.py"}
    write_app(tmp_path / "app", {"config": "{}"}, carried=carried)
    shutil.rmtree(folder)
    settings = json.loads((tmp_path / "app/hqde_fl_run/settings.json").read_text())
    assert "path" not in settings
    assert str(tmp_path) not in json.dumps(settings["carried-folders"])
    elsewhere = tmp_path / "node"
    elsewhere.mkdir()
    found = subprocess.run(
        [sys.executable, "-c", LOADED, json.dumps(experiment), "submitter"],
        env={**environment(), "PYTHONPATH": str(tmp_path / "app")},
        cwd=elsewhere,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    numbers, searched = found.stdout.splitlines()
    assert int(numbers) == 64 * 3 + 3 + 3 * 10 + 10
    assert json.loads(searched) == []


def test_a_bundle_of_flowers_holds_every_file(folder: Path, tmp_path: Path) -> None:
    carried = CarriedFiles.of(table(files=["*.json"]))
    assert "classes.json" in {Path(place).name for place in carried.files}
    write_app(tmp_path / "app", {"config": "{}"}, carried=carried)
    bundle = build_fab_from_disk(tmp_path / "app")
    assert all(place.encode() in bundle for place in carried.files)


def test_an_experiment_without_own_parts_carries_nothing() -> None:
    assert CarriedFiles.of(table("digits")) == CarriedFiles()


def test_files_that_a_bundle_leaves_out_are_named(folder: Path) -> None:
    (folder / "data.csv").write_text("1")
    (folder / "weights.bin").write_text("1")
    with pytest.raises(ConfigError, match=r"data\.csv, .*weights\.bin cannot go to the nodes"):
        CarriedFiles.of(table(files=["data.csv", "*.bin", "*.json"]))
    (folder / "test_mine.py").write_text(TASK)
    with pytest.raises(ConfigError, match=r"test_mine\.py cannot go to the nodes: .* no test_"):
        CarriedFiles.of(table("test_mine.py:task"))


def test_a_pattern_without_files_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"engine\.files: there is no file '\*\.npy' in .*study"):
        CarriedFiles.of(table(files=["*.npy"]))


def test_files_that_are_too_large_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "large.json").write_text("0" * 3000)
    monkeypatch.setattr(carried_files, "MAX_BYTES", 2000)
    with pytest.raises(ConfigError, match=r"at most 2,000 bytes .*large\.json \(3,000 bytes\)"):
        CarriedFiles.of(table(files=["large.json"]))
