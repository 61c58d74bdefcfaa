"""The wheel installs ``hqde_fl`` alone, and a user's own modules cannot hide any part of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

import hqde_fl
from benchmarks.structure import files

ROOT = Path(__file__).parent.parent

EXPERIMENT = """
name = "own-folders"
rounds = 1
seed = 1
[task]
name = "digits"
[clients]
count = 2
[strategy.rule]
name = "median"
[engine]
name = "inline"
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel that was built from this checkout."""
    return Path(next(WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("w")))))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what the wheel installs."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder, whose own modules are named like the folders of the repository."""
    (tmp_path / "clients").mkdir()
    (tmp_path / "clients" / "__init__.py").write_text("MINE = True\n")
    (tmp_path / "strategies.py").write_text("MINE = True\n")
    (tmp_path / "simulations").mkdir()
    (tmp_path / "simulations" / "own.py").write_text("MINE = True\n")
    (tmp_path / "experiment.toml").write_text(EXPERIMENT)
    return tmp_path


def run(code: list[str], folder: Path, *path: Path) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, with ``PYTHONPATH`` set to the given folders."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))}
    return subprocess.run(
        [sys.executable, *code], cwd=folder, env=environment, capture_output=True, text=True
    )


def contents(wheel: Path) -> dict[str, bytes]:
    """Return every file of a wheel with its bytes."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_installs_one_package(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in contents(wheel)}
    version = hqde_fl.__version__
    assert tops == {"hqde_fl", f"hqde_fl-{version}.dist-info"}


def test_the_wheel_holds_every_module_of_the_checkout(wheel: Path) -> None:
    inside = (path.relative_to(ROOT).parts for path in files(ROOT))
    expected = {Path("hqde_fl", *(part for part in parts if part != "hqde_fl")) for parts in inside}
    modules = {Path(name) for name in contents(wheel) if name.endswith(".py")}
    assert modules == expected


def test_a_wheel_from_the_source_distribution_is_the_same(wheel: Path, tmp_path: Path) -> None:
    source = next(SdistBuilder(str(ROOT)).build(directory=str(tmp_path)))
    with tarfile.open(source) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (unpacked,) = (tmp_path / "source").iterdir()
    again = next(WheelBuilder(str(unpacked)).build(directory=str(tmp_path / "again")))
    assert contents(Path(again)) == contents(wheel)


@pytest.mark.slow
def test_own_folders_hide_no_public_name(folder: Path, installed: Path) -> None:
    (folder / "script.py").write_text(
        f"import sys\nsys.path.remove({str(ROOT)!r})\n"  # an editable install adds it
        "import clients, strategies, simulations.own, hqde_fl\n"
        "assert clients.MINE and strategies.MINE and simulations.own.MINE\n"
        "for name in hqde_fl.__all__:\n"
        "    getattr(hqde_fl, name)\n"
        "print(hqde_fl.__file__)\n"
    )
    done = run(["script.py"], folder, installed)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(installed / "hqde_fl" / "__init__.py")


@pytest.mark.slow
def test_the_command_runs_beside_own_folders(folder: Path, installed: Path) -> None:
    start = "from hqde_fl.simulations.console.entry import main; main()"
    options = ["run", "experiment.toml", "--out", "out"]
    done = run(["-c", start, *options], folder, Path("."), installed)
    assert done.returncode == 0, done.stderr
    assert (folder / "out" / "report.html").exists()


@pytest.mark.parametrize("name", ["strategies", "clients", "simulations"])
def test_the_folders_are_not_packages_of_their_own(name: str) -> None:
    done = run(["-c", f"import {name}"], ROOT)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        f"ImportError: import hqde_fl.{name}: the folder {name}/ is a part of the package hqde_fl"
    )


@pytest.mark.slow
def test_a_copy_without_links_is_whole(tmp_path: Path, installed: Path) -> None:
    """As in a Flower App Bundle, which carries no links."""
    shutil.copytree(installed / "hqde_fl", tmp_path / "hqde_fl")
    for name in ("strategies", "clients", "simulations"):
        (tmp_path / "hqde_fl" / name).rename(tmp_path / name)
    code = (
        "import hqde_fl, hqde_fl.clients\n"
        "for name in hqde_fl.__all__:\n"
        "    getattr(hqde_fl, name)\n"
        "print(hqde_fl.clients.__file__)\n"
    )
    done = run(["-c", code], tmp_path, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "clients" / "__init__.py")


def test_the_version_is_the_same_everywhere() -> None:
    version = hqde_fl.__version__
    assert f"version: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## [{version}] - " in (ROOT / "CHANGELOG.md").read_text()
    for name in ("site", "superlink"):
        manifest = (ROOT / "deploy" / "kubernetes" / f"{name}.yaml").read_text()
        assert f"image: hqde-fl:{version}\n" in manifest
