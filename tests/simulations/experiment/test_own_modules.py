"""The user's own modules are found beside the experiment and hide nothing."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import tomli_w

from hqde_fl import own_files
from hqde_fl.errors import ConfigError
from hqde_fl.simulations.engines.flower.app_writer import write_app
from hqde_fl.simulations.experiment import import_path, own_modules
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.run import run_experiment
from hqde_fl.simulations.sweep import Sweep
from tests.simulations.command import call, environment
from tests.simulations.conftest import TINY

TASK = """
from pathlib import Path
import own_helper
from hqde_fl.simulations.tasks.digits import Digits
from hqde_fl.simulations.tasks.partition import PARTITIONERS


def task(partitions, seed, partition):
    return Digits(hidden=own_helper.HIDDEN).build(PARTITIONERS.build(partition), seed)
"""
HIDING = 'raise RuntimeError("a module of the user\'s own took the place of one of hqde-fl")\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with an experiment, its task, and modules named like parts of hqde-fl."""
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "own_task.py").write_text(TASK)
    (folder / "own_helper.py").write_text("HIDDEN = 8\n")
    for name in ("strategies.py", "hqde_fl.py", "clients/__init__.py", "simulations/__init__.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(HIDING)
    table = {**TINY, "task": {"name": "own_task:task"}, "rounds": 1, "clients": {"count": 2}}
    (folder / "own.toml").write_text(tomli_w.dumps({**table, "strategy": {}, "faults": []}))
    return folder


@pytest.mark.parametrize(
    ("engine", "here"),
    [
        pytest.param("inline", True, marks=pytest.mark.slow),
        ("inline", False),
        pytest.param("ray", True, marks=(pytest.mark.zoo, pytest.mark.xdist_group("ray"))),
        pytest.param("flower", True, marks=(pytest.mark.slow, pytest.mark.xdist_group("ray"))),
    ],
    ids=["inline", "inline-by-path", "ray", "flower"],
)
def test_a_task_beside_the_experiment_on_every_engine(
    engine: str, here: bool, folder: Path, tmp_path: Path
) -> None:
    file = "own.toml" if here else "study/own.toml"
    out = tmp_path / "run"
    done = call("run", file, "--engine", engine, "--out", out, cwd=folder if here else tmp_path)
    assert done.returncode == 0, done.stderr
    run = Run.load(out)
    assert [line["kept"] for line in run.rounds[1:]] == [2]
    added_folders = [str(folder)] if here else [str(folder), str(tmp_path)]
    assert run.manifest["import-from"] == added_folders


@pytest.mark.slow
def test_a_run_is_resumed_from_another_folder(folder: Path, tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert call("run", "own.toml", "--out", out, cwd=folder).returncode == 0
    done = call("run", "--resume", out, "--set", "rounds=2", cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    assert [line["round"] for line in Run.load(out).rounds] == [0, 1, 2]
    assert Run.load(out).manifest["import-from"] == [str(folder), str(elsewhere)]


@pytest.mark.slow
def test_a_sweep_by_path_its_processes_and_one_of_its_cells_again(
    folder: Path, tmp_path: Path
) -> None:
    file = folder / "own.toml"
    file.write_text(file.read_text() + "[sweep]\nseeds = [1, 2]\n")
    done = call("sweep", "study/own.toml", "--out", "one", "--jobs", 2, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    moved = folder.rename(tmp_path / "moved")
    keys = {cell.key for cell in Sweep.load(moved / "own.toml").cells}
    cells = [*(tmp_path / "one" / "cells").iterdir()]
    assert {cell.name for cell in cells} == keys  # where it is run from is no part of it
    again = call("run", "--resume", cells[0], "--set", "rounds=2", cwd=moved)
    assert again.returncode == 0, again.stderr


@pytest.mark.slow
def test_dry_runs_and_missing_modules_or_attributes(folder: Path, tmp_path: Path) -> None:
    assert call("run", "study/own.toml", "--dry-run", cwd=tmp_path).returncode == 0
    gone = call("run", "study/own.toml", "--set", "task.name=nowhere:task", cwd=tmp_path)
    assert gone.returncode == 2
    assert gone.stderr.count("\n") == 1
    assert "task 'nowhere:task': there is no module 'nowhere': it is not installed, nor in " in (
        gone.stderr
    )
    assert f"{folder}, {tmp_path}\n" in gone.stderr
    other = call("run", "study/own.toml", "--set", "task.name=own_task:tsk", cwd=tmp_path)
    assert "module 'own_task' has no 'tsk'" in other.stderr
    assert str(folder / "own_task.py") in other.stderr


@pytest.mark.slow
def test_an_error_of_the_users_module_is_one_line_with_its_place(folder: Path) -> None:
    (folder / "own_helper.py").write_text("HIDDEN = 1 / 0\n")
    done = call("run", "own.toml", "--dry-run", cwd=folder)
    assert done.returncode == 2
    assert done.stderr == (
        "error: task 'own_task:task': module 'own_task' raised ZeroDivisionError: division by zero "
        "(own_helper.py, line 1)\n"
    )


@pytest.mark.slow
def test_a_strategy_to_audit_beside_modules_that_hide(folder: Path) -> None:
    text = "from hqde_fl.strategies.presets import median\n\n\ndef make():\n    return median()\n"
    (folder / "own_strategy.py").write_text(text)
    (folder / "pickle.py").write_text(HIDING)  # nor anything of the standard library
    done = call("audit", "own_strategy:make", "--rows", "one-nan", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed 1 of 1 rows" in done.stdout


# --- in this process ------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def same_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore ``sys.path`` after each test."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(own_files, "folders", [])


def test_folders_come_last_and_once(tmp_path: Path) -> None:
    before = list(sys.path)
    own_modules.add_folder_of(tmp_path / "a" / "x.toml", [str(tmp_path / "b")])
    own_modules.add_folders([tmp_path / "a", sys.path[1]])
    here = [] if str(Path.cwd()) in before else [str(Path.cwd())]
    assert sys.path == [*before, str(tmp_path / "a"), str(tmp_path / "b"), *here]


def test_a_program_keeps_its_own_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of its task is recorded, so that the command line can resume the run."""
    (tmp_path / "own_program_task.py").write_text(TASK.replace("import own_helper\n", ""))
    text = (tmp_path / "own_program_task.py").read_text().replace("own_helper.HIDDEN", "8")
    (tmp_path / "own_program_task.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    before = list(sys.path)
    experiment = Experiment.parse({**TINY, "task": "own_program_task:task", "rounds": 1})
    run_experiment(experiment, tmp_path / "run", report=False)
    assert sys.path == before
    assert Run.load(tmp_path / "run").manifest["import-from"] == [str(tmp_path)]


def test_a_built_in_task_leaves_no_folders(tmp_path: Path, tiny: Experiment) -> None:
    own_modules.add_folders([tmp_path])
    run_experiment(tiny, tmp_path / "run", report=False)
    assert "import-from" not in json.loads((tmp_path / "run" / "manifest.json").read_text())


def test_installed_folders_are_not_the_users_own(tmp_path: Path) -> None:
    assert import_path.own_folders([json.__file__, pytest.__file__, str(tmp_path)]) == [
        str(tmp_path)
    ]


def test_a_process_on_this_machine_has_the_same_order(tmp_path: Path) -> None:
    described = import_path.describe_path()
    mine = list(sys.path)
    sys.path[:] = [str(tmp_path), *reversed(mine)]  # as Ray puts the working directory first
    import_path.adopt_path(described)
    assert sys.path == [*dict.fromkeys(mine), str(tmp_path)]


def test_a_process_elsewhere_appends_folders_that_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sys.path += [str(tmp_path), "/not/there"]
    described = import_path.describe_path()
    monkeypatch.setattr(socket, "gethostname", lambda: "another")
    sys.path[:] = [described["first"][0], "/usr/lib/theirs"]
    import_path.adopt_path(described)
    assert sys.path[0] == "/usr/lib/theirs"
    assert str(tmp_path) in sys.path[1:]
    assert described["first"][0] in sys.path[1:]
    assert "/not/there" not in sys.path


def test_a_generated_app_carries_the_file_and_a_name_of_its_own(tmp_path: Path) -> None:
    write_app(tmp_path / "app", {"config": "{}"}, name="hqde-fl-run-1")
    package = tmp_path / "app" / "hqde_fl_run"
    carried = (package / "import_path.py").read_text()
    assert carried == Path(import_path.__file__).read_text()
    assert 'name = "hqde-fl-run-1"' in (tmp_path / "app" / "pyproject.toml").read_text()
    text = (package / "__init__.py").read_text()  # imported before both components
    assert text.index("adopt_path(_SETTINGS") < text.index("from hqde_fl.simulations")
    settings = json.loads((package / "settings.json").read_text())
    assert settings["path"] == import_path.describe_path()


def test_a_malformed_name_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"task 'a b:c' must read package\.module:attribute or FILE\.py"
    ):
        own_modules.import_attribute("task", "a b:c")


@pytest.mark.slow
def test_the_apps_of_flwr_run_search_the_folder_of_their_file(folder: Path) -> None:
    """The ServerApp and the ClientApps of ``flwr run .``, in another process."""
    code = (
        "from hqde_fl.simulations import client_app, server_app\n"
        "from hqde_fl.simulations.engines.inline import InlineGrid\n"
        f"config = {{'experiment': {str(folder / 'own.toml')!r}, 'set': '', 'out': 'run'}}\n"
        "grid = InlineGrid(client_app.app, 2, config)\n"
        "server_app.serve_run_config(grid, config)\n"
    )
    elsewhere = folder / "clients"
    command = [sys.executable, "-P", "-c", code]
    subprocess.run(command, cwd=elsewhere, env=environment(), check=True)
    assert [line["kept"] for line in Run.load(elsewhere / "run").rounds[1:]] == [2]
