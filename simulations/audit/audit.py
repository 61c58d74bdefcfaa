"""Strategies against the catalogue: a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache

from hqde_fl.errors import ConfigError, RunError, UnknownNameError
from hqde_fl.simulations.audit.catalogue import HOSTILE
from hqde_fl.simulations.audit.federation import Form
from hqde_fl.simulations.audit.memory import settle
from hqde_fl.simulations.audit.row import Row
from hqde_fl.simulations.audit.sandbox import EndedError, Sandbox
from hqde_fl.simulations.audit.subjects import build, ours
from hqde_fl.simulations.audit.trial import Finding, trial

MOST_SECONDS = 1e6
"""A process is waited for in milliseconds, which have 31 bits."""
MOST_MEGABYTES = 2**40
"""What a process may allocate is said in bytes, which have 63 bits."""


@dataclass(frozen=True)
class Subject:
    """A strategy that was audited.

    Parameters
    ----------
    name : str
        As given.
    ours : bool
        Whether it is one of hqde-fl's, which must name the culprit and is read by ``GuardedGrid``.
    findings : Mapping[str, Finding]
        Row -> what happened. Rows about packed updates are tried on our strategies only.
    """

    name: str
    ours: bool
    findings: Mapping[str, Finding]

    def passed(self, row: Row) -> bool:
        """Whether it held; one of ours also within the memory bound, with the culprit named.

        How another strategy would name the culprit is not known, beyond what it logs, and its
        replies are read by Flower's own code: neither is held against it.
        """
        finding = self.findings[row.name]
        ours = finding.frugal and (finding.named or not row.expected)
        return finding.held and (ours or not self.ours)

    @property
    def measured(self) -> bool:
        """Whether this platform measures the memory that rows take."""
        return any(finding.growth is not None for finding in self.findings.values())

    @property
    def failures(self) -> list[str]:
        """The rows that it did not pass."""
        return [name for name in self.findings if not self.passed(HOSTILE[name])]


def chosen(patterns: Sequence[str]) -> list[Row]:
    """The rows whose names match one of the patterns (``*`` and ``?``); all if there are none.

    Raises
    ------
    ConfigError
        If a pattern matches nothing.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in HOSTILE):
            raise UnknownNameError("row", pattern, HOSTILE)
    return [
        row
        for name, row in HOSTILE.items()
        if not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)
    ]


def audit(
    name: str,
    rows: Sequence[Row],
    *,
    seconds: float = 60.0,
    megabytes: int = 4096,
    on_row: Callable[[Finding], None] = lambda _: None,
) -> Subject:
    """Try rows on a strategy, each on a new one, in a process that it can take with it.

    Parameters
    ----------
    name : str
        See ``build``.
    rows : Sequence[Row]
        Which.
    seconds, megabytes : float, int
        What one row may take.
    on_row : Callable[[Finding], None]
        Called after each.

    Raises
    ------
    ConfigError
        If there is no such strategy, or it does not get anywhere with honest clients only.
    """
    if not 0 < seconds <= MOST_SECONDS:
        raise ConfigError(f"seconds must be in (0, {MOST_SECONDS:g}], found {seconds:g}")
    if not 1 <= megabytes <= MOST_MEGABYTES:
        raise ConfigError(f"memory must be in [1, {MOST_MEGABYTES}] MiB, found {megabytes}")
    with Sandbox(attempt, seconds, megabytes) as sandbox:
        try:
            baseline, mine = sandbox(name, None, None)
        except EndedError as error:
            raise RunError(f"{name} without any hostile client: {error}") from None
        if not baseline.held:
            what = baseline.raised or f"model {baseline.model}, evaluation {baseline.evaluation}"
            raise RunError(f"{name} fails without any hostile client: {what}")
        findings = {}
        for row in rows:
            if row.codec and not mine:
                continue
            try:
                findings[row.name], _ = sandbox(name, row.name, baseline.form)
            except EndedError as error:
                findings[row.name] = Finding(row.name, raised=str(error))
            on_row(findings[row.name])
    return Subject(name, mine, findings)


def attempt(name: str, row: str | None, form: Form | None) -> tuple[Finding, bool]:
    """One trial: what happened, and whether the strategy is ours."""
    strategy = build(name)
    mine = ours(strategy)
    if row is None:
        return trial(strategy, None, guarded=mine), mine
    _prepare(name, mine)
    return trial(strategy, HOSTILE[row], guarded=mine, expected=form), mine


@cache
def _prepare(name: str, guarded: bool) -> None:
    """Have this process load what a first run loads, which is no row's doing."""
    trial(build(name), None, guarded=guarded)
    settle()
