"""Keep ``report.html`` of a sweep up to date while its cells finish."""

from __future__ import annotations

import time
from collections.abc import Callable
from logging import WARNING
from pathlib import Path

from hqde_fl.protocol.flower_internals import log
from hqde_fl.simulations.recording.atomic_files import replace_file
from hqde_fl.simulations.recording.comparison import Comparison
from hqde_fl.simulations.recording.file_names import REPORT
from hqde_fl.terminal_text import describe_error

PAUSE_SECONDS = 10.0
"""Seconds between two drawings, at least."""

PAUSE_RATIO = 20.0
"""Ratio of the pause after a drawing to its duration, at least: drawing takes 5 % at most."""


class InterimReport:
    """Draws the page of an unfinished sweep from time to time, without the figures for papers.

    An error is logged once and ends the drawing, not the sweep.

    Parameters
    ----------
    out : Path
        The directory of the sweep.
    read : Callable[[], Comparison]
        Reads what there is of it.
    """

    def __init__(self, out: Path, read: Callable[[], Comparison]) -> None:
        self._out, self._read = out, read
        self._next = time.monotonic() + PAUSE_SECONDS

    def refresh(self) -> None:
        """Draw the page, unless that was done a moment ago."""
        if time.monotonic() >= self._next:
            self.draw()

    def draw(self) -> None:
        """Draw the page, if any cell has begun."""
        started = time.monotonic()
        try:
            comparison = self._read()
            if any(row.run is not None for row in comparison.rows):
                from hqde_fl.simulations.report import render

                replace_file(self._out / REPORT, render(comparison).encode())
        except Exception as error:
            log(WARNING, "%s is not drawn before the end: %s", REPORT, describe_error(error))
            self._next = float("inf")
            return
        ended = time.monotonic()
        self._next = ended + max(PAUSE_SECONDS, PAUSE_RATIO * (ended - started))
