"""Pages of reference say all that there is, and nothing that there is not."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import signal
import tarfile
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from hqde_fl import errors
from hqde_fl.errors import HQDEError
from hqde_fl.monitor import schema
from hqde_fl.monitor.task_counters import TaskCount
from hqde_fl.simulations import catalogue
from hqde_fl.simulations.attacks import Attack, AttackerKnowledge
from hqde_fl.simulations.checkpoint.store import REFUSED
from hqde_fl.simulations.console.command_line import Commands, app
from hqde_fl.simulations.console.interruption import SIGNALS, exit_status
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording import file_names
from hqde_fl.simulations.run import run_experiment
from hqde_fl.simulations.sweep import Sweep, run_sweep
from hqde_fl.strategies.callbacks import ClientRecord, RoundRecord
from tests.documents import ROOT, codes_in, first_codes, rows_of, sections_of

ERRORS, DIRECTORIES = "docs/errors.md", "docs/run-directory.md"
ATTACKS = "docs/attacks.md"
PACKAGES = ("hqde_fl", "clients", "strategies", "simulations")


# --- errors.md ---------------------------------------------------------------------------------


@cache
def modules() -> dict[str, ast.Module]:
    """Return module -> its syntax, of all packages."""
    trees = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if not any(parent.is_symlink() for parent in path.parents):
                name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                name = name if name.startswith("hqde_fl") else f"hqde_fl.{name}"
                trees[name.removesuffix(".__init__")] = ast.parse(path.read_text())
    return trees


def error_classes() -> dict[str, type[HQDEError]]:
    """Return name -> class of all errors that derive from ``HQDEError``, wherever they are."""
    known = {
        name: value
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, HQDEError)
    }
    for module, tree in modules().items():
        for node in ast.walk(tree):
            bases = node.bases if isinstance(node, ast.ClassDef) else []
            if any(isinstance(base, ast.Name) and base.id in known for base in bases):
                name = node.name
                known[name] = known.get(name) or getattr(importlib.import_module(module), name)
    return known


def test_every_error_class_is_listed() -> None:
    (section,) = (part for part in sections_of(ERRORS) if part.title == "Classes")
    listed = first_codes(ERRORS, "Classes")
    here = [name for name, value in error_classes().items() if value.__module__ == errors.__name__]
    assert sorted(listed) == sorted(here)
    assert not [name for name in error_classes() if f"`{name}`" not in section.text]
    for row in rows_of(ERRORS, "Classes"):
        (name,), bases = codes_in(row[:1]), codes_in(row[1:2])
        assert bases == [base.__name__ for base in getattr(errors, name).__bases__], name


def status_after(error: BaseException) -> int:
    """Return the exit status of a command that ends with an error."""
    failing = typer.Typer(cls=Commands)

    @failing.callback()
    def options() -> None:
        """Do nothing."""

    @failing.command()
    def fail() -> None:
        raise error

    return CliRunner().invoke(failing, ["fail"]).exit_code


def test_the_exit_statuses_are_those_of_the_commands() -> None:
    for row in rows_of(ERRORS, "Classes"):
        (name,) = codes_in(row[:1])
        cls = getattr(errors, name)
        made = cls.__new__(cls)  # without the arguments, which differ
        assert int(row[2]) == status_after(made), name
    statuses = {row[0] for row in rows_of(ERRORS, "Exit statuses") if row[0].isdigit()}
    assert statuses == {"0", "1", "2", *(str(exit_status(number)) for number in SIGNALS)}
    named = {row[1][:7]: row[0] for row in rows_of(ERRORS, "Exit statuses")}
    for number in SIGNALS:
        name = signal.Signals(number).name
        assert any(text.startswith(name[:7]) for text in named), name
    assert status_after(OSError(2, "No such file")) == 1


def command_functions() -> dict[str, Any]:
    """Return name -> function of each command of ``hqde-fl``, of ``nodes`` with this word."""
    commands = dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    nodes = commands.pop("nodes").commands
    named = commands | {f"nodes {name}": command for name, command in nodes.items()}
    return {name: inspect.unwrap(command.callback) for name, command in named.items()}


def test_every_command_is_listed_and_those_that_exit_with_1() -> None:
    rows = [row for row in rows_of(ERRORS, "Exit statuses") if row[0].startswith("`")]
    listed = codes_in([row[0] for row in rows])
    commands = command_functions()
    assert sorted(listed) == sorted(commands)
    assert all(row[1].strip() for row in rows)
    own = {code for row in rows if row[1].strip() != "never" for code in codes_in(row[:1])}
    own.remove("nodes start")  # it becomes another program
    exits = {name for name, call in commands.items() if "Exit(1)" in inspect.getsource(call)}
    assert own == exits | {"run", "replay"}


@cache
def texts() -> tuple[str, ...]:
    """Return the string constants of all packages, f-strings without what is put into them."""
    constants = []
    for tree in modules().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                constants.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = [v.value if isinstance(v, ast.Constant) else "..." for v in node.values]
                constants.append("".join(str(part) for part in parts))
    return tuple(constants)


def messages() -> Iterator[str]:
    for title in ("Before a run: exit status 2", "During a run: exit status 1"):
        yield from first_codes(ERRORS, title)


@pytest.mark.parametrize("message", list(messages()))
def test_a_message_is_one_of_the_code(message: str) -> None:
    for part in re.split(r"\.\.\.", message):
        part = part.strip(" ,")
        assert len(part) < 2 or any(part in text for text in texts()), part


# --- run-directory.md --------------------------------------------------------------------------

SMALL = {"seed": 7, "task": {"name": "digits", "hidden": 4}, "engine": {"name": "inline"}}
PACKED = {"name": "error-feedback", "inner": {"name": "quantized", "bits": 4, "unbiased": False}}
RUNS: dict[str, dict[str, Any]] = {
    "tree": {
        "rounds": 2,
        "task": {"name": "digits", "hidden": 4, "validation": 0.1},
        "clients": {"count": 6, "speed": {"name": "log-uniform"}},
        "strategy": {
            "rule": {"name": "tree", "leaf": "median", "root": "median", "fanout": 3},
            "codec": PACKED,
        },
        "faults": [{"name": "sign-flip", "count": 1}],
        "stopping": {"target": 0.01},
        "metrics": {"honest-mean": True},
    },
    "edges": {"rounds": 1, "clients": {"count": 4}, "edges": {"groups": 2, "rounds": 2}},
    "private": {
        "rounds": 1,
        "clients": {"count": 8},
        "strategy": {"rule": "mean", "selector": {"name": "poisson", "fraction": 0.5}},
        "privacy": {"noise-multiplier": 1.0, "delta": 1e-5, "clipping-norm": 0.5},
    },
    "ensemble": {
        "rounds": 1,
        "clients": {"count": 4, "members": 3, "voters": 2},
        "strategy": {"held-out": 20},
    },
    "secure": {
        "rounds": 1,
        "clients": {"count": 6},
        "strategy": {"rule": "median", "secure-aggregation": {"bucket": 3, "threshold": 3}},
    },
}
ELSEWHERE = {
    "manifest.json": {
        *("import-from", "memory-mib", "privacy-of-clients", "published-at", "wall-seconds"),
    },
    "sweep.json": set(),
}
"""Record -> keys of the page that none of ``RUNS`` has; each is looked for in the code."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the directories of ``RUNS`` and of a sweep."""
    folder = tmp_path_factory.mktemp("runs")
    for name, table in RUNS.items():
        run_experiment(Experiment.parse({**SMALL, "name": name, **table}), folder / name)
    document = {
        **SMALL,
        "name": "sweep",
        "rounds": 1,
        "clients": {"count": 3},
        "sweep": {"rule": ["mean", "median"], "metric": "loss"},
    }
    run_sweep(Sweep.parse(document, "sweep.toml"), folder / "sweep")
    return folder


