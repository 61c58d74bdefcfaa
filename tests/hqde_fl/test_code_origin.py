"""Where in the user's own code an exception was raised, and what counts as one."""

import sys
import traceback
from pathlib import Path

import pytest
import torch

from hqde_fl import code_origin, own_files
from hqde_fl.code_origin import failure_text, is_failure, is_users, origin, origin_in_text
from hqde_fl.errors import ConfigError, TaskError
from hqde_fl.own_modules import import_attribute, own_code, searched_first
from hqde_fl.simulations.console.interruption import Terminated

OWN = """
class Data:
    def __getitem__(self, index):
        return [][index]


def call(function):
    return function()
"""


class MuteError(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


def own_module(folder: Path):  # type: ignore[no-untyped-def]
    (folder / "own_origin.py").write_text(OWN)
    return own_files.load_file(folder / "own_origin.py")


@pytest.mark.parametrize(
    ("function", "place"),
    [
        (lambda m: m.Data()[3], " (own_origin.py, line 4, in __getitem__, index 3)"),
        (lambda m: m.call(lambda: torch.ones(2) @ torch.ones(3)), " (test_code_origin.py, line"),
        (lambda m: compile("x = (", "given.py", "exec"), " (given.py, line 1)"),
    ],
)
def test_the_last_frame_of_the_user_is_named(function, place, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    try:
        function(own_module(tmp_path))
    except Exception as error:
        caught, text = error, "".join(traceback.format_exception(error))
    assert origin(caught).startswith(place)
    if not isinstance(caught, SyntaxError):
        assert origin_in_text(text) == origin(caught).replace(", index 3", "")


def test_packages_of_an_environment_below_are_not_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = tmp_path / "lib" / "site-packages"
    file = str(packages / "typer" / "main.py")
    assert is_users(file)
    monkeypatch.syspath_prepend(str(packages))
    monkeypatch.setattr(code_origin, "_not_the_users", code_origin._not_the_users.__wrapped__)
    assert not is_users(file)
    assert is_users(str(tmp_path / "mine.py"))


def test_a_text_without_a_file_of_the_user_has_no_place() -> None:
    assert origin_in_text(f'File "{traceback.__file__}", line 3, in walk_tb\nOSError: gone') == ""


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (IndexError(), "IndexError"),
        (KeyError("size"), "KeyError: 'size'"),
        (MuteError(), "MuteError"),
        (SystemExit(2), "SystemExit: 2"),
    ],
)
def test_an_exception_without_a_message_is_its_type(error: BaseException, text: str) -> None:
    assert failure_text(error) == text


def test_an_exit_is_a_failure_unless_a_signal_asked_for_it() -> None:
    assert all(map(is_failure, (SystemExit(2), StopIteration())))
    assert not any(map(is_failure, (Terminated(15), KeyboardInterrupt(), GeneratorExit(), None)))


def test_a_module_that_reads_the_command_line_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "own_exit.py").write_text("import sys\n\nsys.exit(2)\n")
    message = r"^task 'own_exit.py:x': own_exit.py raised SystemExit: 2 \(own_exit.py, line 3\)$"
    with searched_first(tmp_path), pytest.raises(ConfigError, match=message):
        import_attribute("task", "own_exit.py:x")


def test_a_rule_that_exits_is_one_line_and_ctrl_c_is_none() -> None:
    message = r"^rule x raised SystemExit: 3 \(test_code_origin.py"
    with pytest.raises(TaskError, match=message), own_code("rule x"):
        sys.exit(3)
    with pytest.raises(KeyboardInterrupt), own_code("rule x"):
        raise KeyboardInterrupt
