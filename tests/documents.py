"""Read the project's Markdown documents: their code blocks, headings, sections and plain text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md"))),
)
"""The documents, as paths relative to the repository's root."""

FENCE = re.compile(r"^(\s*)(`{3,}|~{3,})(.*)$")
INLINE_CODE = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
FILE_NAME = re.compile(r"# ([\w./]+\.(?:py|toml))\n")
"""The first line of a code block that is a file."""
HEADING = re.compile(r"^(#{1,6}) (.*?)\s*#*$")


@dataclass(frozen=True)
class Block:
    """A fenced code block.

    Parameters
    ----------
    page : str
        The document.
    line : int
        Number of the line of the opening fence, from 1.
    language : str
        The word after the opening fence; empty if there is none.
    text : str
        The lines between the fences.
    end : int
        Number of the line of the closing fence.
    """

    page: str
    line: int
    language: str
    text: str
    end: int

    def __str__(self) -> str:
        return f"{self.page}:{self.line}:{self.language or 'none'}"


@dataclass(frozen=True)
class Section:
    """A heading of a document and the lines up to the next heading of any level.

    Parameters
    ----------
    page : str
        The document.
    line : int
        Number of the first line, from 1.
    level : int
        Level of the heading; 0 before the first one.
    title : str
        The heading's text.
    text : str
        The lines, with the code blocks.
    """

    page: str
    line: int
    level: int
    title: str
    text: str


@cache
def lines_of(page: str) -> tuple[str, ...]:
    """Return the lines of a document."""
    return tuple((ROOT / page).read_text().splitlines())


@cache
def blocks_of(page: str) -> tuple[Block, ...]:
    """Return the code blocks of a document in order."""
    blocks: list[Block] = []
    opened: tuple[int, str, str, str] | None = None
    body: list[str] = []
    for number, line in enumerate(lines_of(page), start=1):
        fence = FENCE.match(line)
        if opened is None:
            if fence:
                opened, body = (number, fence[1], fence[2], fence[3].strip()), []
            continue
        start, indent, mark, language = opened
        if fence and fence[2].startswith(mark) and not fence[3].strip():
            text = "".join(f"{part.removeprefix(indent)}\n" for part in body)
            blocks.append(Block(page, start, language, text, number))
            opened = None
        else:
            body.append(line)
    assert opened is None, f"{page}: the code block of line {opened[0]} has no end"
    return tuple(blocks)


@cache
def prose_of(page: str) -> tuple[str, ...]:
    """Return the lines of a document, those of code blocks (fences included) empty."""
    lines = list(lines_of(page))
    for block in blocks_of(page):
        for number in range(block.line, block.end + 1):
            lines[number - 1] = ""
    return tuple(lines)


@cache
def sections_of(page: str) -> tuple[Section, ...]:
    """Return the sections of a document; together they have all its lines."""
    prose, lines = prose_of(page), lines_of(page)
    starts = [(0, 0, "")] + [
        (place, len(heading[1]), heading[2])
        for place, line in enumerate(prose)
        if (heading := HEADING.match(line))
    ]
    ends = [place for place, _, _ in starts[1:]] + [len(lines)]
    return tuple(
        Section(page, place + 1, level, title, "\n".join(lines[place:end]))
        for (place, level, title), end in zip(starts, ends, strict=True)
    )


def rows_of(page: str, title: str) -> list[list[str]]:
    """Return the cells of all tables of a section, those of the sections below it left out."""
    (section,) = (part for part in sections_of(page) if part.title == title)
    lines = [line for line in section.text.splitlines() if line.startswith("|")]
    tables = [re.split(r"(?<!\\) ?\| ?", line.strip("|").strip()) for line in lines]
    return [
        row
        for row, after in zip(tables, [*tables[1:], [""]], strict=True)
        if not set("".join(row)) <= set("-: ") and not (after[0] and set(after[0]) <= set("-:"))
    ]


def codes_in(cells: list[str]) -> list[str]:
    """Return the pieces of inline code in some cells."""
    return [code for cell in cells for code in re.findall(r"`([^`]+)`", cell)]


def first_codes(page: str, title: str) -> list[str]:
    """Return the pieces of inline code in the first column of a section's tables."""
    return codes_in([row[0] for row in rows_of(page, title)])


def slug_of(heading: str) -> str:
    """Return the anchor that GitHub gives to a heading, without the number of a repetition."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    text = re.sub(r"(?<!\w)[*_]+|[*_]+(?!\w)", "", text)
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")


@cache
def anchors_of(page: str) -> frozenset[str]:
    """Return the anchors of a document's headings, and those set by HTML or MyST."""
    anchors: set[str] = set()
    count: dict[str, int] = {}
    for section in sections_of(page):
        if not section.level:
            continue
        slug = slug_of(section.title)
        repeated = count.get(slug, 0)
        count[slug] = repeated + 1
        anchors.add(f"{slug}-{repeated}" if repeated else slug)
    for line in prose_of(page):
        anchors.update(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", line))
        anchors.update(re.findall(r"^\(([\w-]+)\)=$", line))
    return frozenset(anchors)


def inline_code(page: str) -> Iterator[tuple[int, str]]:
    """Yield the line number and the text of each piece of inline code outside code blocks."""
    text = "\n".join(prose_of(page))
    for code in INLINE_CODE.finditer(text):
        if "\n\n" not in code[2]:
            yield text.count("\n", 0, code.start()) + 1, " ".join(code[2].split())