def matches(path: str, patterns: list[str]) -> bool:
    """Return True if a pattern of the page stands for a file, or for a folder around it."""
    for pattern in patterns:
        text = re.escape(pattern).replace(r"\*", "[^/]*").replace("NNNNNN", r"\d{6}")
        text = re.sub(r"\b(KEY|NAME|N)\b", "[^/]+", text)
        if re.fullmatch(text + (".*" if pattern.endswith("/") else ""), path):
            return True
    return False


def unlisted(folder: Path, patterns: list[str]) -> list[str]:
    """Return the files of a folder that no pattern stands for."""
    files = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    assert files
    return [file for file in files if not matches(file, patterns)]


def test_every_file_of_a_run_and_a_sweep_is_listed(runs: Path) -> None:
    of_run, of_sweep = first_codes(DIRECTORIES, "A run"), first_codes(DIRECTORIES, "A sweep")
    for name in RUNS:
        assert unlisted(runs / name, of_run) == [], name
    assert unlisted(runs / "sweep", of_sweep) == []
    for cell in (runs / "sweep" / "cells").iterdir():
        assert unlisted(cell, of_run) == []
    constants = [value for name, value in vars(file_names).items() if name.isupper()]
    names = [value for value in constants if isinstance(value, str)]
    assert [name for name in names if name not in (*of_run, *of_sweep)] == []
    assert f"checkpoint/*{REFUSED}" in of_run


