"""Change the code at random places, one at a time, and list the changes that no test notices.

``make mutants`` runs this. The library cosmic-ray makes the mutants; this script draws a sample of
them, tests each in a copy of the project and stops when its time is up. What is mutated, and which
tests have to notice it, is the table ``[tool.mutants]`` in ``pyproject.toml``.

cosmic-ray's own runner has neither a sample nor a limit on the whole run, and starts a Python for
every mutant. Here each mutant is a fork of a process that has loaded torch and Flower already.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import importlib
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = (
    ".*",
    "__pycache__",
    "build",
    "dist",
    "runs",
    "data",
    "docs",
    "benchmarks",
    "*.egg-info",
)
MAX_MEMORY = 16 << 30
"""Bytes of address space of one test run: a mutant may ask for any amount."""

MAX_TEST_SECONDS = 30
"""Seconds that one test may take; the slowest takes four without a mutant."""

MAX_SECONDS = 600.0
"""Seconds that all tests of a mutant may take."""

LOADED_ONCE = ("torch", "flwr.app", "flwr.clientapp", "flwr.serverapp", "hypothesis", "pytest")
"""Modules that take seconds to load; every fork has them. None of the project's own."""

SURVIVED, KILLED, TIMED_OUT = "survived", "killed", "timed out"
IGNORED_OPERATORS = ("_Eq_Is", "_NotEq_IsNot", "_Is_Eq", "_IsNot_NotEq")
"""With None, small numbers and literal strings these change nothing, by luck of the interpreter."""

IGNORED_DECORATORS = ("@final", "@override", "@overload", "@abstractmethod")
"""Removing these changes nothing that a test could notice."""


@dataclass(frozen=True)
class Mutant:
    """One change of one module.

    Parameters
    ----------
    path : str
        The module, relative to the root.
    line : int
        The line that changes.
    operator : str
        cosmic-ray's operator.
    occurrence : int
        The place at which it is applied, counted from the beginning of the module.
    tests : tuple[str, ...]
        The tests that have to notice it.
    source : str
        The module without the change, as it was when the run began.
    """

    path: str
    line: int
    operator: str
    occurrence: int
    tests: tuple[str, ...]
    source: str = field(repr=False)

    def code(self) -> str:
        """Return the source of the whole module with the change."""
        from cosmic_ray.mutating import mutate_code
        from cosmic_ray.plugins import get_operator

        mutated = mutate_code(self.source, get_operator(self.operator)(), self.occurrence)
        assert mutated is not None
        return str(mutated)

    def difference(self) -> str:
        """Return the changed lines as a diff without context."""
        before, after = self.source.splitlines(), self.code().splitlines()
        lines = list(difflib.unified_diff(before, after, lineterm="", n=0))[2:]
        return "\n".join(f"    {line}" for line in lines if not line.startswith("@@"))


@dataclass
class Worker:
    """A copy of the project and the test run that goes on in it.

    Parameters
    ----------
    folder : Path
        The copy.
    mutant : Mutant or None
        The mutant that is tested; None when idle, or when the copy is tested as it is.
    process : int
        Of the test run; 0 when idle.
    started : float
        When it began.
    """

    folder: Path
    mutant: Mutant | None = None
    process: int = 0
    started: float = 0.0

    def start(self, tests: tuple[str, ...], mutant: Mutant | None) -> None:
        """Run the tests, with a mutant in place or without."""
        self.mutant, self.started = mutant, time.monotonic()
        if mutant is not None:
            (self.folder / mutant.path).write_text(mutant.code())
        self.process = os.fork()
        if self.process == 0:
            _run_pytest(self.folder, tests)

    def outcome(self) -> str | None:
        """Return how the test run ended, or None while it goes on."""
        done, status = os.waitpid(self.process, os.WNOHANG)
        if not done and time.monotonic() < self.started + MAX_SECONDS:
            return None
        self.stop()
        if not done or os.waitstatus_to_exitcode(status) == -signal.SIGALRM:
            return TIMED_OUT
        return SURVIVED if os.waitstatus_to_exitcode(status) == 0 else KILLED

    def failed_file(self) -> str | None:
        """Return the file of the test that noticed the mutant, if one did."""
        failed = re.findall(r"^(?:FAILED|ERROR) ([^:\s]+)", self.output(), re.MULTILINE)
        return failed[-1] if failed else None

    def output(self) -> str:
        """Return what pytest has printed."""
        return (self.folder / "output.txt").read_text(errors="replace")

    def stop(self) -> None:
        """End the test run, and put the module back as it was."""
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process, signal.SIGKILL)  # with whatever it has started
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.process, 0)
            self.process = 0
        if self.mutant is not None:
            (self.folder / self.mutant.path).write_text(self.mutant.source)


