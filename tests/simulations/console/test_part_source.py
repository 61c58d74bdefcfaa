"""What the source of a part says is what the class is."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from pathlib import Path

import pytest

from hqde_fl.clients.training_settings import OPTIMIZERS
from hqde_fl.errors import ConfigError
from hqde_fl.registry import Registry
from hqde_fl.simulations.console.kinds import KINDS, TABLES
from hqde_fl.simulations.console.part_source import (
    Description,
    describe,
    parameter_meanings,
)

PARTS = {
    f"{kind.name} {name}": (kind.registry, name)
    for kind in KINDS.values()
    if kind.registry is not None
    for name in kind.registry
}


def check(found: Description, cls: type) -> None:
    """Check a description against the class itself."""
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    assert list(found.parameters) == list(fields)
    assert found.docstring == inspect.getdoc(cls)
    for name, field in fields.items():
        text = found.parameters[name].default
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if default is dataclasses.MISSING:
            assert text is None
        else:
            assert text is not None
            names = {
                k: v for base in cls.__mro__ for k, v in vars(sys.modules[base.__module__]).items()
            }
            assert eval(text, names) == default


@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_as_its_source_says(part: str) -> None:
    registry, name = PARTS[part]
    assert isinstance(registry, Registry)
    found = describe(registry.reference(name))
    check(found, registry[name])
    assert found.summary == registry.summary(name)
    assert found.summary.endswith(".")
    assert all(parameter.meaning for parameter in found.parameters.values()), part


@pytest.mark.parametrize("table", TABLES)
def test_a_table_is_as_its_source_says(table: str) -> None:
    module, _, name = TABLES[table].partition(":")
    found = describe(TABLES[table])
    check(found, getattr(__import__(module, fromlist=[name]), name))


def test_words_are_those_of_the_code() -> None:
    assert sorted(OPTIMIZERS) == [*KINDS["optimizers"]]


def test_meanings_of_parameters() -> None:
    docstring = """Summary.

    Parameters
    ----------
    a, b : int
        Both
        of them.
    c : str
        One.

    Raises
    ------
    ValueError
        Never.
    """
    assert parameter_meanings(inspect.cleandoc(docstring)) == {
        "a": "Both of them.",
        "b": "Both of them.",
        "c": "One.",
    }


def test_a_file_of_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\nimport no_such_module\n\nLOW = 0.5\n\n\n"
        '@dataclass\nclass Own:\n    """Own."""\n\n    low: float = LOW\n    name: str\n'
    )
    found = describe(f"{tmp_path}/mine.py:Own")
    assert [(p.key, p.type, p.default) for p in found.parameters.values()] == [
        ("low", "float", "0.5"),
        ("name", "str", None),
    ]
    for wrong in (f"{tmp_path}/mine.py:Other", f"{tmp_path}/none.py:Own", "no_such_module:Own"):
        with pytest.raises(ConfigError, match="there is no class"):
            describe(wrong)


def test_functions_and_classes_without_a_docstring(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import dataclass\n\n\n@dataclass\nclass Plain:\n    f: int\n\n\n"
        "def task(partitions, *, noise: float = 2.0):\n    return None\n"
    )
    assert [*describe(f"{file}:Plain").parameters] == ["f"]
    found = describe(f"{file}:task").parameters
    assert [(p.name, p.type, p.default) for p in found.values()] == [
        ("partitions", "", None),
        ("noise", "float", "2.0"),
    ]
