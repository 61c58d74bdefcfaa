"""Pages, headings, files, commands and options to which the documents point exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import click
import pytest
import typer

from hqde_fl.simulations.console.command_line import app
from tests.documents import (
    INLINE_CODE,
    PAGES,
    ROOT,
    anchors_of,
    blocks_of,
    inline_code,
    prose_of,
)
from tests.shell_commands import PLACE_OF_COMMAND, Makefile, flags_of, subcommand

LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
REFERENCE = re.compile(r"^\[[^\]]+\]: (\S+)", re.MULTILINE)
AUTOMATIC = re.compile(r"<(https?:[^>]*)>")
FOLDERS = (
    *("benchmarks", "clients", "deploy", "docs", "examples", "experiments", "hqde_fl"),
    *("simulations", "strategies", "tests"),
)
REPOSITORY_PATH = re.compile(rf"(?:{'|'.join(FOLDERS)})/[\w./*{{}},-]*")
MODULE_PATH = re.compile(r"(?!/)[\w./*]+\.py")
ARCHITECTURE = "docs/architecture.md"
"""The page that names modules by the ends of their paths."""

OTHERS = {"byzfl/benchmark/benchmark.py", "study/mytasks.py"}
"""Paths of other projects and of the reader's own files."""

PLACEHOLDER = re.compile(r"\b(NAME|DIR|FILE|X)\b")


def links_in(page: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the target of each link outside code."""
    text = "\n".join(prose_of(page))
    text = INLINE_CODE.sub(lambda code: re.sub(r"[^\n]", "x", code[0]), text)
    for pattern in (LINK, REFERENCE, AUTOMATIC):
        for link in pattern.finditer(text):
            yield text.count("\n", 0, link.start()) + 1, link[1]


@cache
def anchors_in(path: Path) -> frozenset[str]:
    """Return the anchors of a Markdown file of the repository."""
    return anchors_of(str(path.relative_to(ROOT)))


def problem_of_link(page: str, target: str) -> str | None:
    """Return what is wrong with the target of a link, or None."""
    parts = urlsplit(target)
    if parts.scheme:
        sound = parts.scheme in ("http", "https") and re.fullmatch(r"[\w.-]+\.\w+", parts.netloc)
        return None if sound else "malformed address"
    if parts.netloc or parts.query:
        return "neither a path nor an address"
    path = ROOT / page
    if parts.path:
        path = (path.parent / parts.path).resolve()
        if not path.is_relative_to(ROOT):
            return "outside of the repository"
        if not path.exists():
            return "no such file"
    if parts.fragment:
        if path.suffix != ".md":
            return "an anchor in a file that has no headings"
        if parts.fragment not in anchors_in(path):
            return "no such heading"
    return None


@pytest.mark.parametrize("page", PAGES)
def test_links_resolve(page: str) -> None:
    problems = [
        f"{page}:{line}: {target}: {problem}"
        for line, target in links_in(page)
        if (problem := problem_of_link(page, target))
    ]
    assert problems == []


def test_every_page_is_in_a_table_of_contents() -> None:
    listed = []
    for block in blocks_of("docs/index.md"):
        if block.language == "{toctree}":
            listed += [line for line in block.text.splitlines() if line and line[0] != ":"]
    for entry in listed:
        assert any((ROOT / "docs" / f"{entry}{end}").exists() for end in (".md", ".ipynb")), entry
    pages = {str(Path(page).relative_to("docs").with_suffix("")) for page in PAGES if "/" in page}
    assert pages - set(listed) == {"index"}
    assert len(set(listed)) == len(listed)


def exists(path: str) -> bool:
    """Return True if a path of the repository exists, with ``*``, ``{a,b}`` and ``NAME`` in it."""
    if choice := re.search(r"\{([^{}]*)\}", path):
        options = choice[1].split(",")
        return all(exists(path[: choice.start()] + o + path[choice.end() :]) for o in options)
    path = PLACEHOLDER.sub("*", path)
    return any(ROOT.glob(path.rstrip("/"))) if "*" in path else (ROOT / path).exists()


@cache
def modules() -> tuple[str, ...]:
    """Return the paths of all Python files of the repository's folders, each with a slash first."""
    return tuple(
        f"/{path.relative_to(ROOT)}" for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")
    )


def is_module(path: str) -> bool:
    """Return True if a file of the repository has this path at its end, with ``*`` in it."""
    return any(fnmatchcase(module, f"*/{path}") for module in modules())


@pytest.mark.parametrize("page", PAGES)
def test_files_named_in_the_text_exist(page: str) -> None:
    missing = []
    for line, code in inline_code(page):
        for word in re.split(r"[\s=\"'()\[\]:]+", code):
            path = word.rstrip(".,")
            whole = REPOSITORY_PATH.fullmatch(path)
            module = MODULE_PATH.fullmatch(path) and ("/" in path or page == ARCHITECTURE)
            known = path in OTHERS or (whole and exists(path)) or (module and is_module(path))
            if (whole or module) and not known:
                missing.append(f"{page}:{line}: {word}")
    assert missing == []


def check_mention(code: str) -> None:
    """Check a command in the text, which may lack arguments or have placeholders for them."""
    try:
        words = shlex.split(code, comments=True)
    except ValueError:
        return
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words.pop(0)
    if words[:1] == ["hqde-fl"]:
        check_own_command(words[1:])
    elif words[:1] == ["make"] and len(words) > 1:
        makefile = Makefile.read()
        for word in words[1:]:
            name, assigned, _ = word.partition("=")
            known = makefile.variables if assigned else makefile.targets
            assert name in known, f"the Makefile has no {name!r}"
    elif re.fullmatch(r"python benchmarks/[a-z_]+\.py", " ".join(words[:2])):
        assert (ROOT / words[1]).exists(), f"there is no {words[1]}"
        flags_of(ROOT / words[1], [word.strip("[]") for word in words[2:]])


def check_own_command(words: list[str]) -> None:
    """Check that a command of ``hqde-fl`` exists and has the options given."""
    command, _, rest = subcommand(typer.main.get_command(app), "hqde-fl", words)
    if isinstance(command, click.Group) and rest and PLACE_OF_COMMAND.fullmatch(rest[0]):
        return
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    for word in rest:
        option = word.strip("[]").partition("=")[0]
        if option.startswith("--"):
            assert option in known, f"`hqde-fl {command.name}` has no option {option}"


@pytest.mark.parametrize("page", PAGES)
def test_commands_named_in_the_text_exist(page: str) -> None:
    problems = []
    for line, code in inline_code(page):
        try:
            check_mention(code)
        except AssertionError as error:
            problems.append(f"{page}:{line}: `{code}`: {str(error).splitlines()[0]}")
    assert problems == []
