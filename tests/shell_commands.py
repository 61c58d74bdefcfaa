"""Check the commands in documents by the parsers of the programs that they call, without a run."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import click
import flwr
import typer
from flwr.cli.app import app as flower_app

from hqde_fl.simulations.attack_search.setting import searched_experiment
from hqde_fl.simulations.audit.audited_strategies import build_strategy
from hqde_fl.simulations.audit.strategy_audit import select_rows
from hqde_fl.simulations.console.command_line import app
from hqde_fl.simulations.console.kinds import KINDS
from hqde_fl.simulations.console.listing import explain
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.experiment.overrides import read_toml
from hqde_fl.simulations.experiment.shipped import experiment_file_of
from hqde_fl.simulations.sweep import Sweep
from tests.documents import ROOT

FOREIGN = {
    *("cat", "cd", "chmod", "chown", "cmp", "cp", "echo", "export", "git", "mkdir", "mv", "nano"),
    *("npm", "ray", "sed", "sleep", "source", "su", "systemctl", "tar", "useradd"),
}
"""Programs of others, whose arguments are not checked."""

PLACEHOLDERS = {"run_vectors.py", "check.sh", "/etc/hqde-fl/check.sh"}
"""Scripts that the project writes or ships under another path."""

PLACE_OF_COMMAND = re.compile(r"[A-Z]+|\.{3}")
"""A word that stands for a command."""

ASSIGNMENT = re.compile(r"([A-Z][A-Z0-9_]*)=(.*)")


def commands_in(text: str, *, console: bool = False) -> Iterator[tuple[list[str], bool]]:
    """Yield the words of each command in a shell block, and whether it is refused as it says.

    In a console block these are the lines after ``$``; the others are output.
    """
    lines = iter(re.sub(r"\\\n\s*", " ", text).splitlines())
    for line in lines:
        if console and not line.startswith("$ "):
            continue
        line = line.removeprefix("$ ") if console else line
        while (words := words_of(line)) is None:  # a quotation over several lines
            line += "\n" + next(lines)
        if words[:1] in (["for"], ["done"]):
            continue
        if words[:1] == ["until"]:  # until COMMAND; do sleep 3; done
            words = [word.rstrip(";") for word in words[1 : words.index("do")]]
        ends = [place for place, word in enumerate(words) if word in (">", "|", "&")]
        words = words[: min(ends, default=len(words))]
        while "&&" in words:
            yield words[: words.index("&&")], False
            words = words[words.index("&&") + 1 :]
        if words:
            yield words, "# fails: exit status 2" in line


def words_of(line: str) -> list[str] | None:
    """Return the words of a line, or None if a quotation does not end in it."""
    try:
        return shlex.split(line, comments=True)
    except ValueError:
        return None


def check(words: Sequence[str], folder: Path) -> None:
    """Check one command; ``folder`` has the files that the page shows.

    Raises
    ------
    AssertionError
        If the program is none that is known here, or a file, target or option does not exist.
    ClickException, ConfigError
        If the parser of the program refuses the arguments.
    """
    words = list(words)
    while words and (assigned := ASSIGNMENT.fullmatch(words[0])):
        if assigned[1].startswith("HQDE_FL_"):
            assert is_read_somewhere(assigned[1]), f"nothing reads the variable {assigned[1]}"
        words.pop(0)
    if not words:
        return
    program, arguments = Path(words[0]).name, words[1:]
    if program in FOREIGN:
        if program == "export":
            check(arguments, folder)
        return
    assert program in PROGRAMS, f"unknown program {words[0]!r}"
    PROGRAMS[program](arguments, folder)


@cache
def is_read_somewhere(variable: str) -> bool:
    """Return True if the package's code names an environment variable."""
    roots = (ROOT / name for name in ("hqde_fl", "clients", "strategies", "simulations"))
    return any(variable in path.read_text() for root in roots for path in root.rglob("*.py"))


