"""Every code block in the documents runs, or is read by the program that it is written for.

================  ==================================================================================
language          the test
================  ==================================================================================
python            is executed, after the blocks before it on the page and in the same namespace; a
                  ``text`` block right below it is what it prints
toml              is read as an experiment, a sweep, or one of the other files in ``other_table``
sh, console       each command is parsed by its own parser (``tests/shell_commands.py``)
json              is parsed
diff              nothing here: ``tests/test_how_to.py`` adds its lines to a copy of the project
text, nginx       nothing: diagrams, formats and output
none              as ``sh``; output below a Python block as ``text``
================  ==================================================================================

A block whose first line is a comment with a file's name is that file, for all blocks of its page.
The pages of the tutorial share theirs. Names and files that a page supposes are in
``block_context``.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import json
import os
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from flwr.app import Context, Message, RecordDict

import hqde_fl
from hqde_fl import own_files
from hqde_fl.errors import ConfigError
from hqde_fl.privacy.secagg import SecureAggregation
from hqde_fl.rules import Rule, aggregate
from hqde_fl.simulations.console.kinds import KINDS
from hqde_fl.simulations.engines.inline import InlineGrid
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.sweep import Sweep
from hqde_fl.updates import Updates
from tests import shell_commands
from tests.block_context import FILES, NAMES, REPLACED, TABLES
from tests.documents import FILE_NAME, PAGES, ROOT, Block, blocks_of, lines_of

SHELL = ("sh", "bash", "console")
READ_ONLY = ("text", "diff", "nginx", "{toctree}", "{eval-rst}")
OPTIONAL = {"peft"}
"""Modules that the development environment leaves out; without them a block is skipped."""


def is_output(block: Block) -> bool:
    """Return True if a block shows what the Python block right above it prints."""
    before = [above for above in blocks_of(block.page) if above.end < block.line][-1:]
    return (
        block.language in ("", "text")
        and bool(before)
        and before[0].language == "python"
        and not any(line.strip() for line in lines_of(block.page)[before[0].end : block.line - 1])
    )


def kind_of(block: Block) -> str:
    """Return how a block is tested: ``python``, ``toml``, ``shell``, ``json`` or ``read-only``."""
    if block.language in SHELL:
        return "shell"
    if is_output(block) or block.language in READ_ONLY or block.language.startswith("{toctree}"):
        return "read-only"
    return block.language or "shell"


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def of_kind(kind: str) -> Any:
    """Return the parameters of a test of all blocks of a kind, a group for each page."""
    return [
        pytest.param(block, id=str(block), marks=pytest.mark.xdist_group(block.page))
        for block in BLOCKS
        if kind_of(block) == kind
    ]


def test_every_block_has_a_language_that_is_tested() -> None:
    kinds = {"python", "toml", "shell", "json", "read-only"}
    assert [str(block) for block in BLOCKS if kind_of(block) not in kinds] == []
    assert {kind_of(block) for block in BLOCKS} >= kinds - {"json"}


@dataclass
class Page:
    """A folder with the files of a page, and the namespace in which its blocks run."""

    folder: Path
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "example"})
    printed: dict[int, str] = field(default_factory=dict)
    """Line of a Python block that was run -> what it printed."""
    tried: set[int] = field(default_factory=set)

    def run(self, block: Block) -> None:
        """Run a Python block; without effect if it was run before."""
        if block.line in self.tried:
            assert block.line in self.printed, f"{block} failed before"
            return
        self.tried.add(block.line)
        text = block.text
        for old, new in REPLACED.get(block.page, {}).items():
            text = text.replace(old, new)
        output = io.StringIO()
        place = "\n" * block.line + text  # tracebacks name the line of the page
        with contextlib.redirect_stdout(output):
            exec(compile(place, block.page, "exec", dont_inherit=True), self.names)
        self.printed[block.line] = output.getvalue()

    def run_before(self, block: Block) -> None:
        """Run what the page supposes, and the Python blocks above this one."""
        if not self.tried:
            self.tried.add(0)
            exec(compile(NAMES.get(block.page, ""), "block_context", "exec"), self.names)
        for above in blocks_of(block.page):
            if above.language == "python" and above.line < block.line:
                self.run(above)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Page]:
    """Folder of a page's files by its name; those of the tutorial have one together."""
    tutorial = tmp_path_factory.mktemp("tutorial")
    result: dict[str, Page] = {}
    for page in PAGES:
        shared = page.startswith("docs/tutorial/")
        folder = tutorial if shared else tmp_path_factory.mktemp(Path(page).stem)
        result[page] = Page(folder)
        if not (folder / "experiments").exists():
            (folder / "experiments").symlink_to(ROOT / "experiments")
        for block in blocks_of(page):
            if name := FILE_NAME.match(block.text):
                (folder / name[1]).parent.mkdir(parents=True, exist_ok=True)
                (folder / name[1]).write_text(block.text)
        for file, content in FILES.get(page, {}).items():
            (folder / file).write_text(content)
    return result


@pytest.fixture(scope="module")
def own_ray() -> Iterator[list[Any]]:
    """The module ``ray`` once blocks have started a Ray of their own, which ends with them."""
    started: list[Any] = []
    yield started
    for ray in started:
        ray.shutdown()