class Alarm:
    """A pytest plugin that ends the process when one test takes too long."""

    def pytest_runtest_logstart(self) -> None:
        """Wind the alarm up; nobody handles its signal, so it is the end."""
        signal.alarm(MAX_TEST_SECONDS)


def _run_pytest(folder: Path, tests: tuple[str, ...]) -> None:
    """Run the tests in a copy of the project, in this process, and end it with pytest's status."""
    status = 3
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
        os.chdir(folder)
        output = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        import pytest

        options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
        status = int(pytest.main([*options, *tests], plugins=[Alarm()]))
    finally:
        os._exit(status)


def targets() -> dict[str, tuple[str, ...]]:
    """Return the table: folder or file -> the tests that have to notice a change of it."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        table: dict[str, list[str]] = tomllib.load(file)["tool"]["mutants"]
    for name, tests in table.items():
        for path in (name, *tests):
            if not (ROOT / path).exists():
                raise SystemExit(f"[tool.mutants] needs paths that exist, found {path}")
    return {name: tuple(_files(tests)) for name, tests in table.items()}


def _files(tests: list[str]) -> Iterator[str]:
    for name in tests:
        path = ROOT / name
        for file in [path] if path.is_file() else sorted(path.rglob("test_*.py")):
            yield str(file.relative_to(ROOT))


def modules_of(target: str) -> list[Path]:
    """Return the modules of a folder, with those below it, or the one module."""
    path = ROOT / target
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


def annotation_spans(source: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Yield start and end of every annotation as (line, column): no test can notice a change."""
    for node in ast.walk(ast.parse(source)):
        parts: list[ast.AST | None] = []
        if isinstance(node, ast.AnnAssign | ast.arg):
            parts.append(node.annotation)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            parts.append(node.returns)
        for part in parts:
            if isinstance(part, ast.expr):
                assert part.end_lineno is not None
                assert part.end_col_offset is not None
                yield (part.lineno, part.col_offset), (part.end_lineno, part.end_col_offset)


def places(path: Path, tests: tuple[str, ...]) -> list[list[Mutant]]:
    """Return the mutants of a module by place and kind, so that each place is drawn as often.

    Where one sign could become any of eleven others, only one of these mutants will be drawn.
    """
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    source, name = path.read_text(), str(path.relative_to(ROOT))
    nodes, lines = list(ast_nodes(get_ast(source))), source.splitlines()
    skipped = list(annotation_spans(source))
    by_place: dict[tuple[tuple[int, int], str], list[Mutant]] = {}
    for operator_name in operator_names():
        operator_class = get_operator(operator_name)
        if operator_class.arguments() or operator_name.endswith(IGNORED_OPERATORS):
            continue
        positions = (p for node in nodes for p in operator_class().mutation_positions(node))
        for occurrence, (start, _) in enumerate(positions):
            text = lines[start[0] - 1].strip()
            if any(begin <= start < end for begin, end in skipped):
                continue
            own_check = "strict=True" in text and operator_name.endswith("ReplaceTrueWithFalse")
            if text.startswith(IGNORED_DECORATORS) or own_check:
                continue
            mutant = Mutant(name, start[0], operator_name, occurrence, tests, source)
            by_place.setdefault((start, operator_name.split("_")[0]), []).append(mutant)
    return list(by_place.values())


