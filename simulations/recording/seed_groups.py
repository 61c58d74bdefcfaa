"""The cells of a sweep, and groups of cells that differ in their seed only."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from hqde_fl.clients.objective import Objective
from hqde_fl.simulations.recording.detection import Detection
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.statistics.samples import Interval, Method, Sample


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

    def final(self, metric: str) -> float | None:
        """Return the final value of a server metric of a finished run, None if there is none."""
        if self.run is None or self.status != "finished":
            return None
        return self.run.final.get(metric)

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
        Their labels on the other axes, that of the compared axis first.
    rows : tuple[ComparisonRow, ...]
        The cells, one for each seed, at least one.
    seeds : tuple[str, ...]
        The label of each cell's seed; all are "" in a sweep that does not vary it.
    objective : Objective
        The metric that is compared.
    interval_method : str, default="t"
        How intervals are computed.
    """

    labels: tuple[str, ...]
    rows: tuple[ComparisonRow, ...]
    seeds: tuple[str, ...]
    objective: Objective
    interval_method: Method = "t"

    @cached_property
    def by_seed(self) -> dict[str, float]:
        """Seed -> the final value of the compared metric, for the seeds that have a finite one."""
        return self.finals(self.objective.primary)

    def finals(self, metric: str) -> dict[str, float]:
        """Return seed -> the final value of a metric, for finished runs with a finite value."""
        pairs = zip(self.seeds, self.rows, strict=True)
        values = {seed: row.final(metric) for seed, row in pairs}
        return {seed: value for seed, value in values.items() if value is not None}

    @property
    def complete(self) -> bool:
        """True if all seeds finished with a finite value of the compared metric."""
        return len(self.by_seed) == len(self.rows)

    @cached_property
    def sample(self) -> Sample | None:
        """The final values of the compared metric, or None unless the group is complete."""
        return self.sample_of(self.objective.primary)

    def sample_of(self, metric: str) -> Sample | None:
        """Return the final values of a metric, or None unless all seeds have a finite one."""
        finals = self.finals(metric)
        if len(finals) < len(self.rows):
            return None
        return self.measured(metric, tuple(finals.values()))

    def measured(self, metric: str, values: tuple[float, ...]) -> Sample:
        """Return values of a metric as a sample, with the interval's method and bounds."""
        return Sample(values, self.interval_method, self.objective.bounds(metric))

    @property
    def mean(self) -> float | None:
        """The mean of the compared metric over the seeds, or None unless the group is complete."""
        return None if self.sample is None else self.sample.mean

    @property
    def deviation(self) -> float | None:
        """The standard deviation over the seeds, or None for one seed or an incomplete group."""
        return None if self.sample is None else self.sample.deviation

    @property
    def interval(self) -> Interval | None:
        """The 95 % interval of the mean, or None for one seed or an incomplete group."""
        return None if self.sample is None else self.sample.interval

    @property
    def badness(self) -> float | None:
        """The mean with the sign that makes greater worse, or None unless it is complete."""
        return None if self.mean is None else self.objective.badness(self.mean)

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
        """The status of the first cell that did not finish, or ``finished`` if all did.

        ``not finite`` if all finished, and one without a finite value of the compared metric.
        """
        unfinished = (row.status for row in self.rows if row.status != "finished")
        return next(unfinished, "finished" if self.complete else "not finite")

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
