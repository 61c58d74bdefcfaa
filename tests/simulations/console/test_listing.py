"""``hqde-fl list``, ``explain`` and ``--help``: complete, and without slow imports."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from typer.testing import CliRunner

from hqde_fl import registry
from hqde_fl.rules import RULES
from hqde_fl.simulations.console.command_line import app
from hqde_fl.simulations.console.kinds import KINDS, keys
from hqde_fl.simulations.console.listing import toml_text, type_text
from tests.simulations.command import entry_point, environment

SLOW = ("torch", "flwr", "ray", "pandas", "matplotlib", "sklearn")


@pytest.mark.parametrize(
    "arguments",
    [
        ("list",),
        ("explain", "krum"),
        ("--help",),
        ("list", "keys"),
        ("reference",),
        ("run", "--help"),
    ],
    ids=" ".join,
)
def test_it_imports_nothing_slow(arguments: tuple[str, ...], tmp_path: Path) -> None:
    code = (
        f"import atexit, sys; slow = {SLOW}\n"
        "atexit.register(lambda: print(*(m for m in slow if m in sys.modules), file=sys.stderr))\n"
        f"sys.argv[1:] = {list(arguments)}\n" + entry_point()
    )
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stderr == "\n"
    assert done.stdout


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return result.output


def test_everything_is_listed() -> None:
    output = invoke("list")
    for kind in KINDS.values():
        assert kind.name in output
        assert all(name in output for name in kind)
    assert all(key in output for key in keys())


def test_one_kind_alone_and_an_unknown_one() -> None:
    output = invoke("list", "votes")
    assert "soft-vote" in output
    assert "krum" not in output
    result = CliRunner().invoke(app, ["list", "vote"])
    assert result.exit_code == 2
    assert "did you mean 'votes'" in result.output


def test_a_part_is_explained() -> None:
    output = " ".join(invoke("explain", "krum").split())
    assert "krum, a rule" in output
    assert "arXiv:1703.02757" in output  # of its module's docstring
    assert "f: integer, required Faulty clients to tolerate." in output
    assert '[strategy] rule = { name = "krum", f = 1 }' in output


def test_a_name_of_two_kinds_and_keys() -> None:
    output = invoke("explain", "adam")
    assert "adam, a server optimizer" in output
    assert "adam, an optimizer" in output
    output = " ".join(invoke("explain", "quorum").split())
    assert "strategy.quorum, a key of [strategy]" in output
    assert "integer, default 0" in output
    assert "Names: adam" in " ".join(invoke("explain", "clients.optimizer").split())


def test_an_unknown_name_suggests_a_near_one() -> None:
    for name, near in (("krumm", "krum"), ("strategy.qorum", "strategy.quorum")):
        result = CliRunner().invoke(app, ["explain", name])
        assert result.exit_code == 2
        assert f"did you mean {near!r}" in result.output


def test_parts_of_an_installed_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "plugin_of_a_test.py").write_text(
        "from dataclasses import dataclass\nfrom hqde_fl.rules import Mean\n\n\n"
        '@dataclass(frozen=True)\nclass Own(Mean):\n    """A mean of its own."""\n'
    )
    points = {
        "own": EntryPoint("own", "plugin_of_a_test:Own", "hqde_fl.rules"),
        "krum": EntryPoint("krum", "plugin_of_a_test:Own", "hqde_fl.rules"),
        "gone": EntryPoint("gone", "no_such_package:Own", "hqde_fl.rules"),
    }
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_plugins", lambda: {"hqde_fl.rules": points})
    with pytest.warns(UserWarning, match="rule 'gone' is left out: there is no class") as warned:
        output = invoke("list", "rules")
    assert len([w for w in warned if "left out" in str(w.message)]) == 1
    assert "A mean of its own." in output
    assert type(RULES.build("own")).__name__ == "Own"
    assert type(RULES.build({"name": "krum", "f": 1})).__name__ == "Krum"
    with pytest.raises(registry.ConfigError, match=r"^rule 'gone': ModuleNotFoundError: No"):
        RULES.build("gone")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("None", ""),
        ("True", "true"),
        ("1 / 3", "0.3333"),
        ("('mad',)", '["mad"]'),
        ("{'name': 'mean', 'weighted': True}", '{ name = "mean", weighted = true }'),
        ("{}", "{}"),
        ("Mean()", "Mean"),
        ("1e-08", "1e-08"),
        (None, ""),
    ],
)
def test_defaults_as_a_file_has_them(source: str | None, text: str) -> None:
    assert toml_text(source) == text


def test_types_as_a_file_has_them() -> None:
    assert type_text("Literal['all', 'random']") == '"all" or "random"'
    assert type_text("float | Literal['auto']") == 'number or "auto"'
    assert type_text("int | None") == "integer"


def test_a_package_is_found_by_its_metadata(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    metadata = tmp_path / "plugin-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Name: plugin\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[hqde_fl.votes]\nown = no_such_package:Own\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    registry._plugins.cache_clear()
    try:
        assert "own" in [*KINDS["votes"]]
        assert KINDS["votes"].registry is not None
        assert KINDS["votes"].registry.reference("own") == "no_such_package:Own"
    finally:
        registry._plugins.cache_clear()


@pytest.mark.parametrize("registry", [kind.registry for kind in KINDS.values() if kind.registry])
def test_a_file_can_name_every_part(registry: registry.Registry[Any]) -> None:
    for name in registry:
        get_type_hints(registry[name])  # a file's values are checked against them
