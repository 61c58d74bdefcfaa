"""The result of a sweep, as a program uses it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.python_api.frames import clients_frame, rounds_frame
from hqde_fl.simulations.python_api.results_frame import results_frame
from hqde_fl.simulations.python_api.run_result import RunResult
from hqde_fl.simulations.recording.comparison import Comparison
from hqde_fl.simulations.recording.file_names import INDEX, REPORT
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.sweep.tables import place_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class SweepResult:
    """The outcome of a sweep, and all that its directory holds.

    Parameters
    ----------
    path : Path
        The directory of the sweep.
    given : Mapping[str, Experiment]
        Cell -> its experiment, where this process ran the sweep.
    """

    path: Path
    given: Mapping[str, Experiment] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read the directory of a sweep, which may still be going on.

        Raises
        ------
        ConfigError
            If there is no sweep in the directory, or its files are damaged.
        """
        path = Path(path).resolve()
        if not (path / INDEX).exists():
            raise ConfigError(f"{path} holds no sweep: it has no {INDEX}")
        result = cls(path)
        _ = result.comparison
        return result

    @cached_property
    def comparison(self) -> Comparison:
        """The runs of all cells, read when they are first needed."""
        return Comparison.load(self.path)

    @cached_property
    def results(self) -> pd.DataFrame:
        """One row for each cell and seed, with the columns of ``results.csv``."""
        return results_frame(self.comparison)

    @cached_property
    def rounds(self) -> pd.DataFrame:
        """One row for each round of each cell: the axes, ``cell``, then as of a single run."""
        return rounds_frame(self._runs())

    @cached_property
    def clients(self) -> pd.DataFrame:
        """One row for each client, round and cell: the axes, ``cell``, then as of a single run."""
        return clients_frame(self._runs())

    @cached_property
    def runs(self) -> dict[str, RunResult]:
        """The runs that finished, by their cell as the column ``cell`` of ``results`` has it."""
        runs = {}
        for row in self.comparison.rows:
            if row.run is not None and row.status == "finished":
                cell, run = _cell(row.directory), row.run
                runs[cell] = RunResult(run.path, run.final, run.void_rounds, self.given.get(cell))
        return runs

    @property
    def errors(self) -> dict[str, str]:
        """The errors of the cells that failed, by their cell."""
        return {_cell(row.directory): row.error for row in self.comparison.rows if row.error}

    def report(self) -> Path:
        """Return the path of ``report.html``, which is drawn if it is missing."""
        if not (self.path / REPORT).exists():
            from hqde_fl.simulations.report import write_report

            write_report(self.comparison, self.path)
        return self.path / REPORT

    def plot(self, metric: str | None = None) -> Figure:
        """Return a figure of a server metric over the rounds, with a panel for each condition.

        A line is the mean over the seeds, the area around it the 95 % interval of the mean, from
        three seeds on.

        Parameters
        ----------
        metric : str, optional
            The metric; the compared one if not given.

        Raises
        ------
        ConfigError
            If the server did not measure the metric.
        """
        from hqde_fl.simulations.python_api.metric_plot import plot_metric

        return plot_metric(self.comparison, metric)

    def _runs(self) -> Iterator[tuple[Mapping[str, Any], Run]]:
        for row in self.comparison.rows:
            if row.run is not None:
                yield place_of(self.comparison, row) | {"cell": _cell(row.directory)}, row.run


def _cell(directory: str) -> str:
    return directory.rpartition("/")[2]
