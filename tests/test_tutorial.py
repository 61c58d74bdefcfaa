"""The tutorial, read from its first page to its last: files are written, commands are run.

A block whose first line is a comment with a file's name is that file. Each line of a console block
that begins with ``$`` is run, and succeeds unless it says ``# fails: exit status N``.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documents import FILE_NAME, ROOT, blocks_of
from tests.simulations.command import command as own_command

DOCS = ROOT / "docs"
PAGES = ("first-run", "own-model", "own-rule", "own-attack", "sweep")
FAILS = re.compile(r"# fails: exit status (\d+)")


def command(line: str) -> list[str]:
    """Return the words of a command, with this interpreter for ``hqde-fl`` and ``python``."""
    words = shlex.split(line, comments=True)
    if words[0] == "hqde-fl":
        return own_command(*words[1:])
    return [sys.executable, *words[1:]] if words[0] == "python" else words


def follow(page: str, folder: Path) -> None:
    """Write the files of a page into a folder, and run its commands there."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for block in blocks_of(f"docs/tutorial/{page}.md"):
        if name := FILE_NAME.match(block.text):
            (folder / name[1]).write_text(block.text)
        for line in block.text.splitlines() if block.language == "console" else ():
            if not line.startswith("$ "):
                continue
            done = subprocess.run(
                command(line[2:]),
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            expected = FAILS.search(line)
            status = int(expected[1]) if expected else 0
            assert done.returncode == status, f"{line}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"


@pytest.mark.slow
def test_the_pages_for_one_machine(tmp_path: Path) -> None:
    for page in PAGES:
        follow(page, tmp_path)
    for name in ("first", "own", "rule", "attacked", "compared"):
        assert (tmp_path / name / "report.html").stat().st_size > 10_000
    for name in ("results.md", "results.tex", "results.csv", "results.parquet"):
        assert (tmp_path / "compared" / name).exists()


@pytest.mark.deployment
def test_the_page_for_real_nodes(tmp_path: Path) -> None:
    follow("own-model", tmp_path)
    follow("real-nodes", tmp_path)


def test_every_page_is_followed() -> None:
    pages = {path.stem for path in (DOCS / "tutorial").glob("*.md")}
    assert pages == {*PAGES, "real-nodes"}
