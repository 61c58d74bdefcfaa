"""``hqde-fl audit``: what a person sees of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.audit.audit import Subject, audit, chosen
from hqde_fl.simulations.audit.catalogue import GROUPS, HOSTILE
from hqde_fl.simulations.audit.memory import memory_bound
from hqde_fl.simulations.audit.row import Row
from hqde_fl.simulations.audit.trial import Finding
from hqde_fl.simulations.recording.run_directory import strict, versions

NOT_TRIED = "-"
UNMEASURED = "memory was not measured, as only Linux keeps a peak that can be reset"


def run_audit(
    names: Sequence[str],
    patterns: Sequence[str],
    *,
    seconds: float,
    megabytes: int,
    json_file: Path | None = None,
    markdown: bool = False,
) -> bool:
    """Audit strategies and print the table.

    Parameters
    ----------
    names : Sequence[str]
        The strategies, see ``build``.
    patterns : Sequence[str]
        Which rows, see ``chosen``.
    seconds, megabytes : float, int
        What one row may take.
    json_file : Path, optional
        Where to write all findings.
    markdown : bool
        Whether to print the table as Markdown.

    Returns
    -------
    bool
        Whether all of them passed every row.
    """
    rows = chosen(patterns)
    if json_file is not None:
        try:
            json_file.open("a").close()  # rather now than when all is done
        except OSError as error:
            raise ConfigError(f"--json {json_file} cannot be written: {error.strerror}") from None
    console = Console()
    subjects = []
    for name in names:
        shown = escape(name)
        with console.status(f"{shown}: without a hostile client") as status:
            subjects.append(
                audit(
                    name,
                    rows,
                    seconds=seconds,
                    megabytes=megabytes,
                    on_row=lambda finding, shown=shown: status.update(f"{shown}: {finding.row}"),  # type: ignore[misc]
                )
            )
    if json_file is not None:
        json_file.write_text(json.dumps(strict(report(subjects)), indent=1) + "\n")
    if markdown:
        print("\n".join(to_markdown(subjects, rows)))
    else:
        console.print(
            _details(subjects[0], rows) if len(subjects) == 1 else _matrix(subjects, rows)
        )
        for subject in subjects:
            console.print(escape(verdict(subject)))
    return not any(subject.failures for subject in subjects)


def verdict(subject: Subject) -> str:
    """One line about a strategy."""
    failures = subject.failures
    passed = len(subject.findings) - len(failures)
    line = f"{subject.name}: passed {passed} of {len(subject.findings)} rows"
    return line if subject.measured or not subject.findings else f"{line}; {UNMEASURED}"


def cell(subject: Subject, row: Row) -> str:
    """What a row did to a strategy, in a word or two."""
    finding = subject.findings.get(row.name)
    if finding is None:
        return NOT_TRIED
    if finding.loaded:
        return "ran its code"
    if finding.raised is not None:
        limits = {"killed after": "hangs", "its process": "process dies", "MemoryError": "memory"}
        known = (word for start, word in limits.items() if finding.raised.startswith(start))
        return next(known, "run ends")
    if finding.model == "poisoned":
        return f"poisoned ({finding.deviation:.2g})"
    if finding.model != "sound":
        return finding.model
    if not finding.held:
        return f"evaluation {finding.evaluation:.2g}"
    if subject.ours and not finding.frugal:
        return f"memory {memory(finding)}"
    return "ok" if subject.passed(row) else "not named"


def memory(finding: Finding) -> str:
    """By how much memory grew, and for how much that was received."""
    if finding.growth is None:
        return "not measured"
    return f"{finding.growth / 2**20:.1f} MiB for {finding.received / 2**20:.1f}"


def report(subjects: Sequence[Subject]) -> Mapping[str, Any]:
    """Everything, for a program."""
    return {
        "versions": versions(),
        "strategies": {
            subject.name: {
                "passed": len(subject.findings) - len(subject.failures),
                "rows": [_line(subject, name) for name in subject.findings],
            }
            for subject in subjects
        },
    }


def to_markdown(subjects: Sequence[Subject], rows: Sequence[Row]) -> Iterator[str]:
    """A table for each group of rows."""
    names = [subject.name for subject in subjects]
    for group, members in GROUPS.items():
        if inside := [row for row in members if row in rows]:
            yield f"\n### {group.capitalize()}\n"
            yield f"| {' | '.join(['row', 'the client', *names])} |"
            yield "|---" * (2 + len(names)) + "|"
            for row in inside:
                cells = [cell(subject, row) for subject in subjects]
                yield f"| {' | '.join([f'`{row.name}`', row.does, *cells])} |"
    yield ""
    for subject in subjects:
        yield f"* {verdict(subject)}"


def _line(subject: Subject, name: str) -> Mapping[str, Any]:
    row, finding = HOSTILE[name], subject.findings[name]
    fields = dataclasses.asdict(finding)
    del fields["form"]
    named = True if finding.named else (False if subject.ours else None)  # None: no way to tell
    fields["memory_bound"] = memory_bound(finding.received)
    return {**fields, "does": row.does, "named": named, "passed": subject.passed(row)}


def _matrix(subjects: Sequence[Subject], rows: Sequence[Row]) -> Table:
    table = Table(box=None)
    for title in ("", *(subject.name for subject in subjects)):
        table.add_column(title, no_wrap=True)
    for row in rows:
        cells = [_coloured(cell(subject, row)) for subject in subjects]
        table.add_row(row.name, *cells)
    return table


def _details(subject: Subject, rows: Sequence[Row]) -> Table:
    table = Table(box=None)
    for title in ("row", "verdict", "culprit named", "memory"):
        table.add_column(title, no_wrap=True)
    table.add_column("what was said")
    for row in rows:
        if (finding := subject.findings.get(row.name)) is None:
            continue
        unknown = "no" if subject.ours and row.expected else "no way to tell"
        named = "yes" if finding.named else ("not needed" if not row.expected else unknown)
        said = escape(finding.raised or finding.said)
        word = _coloured(cell(subject, row))
        table.add_row(row.name, word, named, memory(finding), f"[dim]{said}[/dim]")
    return table


def _coloured(word: str) -> str:
    colour = {"ok": "green", NOT_TRIED: "dim"}.get(word, "red")
    return f"[{colour}]{escape(word)}[/{colour}]"
