"""The audit of a strategy: one trial for each row of the catalogue."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache

from hqde_fl.errors import ConfigError, RunError, UnknownNameError
from hqde_fl.simulations.audit.audited_strategies import build_strategy, is_hqde_strategy
from hqde_fl.simulations.audit.catalogue import HOSTILE
from hqde_fl.simulations.audit.catalogue_row import CatalogueRow
from hqde_fl.simulations.audit.honest_clients import ModelSignature
from hqde_fl.simulations.audit.peak_memory import freeze_heap
from hqde_fl.simulations.audit.sandbox import EndedError, Sandbox
from hqde_fl.simulations.audit.trial import Finding, trial

MAX_SECONDS = 1e6
"""Upper bound of the time limit, which the system holds in 31 bits of milliseconds."""
MAX_MEGABYTES = 2**40
"""Upper bound of the memory limit, which the system holds in 63 bits of bytes."""


@dataclass(frozen=True)
class StrategyAudit:
    """The findings about one strategy.

    Parameters
    ----------
    name : str
        Name of the strategy, as given to ``audit``.
    is_hqde : bool
        True for hqde-fl's strategies, which must name the culprit and get replies through
        ``GuardedGrid``.
    findings : Mapping[str, Finding]
        Name of a row -> its finding. Rows about packed updates are tried on hqde-fl's strategies
        only.
    """

    name: str
    is_hqde: bool
    findings: Mapping[str, Finding]

    def passed(self, row: CatalogueRow) -> bool:
        """Return True if the strategy withstood a row.

        An hqde-fl strategy must also have stayed within the memory bound and named the culprit.
        Other strategies need not: they have no defined way to name it, and Flower's own code reads
        their replies.
        """
        finding = self.findings[row.name]
        strict = finding.within_memory_bound and (finding.named or not row.expected)
        return finding.withstood and (strict or not self.is_hqde)

    @property
    def measured(self) -> bool:
        """True if the memory that at least one row took could be measured."""
        return any(finding.growth is not None for finding in self.findings.values())

    @property
    def failures(self) -> list[str]:
        """The names of the rows that the strategy did not pass."""
        return [name for name in self.findings if not self.passed(HOSTILE[name])]


def select_rows(patterns: Sequence[str]) -> list[CatalogueRow]:
    """Return the rows whose names match a pattern (``*`` and ``?``); all rows without patterns.

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
    rows: Sequence[CatalogueRow],
    *,
    seconds: float = 60.0,
    megabytes: int = 4096,
    on_row: Callable[[Finding], None] = lambda _: None,
) -> StrategyAudit:
    """Try rows on a strategy, each on a new instance in a separate process; return the findings.

    Rows about packed updates are left out unless the strategy is one of hqde-fl's.

    Parameters
    ----------
    name : str
        Name of the strategy, see ``build_strategy``.
    rows : Sequence[CatalogueRow]
        The rows to try.
    seconds : float, default=60.0
        Time limit of one row, in (0, ``MAX_SECONDS``].
    megabytes : int, default=4096
        Memory limit of one row in MiB, in [1, ``MAX_MEGABYTES``].
    on_row : Callable[[Finding], None]
        Called with each finding.

    Raises
    ------
    ConfigError
        If there is no such strategy, or a limit is out of range.
    RunError
        If the strategy fails even with honest clients only.
    """
    if not 0 < seconds <= MAX_SECONDS:
        raise ConfigError(f"seconds must be in (0, {MAX_SECONDS:g}], found {seconds:g}")
    if not 1 <= megabytes <= MAX_MEGABYTES:
        raise ConfigError(f"memory must be in [1, {MAX_MEGABYTES}] MiB, found {megabytes}")
    with Sandbox(try_row, seconds, megabytes) as sandbox:
        try:
            baseline, is_hqde = sandbox(name, None, None)
        except EndedError as error:
            raise RunError(f"{name} without any hostile client: {error}") from None
        if not baseline.withstood:
            what = baseline.raised or f"model {baseline.model}, evaluation {baseline.evaluation}"
            raise RunError(f"{name} fails without any hostile client: {what}")
        findings = {}
        for row in rows:
            if row.codec and not is_hqde:
                continue
            try:
                findings[row.name], _ = sandbox(name, row.name, baseline.signature)
            except EndedError as error:
                findings[row.name] = Finding(row.name, raised=str(error))
            on_row(findings[row.name])
    return StrategyAudit(name, is_hqde, findings)


def try_row(name: str, row: str | None, expected: ModelSignature | None) -> tuple[Finding, bool]:
    """Run one trial; return its finding, and True if the strategy is hqde-fl's.

    ``name`` is the strategy's, ``row`` the row's; None for a trial with honest clients only.
    ``expected`` is the signature of the final model without a culprit.
    """
    strategy = build_strategy(name)
    is_hqde = is_hqde_strategy(strategy)
    if row is None:
        return trial(strategy, None, guarded=is_hqde), is_hqde
    _prepare(name, is_hqde)
    return trial(strategy, HOSTILE[row], guarded=is_hqde, expected=expected), is_hqde


@cache
def _prepare(name: str, guarded: bool) -> None:
    """Run a first trial without a culprit, so that later ones do not count loaded modules."""
    trial(build_strategy(name), None, guarded=guarded)
    freeze_heap()
