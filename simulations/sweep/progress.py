"""Show a sweep in a terminal: a line for each cell that ends, what runs, and the ranking so far."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from hqde_fl.clients.objective import Objective
from hqde_fl.simulations.console.durations import duration_text
from hqde_fl.simulations.report.number_text import metric_text
from hqde_fl.simulations.sweep.cells import Cell, Sweep
from hqde_fl.simulations.sweep.ranking import RankingSoFar
from hqde_fl.simulations.sweep.runner import Watch

MAX_RUNNING = 8
"""Running cells that are shown at most."""

MAX_RANKED = 12
"""Compared values that are shown at most."""


class SweepProgress(Watch):
    """Shows every cell that ends, and on a terminal the running cells and the ranking so far.

    Parameters
    ----------
    console : Console
        The terminal.
    sweep : Sweep
        The sweep.
    """

    def __init__(self, console: Console, sweep: Sweep) -> None:
        self._console, self._title = console, sweep.name
        self._ranking = RankingSoFar(sweep)
        self._rounds = self._done = self._cells = self._ended = 0
        self._started = time.monotonic()
        self._running: dict[str, tuple[Cell, float]] = {}
        self._seen: dict[str, int] = {}
        self._last: dict[str, Mapping[str, Any]] = {}
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("rounds"),
            TimeElapsedColumn(),
            TextColumn("left {task.fields[left]}"),
            auto_refresh=False,
        )
        self._live = Live(
            console=console, transient=True, get_renderable=self.view, refresh_per_second=2
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def planned(self, cells: Sequence[Cell], finished: int) -> None:
        """Print the number of cells finished before, if there are any, and start the live view."""
        self._rounds, self._cells = sum(cell.experiment.rounds for cell in cells), len(cells)
        self._started = time.monotonic()
        if finished:
            self._say(f"{finished} cells have finished before, {len(cells)} to go")
        self._task = self._bar.add_task(self._title, total=self._rounds, left="?")
        if self._console.is_terminal:
            self._live.start()

    def measured(self, cell: Cell, final: Mapping[str, float | None], objective: Objective) -> None:
        """Add the cell to the ranking."""
        self._ranking.add(cell.key, final, objective)

    def began(self, cell: Cell) -> None:
        """Note that the cell is running."""
        self._running[cell.key] = (cell, time.monotonic())

    def on_round(self, cell: Cell, line: Mapping[str, Any]) -> None:
        """Move the bar to the round that the cell has reached."""
        self._last[cell.key] = line["server"]
        self._advance(cell, line["round"])

    def ended(self, cell: Cell, error: str | None) -> None:
        """Move the bar past the cell; print its metric or error, its time and the time left."""
        self._advance(cell, cell.experiment.rounds)
        self._ended += 1
        _, began = self._running.pop(cell.key)
        seconds = time.monotonic() - began
        value = self._value(cell)
        outcome = f"failed: {error}" if error else "finished"
        if value is not None and not error:
            outcome = f"{self._ranking.objective.primary} {metric_text(value)}"
        width = len(str(self._cells))
        number = f"[{self._ended:>{width}}/{self._cells}]"
        self._say(f"{number} {cell.label}: {outcome}, {seconds:.1f} s, {self._left} left")

    def view(self) -> RenderableType:
        """Return what a terminal shows below the lines of the cells that have ended."""
        return Group(*self._running_cells(), *self._ranked(), self._bar)

    def _running_cells(self) -> list[Table]:
        if not self._running:
            return []
        table, metric = Table.grid(padding=(0, 2)), self._ranking.objective.primary
        for cell, _ in list(self._running.values())[:MAX_RUNNING]:
            value = self._value(cell)
            done = f"round {self._seen.get(cell.key, 0)}/{cell.experiment.rounds}"
            shown = "" if value is None else f"{metric} {metric_text(value)}"
            table.add_row(Text("running", style="dim"), Text(cell.label), done, Text(shown))
        return [table]

    def _ranked(self) -> list[Table]:
        """Return the table of the compared values, or nothing before a cell has finished."""
        lines = self._ranking.lines
        if len(lines) < 2 or not lines[0].values:
            return []
        table = Table(title=f"{self._ranking.objective.primary} so far", box=None, padding=(0, 2))
        table.title_style, table.title_justify = "bold", "left"
        table.add_column(Text(self._ranking.axis))
        for name in ("worst", "mean", "cells"):
            table.add_column(name, justify="right", no_wrap=True)
        for line in lines[:MAX_RANKED]:
            count = f"{len(line.values)}/{line.cells}"
            table.add_row(Text(line.label), metric_text(line.worst), metric_text(line.mean), count)
        if len(lines) > MAX_RANKED:
            table.add_row(Text(f"and {len(lines) - MAX_RANKED} more", style="dim"))
        return [table]

    def _value(self, cell: Cell) -> float | None:
        """Return the last value of the compared metric in a cell, None if it has none."""
        last = self._last.get(cell.key, {})
        value = last.get(self._ranking.objective.primary)
        return None if value is None else float(value)

    @property
    def _left(self) -> str:
        if not self._done:
            return "?"
        elapsed = time.monotonic() - self._started
        return duration_text(elapsed * (self._rounds - self._done) / self._done)

    def _advance(self, cell: Cell, rounds: int) -> None:
        self._done += rounds - self._seen.get(cell.key, 0)
        self._seen[cell.key] = rounds
        self._bar.update(self._task, completed=self._done, left=self._left)

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)
