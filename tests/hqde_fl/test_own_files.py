"""The user's own files as modules: their names, clashes, changes, other processes."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from hqde_fl import own_files
from hqde_fl.errors import ConfigError, TaskError
from hqde_fl.own_modules import (
    display_name,
    import_attribute,
    own_code,
    search_in,
    searched_first,
)
from tests.simulations.command import environment


@pytest.fixture(autouse=True)
def same_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore ``sys.path`` and the folders after each test."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(own_files, "folders", [])


def test_a_file_hides_no_module_and_is_hidden_by_none(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("VALUE = 3\n")
    with searched_first(tmp_path):
        assert import_attribute("task", "json.py:VALUE") == 3
    import json

    assert not hasattr(json, "VALUE")


def test_a_changed_file_is_loaded_again(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text("VALUE = 1\n")
    first = own_files.load_file(file)
    assert own_files.load_file(file) is first
    file.write_text("VALUE = 2\n")  # of the same size, in the same second
    assert own_files.load_file(file).VALUE == 2
    assert first.VALUE == 1


def test_two_files_of_one_content(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "own.py").write_text("PLACE = __file__\n")
    places = [own_files.load_file(tmp_path / name / "own.py").PLACE for name in ("a", "b", "a")]
    assert [Path(place).parent.name for place in places] == ["a", "b", "a"]


def test_a_module_that_python_has_imported_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_imported.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    import own_imported  # type: ignore[import-not-found]

    assert own_files.load_file(tmp_path / "own_imported.py") is own_imported


def test_an_object_of_a_file_is_unpickled_in_another_process(tmp_path: Path) -> None:
    (tmp_path / "own-points.py").write_text("class Point:\n    x = 7\n")
    point = own_files.load_file(tmp_path / "own-points.py").Point()
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer).x)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        input=pickle.dumps(point),
        env=environment(PYTHONPATH=":".join([str(Path(__file__).parents[2]), str(tmp_path)])),
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"7\n"


def test_the_order_of_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("first", "added", "later", "here"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "own_order.py").write_text(f"NAME = {name!r}\n")
    monkeypatch.chdir(tmp_path / "here")

    def found() -> str:
        return str(import_attribute("task", "own_order.py:NAME"))

    assert found() == "here"
    search_in([tmp_path / "added"])
    assert found() == "added"
    search_in([tmp_path / "later"])
    assert found() == "later"
    with searched_first(tmp_path / "first"):
        assert found() == "first"
    assert import_attribute("task", f"{tmp_path}/added/own_order.py:NAME") == "added"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "x = (\n",
            r"own_bad.py raised SyntaxError: '\(' was never closed \(own_bad.py, line 1\)$",
        ),
        ("\nimport no_such_module\n", r"No module named 'no_such_module' \(own_bad.py, line 2\)$"),
        ("xs = 1\n", r"own_bad.py has no 'x': did you mean 'xs'\? \(.*own_bad.py\)$"),
    ],
)
def test_what_is_wrong_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "own_bad.py").write_text(text)
    with searched_first(tmp_path), pytest.raises(ConfigError, match=message) as error:
        import_attribute("task", "own_bad.py:x")
    assert "\n" not in str(error.value)


def test_names_in_tables() -> None:
    assert display_name("parts/mine.py:Nearest") == "Nearest"
    assert display_name("package.mine:Nearest") == "Nearest"
    assert display_name("parts/mine.py:task") == "mine:task"
    assert display_name("krum") == "krum"


def test_only_errors_of_the_users_code_become_one_line(tmp_path: Path) -> None:
    (tmp_path / "own_error.py").write_text("def fail():\n    return [][1]\n")
    fail = own_files.load_file(tmp_path / "own_error.py").fail
    with (
        pytest.raises(
            TaskError, match=r"^rule x raised IndexError: .* \(own_error.py, .*in fail\)$"
        ),
        own_code("rule x"),
    ):
        fail()
