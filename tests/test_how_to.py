"""The how-to pages are followed: files are written, commands are run, and what is shown is printed.

A block whose first line is a comment with a file's name is that file. Each block of shell is run,
but for those that install something. The lines of a block of text are found in what was printed,
but for numbers of seconds, and folders. A page that changes the project is followed in a copy: the
lines of its ``diff`` are added there.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.documents import FILE_NAME, ROOT, blocks_of
from tests.simulations.command import command

PAGES = ROOT / "docs" / "how-to"
NOT_HERE = {"gpus", "ray-cluster", "own-training"}
"""Pages that need GPUs, a cluster, or what ``make examples`` installs."""
NODES = {"real-sites", "revoke-a-site"}
"""Pages that start real nodes."""
CHANGES = {"contribute-a-rule"}
"""Pages whose folder is the project: they are followed in a copy of it."""
NEVER_TWICE = {"differential-privacy": "its noise comes from no seed"}
LEFT_OUT = {"build", "data", "dist", "runs", "site"}
"""Folders of a checkout that git ignores."""
MAX_LINES = 70
"""Of a page, its files included, the lines that it adds to others not: a screen or little more."""

FOLLOWED = sorted(path.stem for path in PAGES.glob("*.md") if path.stem not in NOT_HERE | NODES)


def copy_project(folder: Path) -> None:
    """Copy the project into a folder, as ``make install`` leaves it, with this environment."""
    for path in ROOT.iterdir():
        if path.is_dir() and path.name[0] != "." and path.name not in LEFT_OUT:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(path, folder / path.name, symlinks=True, ignore=ignored)
        elif path.is_file():
            shutil.copy2(path, folder)
    write_programs(folder / ".venv" / "bin")
    (folder / ".venv" / ".installed").touch()


def add_lines(difference: str, folder: Path) -> None:
    """Add the lines of a difference to the files after ``+++``, each below its neighbour.

    Without a neighbour they are added at the file's end.
    """
    for part in difference.removeprefix("+++ ").split("\n+++ "):
        name, *changes = part.splitlines()
        lines = (folder / name).read_text().splitlines()
        place = len(lines)
        for change in changes:
            if change.startswith("+"):
                lines.insert(place, change[1:])
            else:
                (place,) = (at for at, line in enumerate(lines) if line == change[1:])
            place += 1
        (folder / name).write_text("\n".join(lines) + "\n")


def write_programs(folder: Path) -> None:
    """Write ``hqde-fl`` and ``python``, which are those of this environment."""
    folder.mkdir(parents=True)
    for name, words in {"hqde-fl": command(), "python": [sys.executable]}.items():
        (folder / name).write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        (folder / name).chmod(0o755)


def follow(page: str, folder: Path) -> str:
    """Write the files of a page into a folder, run its commands there, return what they print.

    What a block starts in the background is ended with the page.
    """
    programs, project = folder / "bin", ROOT
    if page in CHANGES:
        copy_project(folder)
        project = folder
    write_programs(programs)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": str(project), "COLUMNS": "100", "PATH": path}
    printed, started = folder / "printed.txt", []
    try:
        for block in blocks_of(f"docs/how-to/{page}.md"):
            text = block.text
            if name := FILE_NAME.match(text):
                (folder / name[1]).write_text(text)
            if block.language == "diff":
                add_lines(text, folder)
            if block.language != "sh" or text.startswith("pip "):
                continue
            with printed.open("ab") as output:
                process = subprocess.Popen(
                    ["bash", "-ec", text],
                    cwd=folder,
                    env=environment,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            started.append(process)
            assert process.wait() == 0, f"{text}\n{printed.read_text()[-4000:]}"
    finally:
        for process in started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
    return printed.read_text()


def without_times(line: str) -> str:
    """Return a line without what differs from run to run."""
    return re.sub(r"[\d.]+ (s|min|%)\b|/\S+/", "", line).strip()


def shown(page: str) -> list[str]:
    """Return the lines of a page that are said to be printed."""
    blocks = [block for block in blocks_of(f"docs/how-to/{page}.md") if block.language == "text"]
    return [line for block in blocks for line in block.text.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("page", FOLLOWED)
def test_a_page_is_true(page: str, tmp_path: Path) -> None:
    printed = follow(page, tmp_path)
    if out := os.environ.get("HOW_TO_OUTPUT"):  # to see what a page could show
        Path(out, f"{page}.txt").write_text(printed)
    lines = {without_times(line) for line in printed.splitlines()}
    missing = [line for line in shown(page) if without_times(line) not in lines]
    assert page in NEVER_TWICE or not missing, f"not printed by {page}.md: {missing}"


@pytest.mark.deployment
@pytest.mark.parametrize("page", sorted(NODES))
def test_a_page_with_real_nodes_is_true(page: str, tmp_path: Path) -> None:
    follow(page, tmp_path)


@pytest.mark.parametrize("page", sorted(path.stem for path in PAGES.glob("*.md")))
def test_a_page_is_short_and_says_where_more_is(page: str) -> None:
    text = (PAGES / f"{page}.md").read_text()
    differences = [b for b in blocks_of(f"docs/how-to/{page}.md") if b.language == "diff"]
    added = sum(len(block.text.splitlines()) for block in differences)
    assert len(text.splitlines()) - added <= MAX_LINES
    assert "Details: [" in text
    assert f"how-to/{page}\n" in (PAGES.parent / "index.md").read_text()


def test_pages_that_are_not_followed_exist() -> None:
    assert {path.stem for path in PAGES.glob("*.md")} >= NOT_HERE | NODES