def keys_of(file: Path) -> set[str]:
    """Return the top-level keys of the records in a file."""
    if file.suffix == ".json":
        return set(json.loads(file.read_text()))
    return {key for line in file.read_text().splitlines() for key in json.loads(line)}


@pytest.mark.parametrize(
    "name",
    [
        *("manifest.json", "rounds.jsonl", "clients.jsonl", "edges.jsonl", "tree.jsonl"),
        *("privacy.jsonl", "sweep.json"),
    ],
)
def test_every_key_of_a_record_is_described(runs: Path, name: str) -> None:
    described = first_codes(DIRECTORIES, name)
    assert len(set(described)) == len(described)
    written = set().union(*map(keys_of, runs.rglob(name)))
    assert written - set(described) == set()
    missing = set(described) - written - ELSEWHERE.get(name, set())
    assert missing <= fields_of(name), missing
    for key in ELSEWHERE.get(name, ()):
        assert any(key in text for text in texts()), key


def fields_of(name: str) -> set[str]:
    """Return the keys that a record always has, by its class."""
    classes = {"rounds.jsonl": RoundRecord, "clients.jsonl": ClientRecord}
    return {f.name.replace("_", "-") for f in fields(classes[name])} if name in classes else set()


def test_the_keys_of_the_pool_are_described() -> None:
    expected = {"round", *(field.name for field in fields(TaskCount))}
    assert set(first_codes(DIRECTORIES, "pool.jsonl")) == expected


def test_the_records_of_the_monitor_are_described(runs: Path) -> None:
    rows = {
        codes_in(row[:1])[0]: codes_in(row[1:]) for row in rows_of(DIRECTORIES, "monitor.jsonl")
    }
    rows.pop("kind", None)
    kinds = {cls.kind: cls for cls in schema.Record.__subclasses__()}
    assert set(rows) == set(kinds)
    of_gpus = {field.name.replace("_", "-") for field in fields(schema.Gpu)}
    for kind, cls in kinds.items():
        keys = {field.name.replace("_", "-") for field in fields(cls)}
        keys = keys - {"time"} | ({"start"} if kind == "span" else {"time"})
        assert set(rows[kind]) == keys | (of_gpus if kind == "sample" else set()), kind
    for file in runs.rglob("monitor.jsonl"):
        for line in file.read_text().splitlines():
            record = json.loads(line)
            assert set(record) - {"kind"} <= set(rows[record["kind"]])


def test_every_file_of_a_federation_is_listed(tmp_path: Path) -> None:
    runner = CliRunner()
    for words in (
        ["init", str(tmp_path / "fed"), "--edges", "1", "--per-edge", "1"],
        ["bundle", str(tmp_path / "fed"), "node-0", "--out", str(tmp_path / "node-0.tar.gz")],
    ):
        done = runner.invoke(app, ["nodes", *words])
        assert done.exit_code == 0, done.output
    listed = first_codes(DIRECTORIES, "A federation")
    of_node = first_codes(DIRECTORIES, "The folder of a node")
    of_link = codes_in([r[1] for r in rows_of(DIRECTORIES, "A federation") if "superlink/" in r[0]])
    for folder in (tmp_path / "fed", tmp_path / "fed" / "edge-0"):
        assert unlisted(folder, listed) == []
        assert unlisted(folder / "node-0", of_node) == []
        assert unlisted(folder / "superlink", of_link) == []
    with tarfile.open(tmp_path / "node-0.tar.gz") as bundle:
        names = {Path(member.name).name for member in bundle.getmembers() if member.isfile()}
    assert names == set(of_node)


# --- attacks.md --------------------------------------------------------------------------------


def test_all_that_attackers_know_is_described():
    """Every field and method of their knowledge, and nothing else."""
    known = [field.name for field in fields(AttackerKnowledge)]
    methods = [name for name in vars(AttackerKnowledge) if not name.startswith("_")]
    named = first_codes(ATTACKS, "What attackers know")
    assert sorted(named) == sorted(dict.fromkeys([*known, *methods]))


def test_all_that_an_attack_implements_is_described():
    named = first_codes(ATTACKS, "What it implements")
    assert sorted(named) == sorted(name for name in vars(Attack) if not name.startswith("_"))


def test_every_colluding_attack_has_a_row_with_its_parameters():
    documented = {
        name: set(codes_in([row[4]]))
        for row in rows_of(ATTACKS, "Colluding attacks")
        for name in codes_in([row[1]])
    }
    assert documented == {
        name: set(catalogue.ATTACKS.parameters(name)) for name in catalogue.ATTACKS
    }
