"""Show each round as one line, with a bar on terminals: the same for every engine."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from hqde_fl.strategies.outcomes import NOT_KEPT

MEGABYTE = 1e6


def describe(line: Mapping[str, Any], rounds: int) -> str:
    """Return a line of ``rounds.jsonl`` as text for the terminal.

    Parameters
    ----------
    line : Mapping[str, Any]
        The line.
    rounds : int
        Number of all rounds.
    """
    width = len(str(rounds))
    parts = [f"round {line['round']:>{width}}/{rounds}"]
    metrics = line["server"] or line["clients-evaluate"] or line["clients-train"]
    for name in sorted(
        metrics, key=lambda name: ("accuracy" not in name, "loss" not in name, name)
    ):
        value = metrics[name]
        if not name.endswith("seconds"):
            parts.append(f"{name} {'-' if value is None else format(value, '.4f')}")
    if line["round"] > 0:
        up, down = line["bytes-up"] / MEGABYTE, line["bytes-down"] / MEGABYTE
        parts += [f"up {up:.2f} MB", f"down {down:.2f} MB", f"kept {line['kept']}/{line['asked']}"]
        for name in NOT_KEPT:
            if line[name]:
                parts.append(f"{name} {line[name]}")
        if excluded := line.get("evaluation-excluded"):
            asked = line["evaluation-asked"]
            parts.append(f"evaluated {asked - len(excluded)}/{asked}")
        if line["f-used"] is not None and line["f-used"] < line["f"]:
            parts.append(f"f {line['f-used']} of {line['f']}")
    if (virtual := line.get("virtual-time")) is not None:
        parts.append(f"virtual {virtual:.1f} s")
    if (epsilon := line.get("epsilon")) is not None:
        parts.append(f"epsilon {epsilon:.3f}")
    parts.append(f"{line['seconds']:.1f} s")
    if line["note"]:
        kept = line["void"] or epsilon is None
        parts.append(f"model kept: {line['note']}" if kept else line["note"])
    return "  ".join(parts)


@contextmanager
def progress(rounds: int, console: Console, title: str = "") -> Iterator[Callable[..., None]]:
    """Yield a function that shows a round, to be called with its line of ``rounds.jsonl``.

    Parameters
    ----------
    rounds : int
        Number of all rounds.
    console : Console
        A terminal gets a bar with the time left; anything else one plain line a round.
    title : str
        Text before the bar.
    """
    if not console.is_terminal:

        def print_line(line: Mapping[str, Any]) -> None:
            console.print(describe(line, rounds), highlight=False, markup=False, soft_wrap=True)

        yield print_line
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=rounds)

        def advance(line: Mapping[str, Any]) -> None:
            bar.console.print(describe(line, rounds), highlight=False, markup=False, soft_wrap=True)
            bar.update(task, completed=line["round"])

        yield advance


@contextmanager
def quiet_flower() -> Iterator[None]:
    """Limit Flower's log to warnings and errors while the block lasts, each different one once."""
    logger, once = logging.getLogger("flwr"), _Once()
    level = logger.level
    logger.setLevel(logging.WARNING)
    logger.addFilter(once)
    try:
        yield
    finally:
        logger.removeFilter(once)
        logger.setLevel(level)


class _Once(logging.Filter):
    """Drops messages that were logged before: the cells of a sweep have many in common."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the message is a new one."""
        message = record.getMessage()
        new = message not in self._seen
        self._seen.add(message)
        return new