def sample(only: str, rng: random.Random) -> list[Mutant]:
    """Return one mutant for each place, in random order; a module's own tests come first."""
    drawn = []
    for target, tests in targets().items():
        for path in modules_of(target):
            if only in str(path.relative_to(ROOT)):
                own_first = tuple(sorted(tests, key=lambda test: path.stem not in test))
                drawn += [rng.choice(mutants) for mutants in places(path, own_first)]
    rng.shuffle(drawn)
    return drawn


def copies(count: int, folder: Path) -> list[Worker]:
    """Return workers, each with a copy of the project."""
    workers = []
    for number in range(count):
        copy = folder / str(number)
        shutil.copytree(ROOT, copy, symlinks=True, ignore=shutil.ignore_patterns(*LEFT_OUT))
        workers.append(Worker(copy))
    return workers


def require_tests_pass(workers: list[Worker], mutants: list[Mutant]) -> None:
    """Run all tests without a mutant, in all copies at a time."""
    left = sorted({test for mutant in mutants for test in mutant.tests})
    while left or any(worker.process for worker in workers):
        for worker in workers:
            outcome = worker.outcome() if worker.process else SURVIVED
            if outcome not in (None, SURVIVED):
                raise SystemExit(f"tests must pass without a mutant:\n{worker.output()[-2000:]}")
            if left and not worker.process:
                worker.start((left.pop(),), None)
        time.sleep(0.02)


def try_mutants(workers: list[Worker], mutants: list[Mutant], end: float) -> Counter[str]:
    """Test one mutant after the other in every copy, until none is left or the time is up.

    Print those that survive, and return the number of mutants with each verdict.

    The tests that noticed the last mutant of a module are the first to be run for its next one.
    """
    verdicts: Counter[str] = Counter()
    left = iter(mutants)
    order: dict[str, list[str]] = {}
    while True:
        for worker in workers:
            mutant = worker.mutant
            if worker.process and (outcome := worker.outcome()) is not None and mutant:
                verdicts[outcome] += 1
                if outcome == SURVIVED:
                    print(f"{mutant.path}:{mutant.line}\n{mutant.difference()}", flush=True)
                if (noticed := worker.failed_file()) in order[mutant.path]:
                    order[mutant.path].remove(noticed)
                    order[mutant.path].insert(0, noticed)
            if not worker.process and time.monotonic() < end:
                mutant = next(left, None)
                if mutant is not None:
                    tests = order.setdefault(mutant.path, list(mutant.tests))
                    worker.start(tuple(tests), mutant)
        if not any(worker.process for worker in workers):
            return verdicts
        time.sleep(0.02)


def main() -> None:
    """Read the options, draw, test, report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=30, help="start no mutant after this time")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--jobs", type=int, default=2, help="mutants tested at a time")
    parser.add_argument("--only", default="", help="only modules with this in their path")
    options = parser.parse_args()
    began = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # with the copies removed
    os.nice(10)
    os.environ.update(OMP_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="1")
    sys.dont_write_bytecode = True  # a module may change twice within the resolution of its time
    sys.path[:] = [
        entry for entry in sys.path if Path(entry).resolve() not in (ROOT, Path(__file__).parent)
    ]
    mutants = sample(options.only, random.Random(options.seed))
    if not mutants:
        raise SystemExit(f"no module has {options.only!r} in its path")
    for name in LOADED_ONCE:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        workers = copies(options.jobs, Path(folder))
        try:
            require_tests_pass(workers, mutants)
            verdicts = try_mutants(workers, mutants, began + 60 * options.minutes)
        finally:
            for worker in workers:
                worker.stop()
    tested, minutes = verdicts.total(), (time.monotonic() - began) / 60
    ends = ", ".join(f"{verdicts[end]} {end}" for end in (KILLED, TIMED_OUT, SURVIVED))
    share = verdicts[SURVIVED] / max(1, tested)
    print(f"seed {options.seed}, {minutes:.0f} minutes, {tested} of {len(mutants)} places: {ends}")
    print(f"{share:.0%} of those tested have survived")


if __name__ == "__main__":
    main()
