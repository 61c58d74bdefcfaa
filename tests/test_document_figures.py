"""Every table of measured figures has the command that prints them in its section, or above it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.documents import PAGES, Section, sections_of

RULER = re.compile(r"\|[\s:|-]+\|")
NUMBER = re.compile(r"[^\w.]*\d*[.,]?\d[\d,.]*(e[-+]\d+)?\b")
COMMAND = re.compile(
    r"(?:^|[`\s(])(?:python benchmarks/\w+\.py|python -m (?:pytest|tests\.\w+)|pytest|make [a-z-]+"
    r"|hqde-fl (?:run|sweep|audit|attack-search|tour|report|verify))\b",
    re.MULTILINE,
)


def tables_in(section: Section) -> Iterator[tuple[int, list[list[str]]]]:
    """Yield the line and the cells of each table's rows, without the heading."""
    lines = section.text.split("\n")
    for place, line in enumerate(lines):
        if RULER.fullmatch(line.strip()) and place and lines[place - 1].startswith("|"):
            rows = []
            for row in lines[place + 1 :]:
                if not row.startswith("|"):
                    break
                text = re.sub(r"`[^`]*`", "code", row)
                rows.append([cell.strip() for cell in text.strip().strip("|").split("|")])
            yield section.line + place - 1, rows


def is_of_figures(rows: list[list[str]]) -> bool:
    """Return True if most of a table's cells, without its first column, begin with a number."""
    cells = [cell for row in rows for cell in row[1:] if cell]
    return 2 * sum(bool(NUMBER.match(cell)) for cell in cells) > len(cells)


def enclosing(sections: tuple[Section, ...], section: Section) -> Iterator[Section]:
    """Yield a section, those with the headings above it, and the beginning of the page."""
    level = section.level + 1
    for other in reversed(sections[: sections.index(section) + 1]):
        if other.level < level:
            level = other.level
            yield other


FIGURES = [
    pytest.param(section, id=f"{page}:{line}")
    for page in PAGES
    for section in sections_of(page)
    for line, rows in tables_in(section)
    if is_of_figures(rows)
]


@pytest.mark.parametrize("section", FIGURES)
def test_the_command_stands_beside_the_figures(section: Section) -> None:
    around = list(enclosing(sections_of(section.page), section))
    assert any(COMMAND.search(part.text) for part in around), (
        f"no command in {[part.title for part in around]}"
    )


def test_tables_are_found() -> None:
    assert len(FIGURES) > 30
