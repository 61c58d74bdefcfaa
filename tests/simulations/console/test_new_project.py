"""``hqde-fl init`` writes a project that runs at once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.console.new_project import FILES, write_project
from hqde_fl.simulations.recording.recorded_run import Run
from tests.simulations.command import call


@pytest.mark.slow
def test_its_experiment_sweep_and_test_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = call("init", "new", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "hqde-fl run new/experiment.toml" in done.stdout
    assert sum(text.count("\n") for text in FILES.values()) < 75
    done = call("run", "new/experiment.toml", "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(Run.load(tmp_path / "run").rounds) == 6
    plan = call("sweep", "new/sweep.toml", "--dry-run", cwd=tmp_path)
    assert plan.returncode == 0, plan.stderr
    assert "12 cells" in plan.stdout
    monkeypatch.syspath_prepend(tmp_path / "new")
    names: dict[str, object] = {}
    exec(compile(FILES["test_mine.py"], "test_mine.py", "exec"), names)
    names["test_the_longest_update_does_not_count"]()  # type: ignore[operator]
    sys.modules.pop("mine")


def test_a_directory_that_holds_anything_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    for place in (tmp_path, tmp_path / "x"):
        with pytest.raises(ConfigError, match="not an empty directory: choose another DIR"):
            write_project(place)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