def _hqde_fl(arguments: Sequence[str], folder: Path) -> None:
    context = parsed(typer.main.get_command(app), "hqde-fl", arguments)
    given, name = context.params, context.info_name
    if name in ("run", "sweep", "doctor"):
        check_experiment(given.get("file"), given.get("set_") or (), folder, sweep=name == "sweep")
        if given.get("engine") is not None:
            assert given["engine"] in KINDS["engines"], given["engine"]
    elif name == "attack-search":
        file = given["file"]
        path = None if file is None or not (ROOT / file).exists() else ROOT / file
        searched_experiment(given["rule"], path, given["set_"] or (), given["f"])
    elif name == "audit":
        for strategy in given["strategies"]:
            if ":" not in strategy:  # else a module of the reader's own
                build_strategy(strategy)
        select_rows(given["rows"] or ())
    elif name == "explain":
        explain(given["name"])
    elif name == "list":
        assert given["what"] is None or given["what"] in {*KINDS, "keys"}, given["what"]


def subcommand(
    command: click.Command, name: str, words: Sequence[str]
) -> tuple[click.Command, str, list[str]]:
    """Return the command that words name below another one, its name, and the other words."""
    rest = list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        if PLACE_OF_COMMAND.fullmatch(rest[0]):
            break
        name = rest.pop(0)
        below = command.get_command(click.Context(command), name)
        assert below is not None, f"no command {name!r}"
        command = below
    return command, name, rest


def parsed(command: click.Command, name: str, arguments: Sequence[str]) -> click.Context:
    """Return the context of a command with these arguments parsed, and nothing run."""
    command, name, rest = subcommand(command, name, arguments)
    return command.make_context(name, rest)


def check_experiment(
    file: Any, overrides: Sequence[str], folder: Path, *, sweep: bool = False
) -> None:
    """Check that an experiment's file accepts overrides; one that is only a name is empty."""
    if file is None:
        Experiment.parse({}, [key for key in overrides if not key.startswith("rounds=")])
        return
    path = next((place / file for place in (folder, ROOT) if (place / file).exists()), None)
    if path is None and not Path(file).suffix:
        path = experiment_file_of(file)
    if path is None:
        assert not str(file).startswith("experiments/"), f"there is no {file}"
        Experiment.parse({}, overrides)
    elif sweep:
        assert Sweep.load(path, overrides).cells
    elif "sweep" in read_toml(path):
        raise AssertionError(f"{file} has a [sweep] table")
    else:
        Experiment.load(path, overrides)


def _flwr(arguments: Sequence[str], folder: Path) -> None:
    context = parsed(typer.main.get_command(flower_app), "flwr", arguments)
    if context.info_name != "run":
        return
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    given: dict[str, Any] = {}
    for text in context.params["run_config_overrides"] or ():
        for found in re.finditer(r"([\w.-]+)=(\"[^\"]*\"|\S+)", text):
            given[found[1]] = found[2].strip('"')
    assert set(given) <= set(settings), f"unknown among {sorted(given)}"
    if "experiment" in given:
        check_experiment(given["experiment"], given.get("set", "").split(), folder)


def _flower_program(name: str) -> Callable[[Sequence[str], Path], None]:
    """Return the check that a program of Flower has each option, in the module of its name."""

    def check_options(arguments: Sequence[str], folder: Path) -> None:
        files = sorted(Path(flwr.__file__).parent.rglob(f"{name.replace('-', '_')}.py"))
        assert files, f"Flower has no program {name}"
        shared = files[0].parents[2] / "supercore" / "cli"
        flags_of(files[0], arguments, *sorted(shared.glob("*.py")))

    return check_options


@dataclass(frozen=True)
class Makefile:
    """The Makefile's targets with their recipes, and the variables that a caller may set."""

    targets: Mapping[str, str]
    variables: frozenset[str]

    @classmethod
    @cache
    def read(cls) -> Makefile:
        """Return the targets and variables of the repository's Makefile."""
        text = (ROOT / "Makefile").read_text()
        pattern = r"^([a-z-]+):[^=\n]*\n((?:\t.*\n)*)"
        targets = {found[1]: found[2] for found in re.finditer(pattern, text, re.MULTILINE)}
        return cls(targets, frozenset(re.findall(r"^([A-Z]+) \?=", text, re.MULTILINE)))


