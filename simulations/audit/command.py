"""The command ``hqde-fl audit``: it runs the audits and prints their tables."""

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
from hqde_fl.simulations.audit.catalogue import GROUPS, HOSTILE
from hqde_fl.simulations.audit.catalogue_row import CatalogueRow
from hqde_fl.simulations.audit.peak_memory import memory_bound
from hqde_fl.simulations.audit.strategy_audit import StrategyAudit, audit, select_rows
from hqde_fl.simulations.audit.trial import Finding
from hqde_fl.simulations.recording.environment import versions
from hqde_fl.simulations.recording.strict_json import to_json_value

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
        Names of the strategies, see ``build_strategy``.
    patterns : Sequence[str]
        Patterns of row names, see ``select_rows``.
    seconds, megabytes : float, int
        Limits of time and memory (MiB) of one row.
    json_file : Path, optional
        File to write all findings to.
    markdown : bool, default=False
        Print the table as Markdown.

    Returns
    -------
    bool
        True if every strategy passed every row.
    """
    rows = select_rows(patterns)
    if json_file is not None:
        try:
            json_file.open("a").close()  # fail now rather than after all trials
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
        json_file.write_text(json.dumps(to_json_value(report(subjects)), indent=1) + "\n")
    if markdown:
        print("\n".join(to_markdown(subjects, rows)))
    else:
        console.print(
            _details(subjects[0], rows) if len(subjects) == 1 else _matrix(subjects, rows)
        )
        for subject in subjects:
            console.print(escape(verdict(subject)))
    return not any(subject.failures for subject in subjects)


def verdict(subject: StrategyAudit) -> str:
    """Return a line with the number of rows that a strategy passed.

    If memory was not measured, the line says so.
    """
    failures = subject.failures
    passed = len(subject.findings) - len(failures)
    line = f"{subject.name}: passed {passed} of {len(subject.findings)} rows"
    return line if subject.measured or not subject.findings else f"{line}; {UNMEASURED}"


def cell(subject: StrategyAudit, row: CatalogueRow) -> str:
    """Return the table cell for a row and a strategy: "ok", or the damage in a few words.

    It is "-" if the row was not tried, and "not named" if only the culprit's name is missing.
    """
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
    if not finding.withstood:
        return f"evaluation {finding.evaluation:.2g}"
    if subject.is_hqde and not finding.within_memory_bound:
        return f"memory {memory(finding)}"
    return "ok" if subject.passed(row) else "not named"


def memory(finding: Finding) -> str:
    """Return a text with the growth of memory and the size of the replies, in MiB.

    The text is "not measured" if there is no measurement.
    """
    if finding.growth is None:
        return "not measured"
    return f"{finding.growth / 2**20:.1f} MiB for {finding.received / 2**20:.1f}"


def report(subjects: Sequence[StrategyAudit]) -> Mapping[str, Any]:
    """Return all findings as a mapping that can be written as JSON."""
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


def to_markdown(subjects: Sequence[StrategyAudit], rows: Sequence[CatalogueRow]) -> Iterator[str]:
    """Yield the lines of a Markdown table per group of rows, and a verdict per strategy."""
    names = [subject.name for subject in subjects]
    for group, members in GROUPS.items():
        if selected := [row for row in members if row in rows]:
            yield f"\n### {group.capitalize()}\n"
            yield f"| {' | '.join(['row', 'the client', *names])} |"
            yield "|---" * (2 + len(names)) + "|"
            for row in selected:
                cells = [cell(subject, row) for subject in subjects]
                yield f"| {' | '.join([f'`{row.name}`', row.behaviour, *cells])} |"
    yield ""
    for subject in subjects:
        yield f"* {verdict(subject)}"


def _line(subject: StrategyAudit, name: str) -> Mapping[str, Any]:
    row, finding = HOSTILE[name], subject.findings[name]
    fields = dataclasses.asdict(finding)
    del fields["signature"]
    named = True if finding.named else (False if subject.is_hqde else None)  # None: no way to tell
    fields["memory_bound"] = memory_bound(finding.received)
    return {**fields, "does": row.behaviour, "named": named, "passed": subject.passed(row)}


def _matrix(subjects: Sequence[StrategyAudit], rows: Sequence[CatalogueRow]) -> Table:
    table = Table(box=None)
    for title in ("", *(subject.name for subject in subjects)):
        table.add_column(title, no_wrap=True)
    for row in rows:
        cells = [_coloured(cell(subject, row)) for subject in subjects]
        table.add_row(row.name, *cells)
    return table


def _details(subject: StrategyAudit, rows: Sequence[CatalogueRow]) -> Table:
    table = Table(box=None)
    for title in ("row", "verdict", "culprit named", "memory"):
        table.add_column(title, no_wrap=True)
    table.add_column("what was said")
    for row in rows:
        if (finding := subject.findings.get(row.name)) is None:
            continue
        unknown = "no" if subject.is_hqde and row.expected else "no way to tell"
        named = "yes" if finding.named else ("not needed" if not row.expected else unknown)
        said = escape(finding.raised or finding.said)
        word = _coloured(cell(subject, row))
        table.add_row(row.name, word, named, memory(finding), f"[dim]{said}[/dim]")
    return table


def _coloured(word: str) -> str:
    colour = {"ok": "green", NOT_TRIED: "dim"}.get(word, "red")
    return f"[{colour}]{escape(word)}[/{colour}]"
