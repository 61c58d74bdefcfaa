"""Show a sweep in a terminal: a line for each cell, and the time left."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hqde_fl.simulations.sweep.cells import Cell
from hqde_fl.simulations.sweep.estimate import duration_text
from hqde_fl.simulations.sweep.runner import Watch


class SweepProgress(Watch):
    """Shows every cell that ends, and on a terminal a bar over the rounds of all cells.

    Parameters
    ----------
    console : Console
        The terminal.
    title : str
        Text before the bar.
    """

    def __init__(self, console: Console, title: str) -> None:
        self._console, self._title = console, title
        self._rounds = self._done = self._cells = self._ended = 0
        self._started = time.monotonic()
        self._begun: dict[str, float] = {}
        self._seen: dict[str, int] = {}
        self._last: dict[str, Mapping[str, Any]] = {}
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("rounds"),
            TimeElapsedColumn(),
            TextColumn("left {task.fields[left]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def planned(self, cells: Sequence[Cell], finished: int) -> None:
        """Print the number of cells finished before, if there are any, and start the bar."""
        self._rounds, self._cells = sum(cell.experiment.rounds for cell in cells), len(cells)
        self._started = time.monotonic()
        if finished:
            self._say(f"{finished} cells have finished before, {len(cells)} to go")
        self._task = self._bar.add_task(self._title, total=self._rounds, left="?")
        self._bar.start()

    def began(self, cell: Cell) -> None:
        """Remember the present time as that at which the cell began."""
        self._begun[cell.key] = time.monotonic()

    def on_round(self, cell: Cell, line: Mapping[str, Any]) -> None:
        """Move the bar to the round that the cell has reached."""
        self._last[cell.key] = line["server"]
        self._advance(cell, line["round"])

    def ended(self, cell: Cell, error: str | None) -> None:
        """Move the bar past the cell; print its accuracy or error, its time and the time left."""
        self._advance(cell, cell.experiment.rounds)
        self._ended += 1
        seconds = time.monotonic() - self._begun[cell.key]
        accuracy = self._last.get(cell.key, {}).get("accuracy")
        outcome = f"failed: {error}" if error else "finished"
        if accuracy is not None and not error:
            outcome = f"accuracy {accuracy:.3f}"
        width = len(str(self._cells))
        number = f"[{self._ended:>{width}}/{self._cells}]"
        self._say(f"{number} {cell.label}: {outcome}, {seconds:.1f} s, {self._left} left")

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
        self._bar.console.print(text, highlight=False, markup=False, soft_wrap=True)