@pytest.fixture(autouse=True)
def here(
    request: pytest.FixtureRequest, pages: dict[str, Page], monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Work in the page's folder, whose files can be imported; run everything in this process."""
    modules, folders = set(sys.modules), list(own_files.folders)
    path = list(sys.path)
    callspec = getattr(request.node, "callspec", None)
    if callspec is not None:
        block = callspec.params["block"]
        monkeypatch.chdir(pages[block.page].folder)
        monkeypatch.syspath_prepend(str(pages[block.page].folder))
    for name in ("run", "sweep", "create_hqde_system"):
        original = getattr(hqde_fl, name)
        monkeypatch.setattr(hqde_fl, name, functools.partial(original, engine="inline"))
    yield
    sys.path[:], own_files.folders[:] = path, folders
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(
            str(pages[PAGES[0]].folder.parent)
        ):
            del sys.modules[name]


@pytest.fixture
def ray_for(own_ray: list[Any]) -> Any:
    """Return a function that starts a Ray if a page's blocks use one."""

    def start(block: Block) -> None:
        if "import ray" in NAMES.get(block.page, ""):
            import ray

            from hqde_fl.simulations.engines.ray.private_ray import private_ray

            if not ray.is_initialized():
                os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
                with private_ray():
                    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
                own_ray.append(ray)

    return start


@pytest.mark.parametrize("block", of_kind("python"))
def test_python(block: Block, pages: dict[str, Page], ray_for: Any) -> None:
    for name in re.findall(r"^(?:from|import) (\w+)", block.text, re.MULTILINE):
        if name in OPTIONAL and importlib.util.find_spec(name) is None:
            pytest.skip(f"needs {name}")
    ray_for(block)
    page = pages[block.page]
    page.run_before(block)
    page.run(block)
    below = [other for other in blocks_of(block.page) if other.line > block.line][:1]
    if below and is_output(below[0]):
        assert page.printed[block.line] == below[0].text
    if block.text.startswith("# test_"):
        for name, value in list(page.names.items()):
            if name.startswith("test_"):
                value()


def merged(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document with another one's keys; tables are merged, all else is replaced."""
    result = dict(base)
    for key, value in more.items():
        old = result.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping) and "name" not in value
        result[key] = merged(old, value) if both else value
    return result


def other_table(document: Mapping[str, Any]) -> bool:
    """Check a document that is no experiment; return False if it is one."""
    if "project" in document:  # of a package with parts
        groups = {kind.registry.group for kind in KINDS.values() if kind.registry is not None}
        named = document["project"]["entry-points"]
        assert set(named) <= groups
        assert all(re.fullmatch(r"[\w.]+:\w+", v) for t in named.values() for v in t.values())
        return True
    if "superlink" in document:  # Flower's config.toml
        tables = {k: t for k, t in document["superlink"].items() if isinstance(t, Mapping)}
        assert tables
        for table in tables.values():
            assert {"address"} <= set(table) <= {"address", "root-certificates", "insecure"}
        return True
    return False


@pytest.mark.parametrize("block", of_kind("toml"))
def test_toml(block: Block, pages: dict[str, Page]) -> None:
    document = tomllib.loads(block.text)
    if other_table(document):
        return
    problems = []
    for context in [{}, *TABLES.get(block.page, ())]:
        file = Path("block.toml")
        file.write_text(tomli_w.dumps(merged(context, document)))
        try:
            if "sweep" in document:
                assert Sweep.load(file).cells
            else:
                Experiment.load(file)
        except ConfigError as error:
            problems.append(str(error))
        else:
            return
    raise AssertionError(f"{block}: {problems}")


def test_json() -> None:
    for block in BLOCKS:
        if block.language == "json":
            assert json.loads(block.text) is not None, str(block)


@pytest.mark.parametrize("block", of_kind("shell"))
def test_shell(block: Block, pages: dict[str, Page]) -> None:
    commands = list(shell_commands.commands_in(block.text, console=block.language == "console"))
    assert commands, f"{block} has no command: output needs the language text"
    for words, fails in commands:
        refused = pytest.raises(ConfigError) if fails else contextlib.nullcontext()
        with refused:
            shell_commands.check(words, pages[block.page].folder)


RULE_PAGES = ("docs/how-to/contribute-a-rule.md", "docs/rules.md")
RULES = [b for b in BLOCKS if b.page in RULE_PAGES and "(Rule)" in b.text]


@pytest.mark.parametrize("block", RULES, ids=str)
def test_the_example_of_a_new_rule_aggregates(block: Block, pages: dict[str, Page]) -> None:
    page = pages[block.page]
    page.run_before(block)
    page.run(block)
    (rule,) = (
        value
        for value in page.names.values()
        if isinstance(value, type) and issubclass(value, Rule) and value.__module__ == "example"
    )
    outcome = aggregate(rule(), Updates(torch.randn(5, 20, generator=torch.manual_seed(0))))
    assert outcome.delta.shape == (20,)
    assert float(outcome.influence.sum()) == pytest.approx(1)
    assert rule().breakdown(5) == 0


SECURE = [block for block in BLOCKS if block.page == "docs/secure-aggregation.md"]


@pytest.mark.parametrize("block", [b for b in SECURE if b.language == "python"], ids=str)
def test_the_apps_of_secure_aggregation_answer(block: Block, pages: dict[str, Page]) -> None:
    page = pages[block.page]
    page.run_before(block)
    page.run(block)
    app = page.names["app"]
    InlineGrid(app, 1, {}, seed=1)  # makes this process one of a run, as messages need
    message = Message(RecordDict(), 1, "query.secure_keys")
    reply = app(message, Context(1, 1, {}, RecordDict(), {}))
    assert "without masks" in reply.error.reason  # there is no record in it


def test_the_table_of_secure_aggregation() -> None:
    (table,) = (block.text for block in SECURE if block.language == "toml")
    experiment = Experiment.parse(tomllib.loads(table))
    assert experiment.parts.aggregation.secure_aggregation == SecureAggregation(5, 4)