def _make(arguments: Sequence[str], folder: Path) -> None:
    makefile = Makefile.read()
    variables = {f[1]: f[2] for f in map(ASSIGNMENT.fullmatch, arguments) if f}
    for name in variables:
        assert name in makefile.variables, f"the Makefile has no variable {name}"
    for target in (word for word in arguments if not ASSIGNMENT.fullmatch(word)):
        assert target in makefile.targets, f"the Makefile has no target {target!r}"
        recipe = makefile.targets[target]
        if more := shlex.split(variables.get("ARGS", "")):
            program = re.search(r"\$\(BIN\)/python ((?:-m )?\S+)[^\n]*\$\(ARGS\)", recipe)
            assert program is not None, f"make {target} takes no ARGS"
            _python([*program[1].split(), *more], folder)


def _python(arguments: Sequence[str], folder: Path) -> None:
    if arguments[0] == "-m":
        module, rest = arguments[1], arguments[2:]
        if module == "venv":
            return
        if module == "pytest":
            _pytest(rest, folder)
            return
        spec = importlib.util.find_spec(module)
        assert spec is not None, f"no module {module}"
        if spec.origin is not None and Path(spec.origin).is_relative_to(ROOT):
            origin = Path(spec.origin)
            source = origin.with_name("__main__.py") if origin.name == "__init__.py" else origin
            flags_of(source, rest)
        return
    if arguments[0] in PLACEHOLDERS:
        return
    path = next((p / arguments[0] for p in (folder, ROOT) if (p / arguments[0]).exists()), None)
    assert path is not None, f"there is no {arguments[0]}"
    if path.is_relative_to(ROOT):
        flags_of(path, arguments[1:])


def flags_of(path: Path, arguments: Sequence[str], *others: Path) -> None:
    """Check that a script, other files or the benchmarks' modules that it imports know options."""
    known = options_in(path).union(*map(options_in, others))
    for word in arguments:
        if word.startswith("--"):
            assert word.partition("=")[0] in known, f"{path.name} has no option {word}"


@cache
def options_in(path: Path) -> frozenset[str]:
    """Return the options that a script and the benchmarks' modules that it imports define."""
    tree = ast.parse(path.read_text())
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr == "add_argument":
                found.update(
                    a.value
                    for a in node.args
                    if isinstance(a, ast.Constant) and isinstance(a.value, str)
                )
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("benchmarks"):
            place = ROOT.joinpath(*str(node.module).split("."))
            for file in (place.with_suffix(".py"), place / "__init__.py"):
                if file.exists() and file != path:
                    found |= options_in(file)
    return frozenset(found)


def _pytest(arguments: Sequence[str], folder: Path) -> None:
    for word in arguments:
        if word.endswith(".py") or "/" in word:
            file = word.partition("::")[0]
            assert any((place / file).exists() for place in (folder, ROOT)), f"there is no {file}"


def _pip(arguments: Sequence[str], folder: Path) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for word in arguments:
        if found := re.fullmatch(r"(?:\.|hqde-fl)\[([\w,-]+)\]", word):
            unknown = set(found[1].split(",")) - set(extras["optional-dependencies"])
            assert not unknown, f"no extra {sorted(unknown)}"
        elif word.endswith(".txt"):
            assert (ROOT / word).exists(), f"there is no {word}"


def _docker(arguments: Sequence[str], folder: Path) -> None:
    if "-f" in arguments:
        assert (ROOT / arguments[list(arguments).index("-f") + 1]).exists()


def _sh(arguments: Sequence[str], folder: Path) -> None:
    assert arguments[0] in PLACEHOLDERS, arguments


PROGRAMS: dict[str, Callable[[Sequence[str], Path], None]] = {
    "docker": _docker,
    "flower-superlink": _flower_program("flower-superlink"),
    "flower-supernode": _flower_program("flower-supernode"),
    "flwr": _flwr,
    "hqde-fl": _hqde_fl,
    "make": _make,
    "pip": _pip,
    "pytest": _pytest,
    "python": _python,
    "python3": _python,
    "sh": _sh,
}
"""Program -> the check of its arguments."""
