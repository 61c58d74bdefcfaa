"""The cells of a sweep, and groups of cells that differ in their seed only."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from hqde_fl.simulations.recording.detection import Detection
from hqde_fl.simulations.recording.recorded_run import Run


@dataclass(frozen=True)
class ComparisonRow:
    """One cell of a sweep with its run.

    Parameters
    ----------
    labels : tuple[str, ...]
        The label of the cell's value on each axis.
    directory : str
        Its run directory, relative to the sweep's.
    run : Run or None
        Its run, or None if it has not begun.
    error : str or None
        The error that ended it, or None if it did not fail.
    """

    labels: tuple[str, ...]
    directory: str
    run: Run | None
    error: str | None = None

    @property
    def accuracy(self) -> float | None:
        """The final accuracy of a finished run; None if it did not finish or measured none."""
        return self.run.accuracy if self.run is not None and self.status == "finished" else None

    @property
    def status(self) -> str:
        """``failed`` with an error, ``not run`` without a run, else the status in the manifest."""
        if self.error:
            return "failed"
        return "not run" if self.run is None else str(self.run.manifest["status"])


@dataclass(frozen=True)
class SeedGroup:
    """The cells of a sweep that differ in their seed only.

    Parameters
    ----------
    labels : tuple[str, ...]
        Their labels on the other axes.
    rows : tuple[ComparisonRow, ...]
        The cells, one for each seed, at least one.
    """

    labels: tuple[str, ...]
    rows: tuple[ComparisonRow, ...]

    @property
    def accuracies(self) -> tuple[float, ...]:
        """The final accuracies of the seeds that finished and measured one."""
        return tuple(row.accuracy for row in self.rows if row.accuracy is not None)

    @property
    def accuracy(self) -> float | None:
        """The mean final accuracy, or None unless all seeds finished and measured one."""
        return fmean(self.accuracies) if len(self.accuracies) == len(self.rows) else None

    @property
    def spread(self) -> float | None:
        """Half the distance between the best and worst final accuracy; None with fewer than two."""
        accuracies = self.accuracies
        return (max(accuracies) - min(accuracies)) / 2 if len(accuracies) > 1 else None

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs that began, one for each seed at most."""
        return tuple(row.run for row in self.rows if row.run is not None)

    @property
    def directories(self) -> tuple[str, ...]:
        """The run directories; two groups with the same ones show the same runs."""
        return tuple(row.directory for row in self.rows)

    @property
    def error(self) -> str | None:
        """The error of the first cell that failed, or None if none failed."""
        return next((row.error for row in self.rows if row.error), None)

    @property
    def status(self) -> str:
        """The status of the first cell that did not finish, or ``finished`` if all did."""
        return next((row.status for row in self.rows if row.status != "finished"), "finished")

    @cached_property
    def detection(self) -> Detection:
        """The counts of filtered, judged and unjudged clients over all runs that began."""
        return Detection.total(run.detection for run in self.runs)

    @property
    def faulty(self) -> bool:
        """True if any run has clients that are faulty in some round."""
        return any(run.faulty for run in self.runs)

    @property
    def filters(self) -> bool:
        """True if any run has a rule that can filter clients."""
        return any(run.filters for run in self.runs)
