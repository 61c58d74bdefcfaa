"""The result of a run, as a program uses it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.experiment.own_modules import add_folders
from hqde_fl.simulations.python_api.frames import clients_frame, rounds_frame
from hqde_fl.simulations.recording.comparison import Comparison
from hqde_fl.simulations.recording.file_names import REPORT
from hqde_fl.simulations.recording.recorded_run import Run

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import nn


@dataclass(frozen=True)
class RunResult:
    """The outcome of a run, and all that its directory holds.

    Parameters
    ----------
    path : Path
        The run directory.
    final : Mapping[str, float | None]
        The server's metrics of the last round.
    void_rounds : str or None
        One line about the rounds without an aggregate, if there were any.
    given : Experiment or None
        The experiment that was run, where this process ran it. Otherwise ``experiment`` reads it
        from the directory.
    """

    path: Path
    final: Mapping[str, float | None]
    void_rounds: str | None = None
    given: Experiment | None = field(default=None, repr=False, compare=False)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read the directory of a run, which may still be going on.

        Raises
        ------
        ConfigError
            If there is no run in the directory, or its files are damaged.
        """
        run = Run.load(path)
        return cls(run.path, run.final, run.void_rounds)

    @cached_property
    def recorded(self) -> Run:
        """The content of the run directory, read when it is first needed."""
        return Run.load(self.path)

    @cached_property
    def experiment(self) -> Experiment:
        """The experiment of the run; modules of its own are searched for where the run did."""
        if self.given is not None:
            return self.given
        manifest = self.recorded.manifest
        add_folders(manifest.get("import-from", ()))
        return Experiment.parse(manifest["experiment"])

    @cached_property
    def rounds(self) -> pd.DataFrame:
        """One row for each round; round 0 is the initial model. docs/python.md has the columns."""
        return rounds_frame([({}, self.recorded)])

    @cached_property
    def clients(self) -> pd.DataFrame:
        """One row for each client and round in which it was asked to train."""
        return clients_frame([({}, self.recorded)])

    @cached_property
    def results(self) -> pd.DataFrame:
        """One row with the columns of a sweep's ``results.csv``: final metrics, counts, bytes."""
        from hqde_fl.simulations.python_api.results_frame import results_frame

        return results_frame(Comparison.of(self.recorded)).drop(columns="cell")

    def models(self) -> list[nn.Module]:
        """Return new modules with the final weights, one for each member of the ensemble.

        Raises
        ------
        ConfigError
            If the run has no final model, or its task cannot be loaded.
        """
        from hqde_fl.simulations.python_api.trained_models import trained_models

        return trained_models(self.path, self.experiment)

    def model(self, member: int | None = None) -> nn.Module:
        """Return a new module with the final weights, on the CPU and in evaluation mode.

        Parameters
        ----------
        member : int, optional
            The member of an ensemble, from 0; needed if there are several.

        Raises
        ------
        ConfigError
            If there is no such member, several and none is chosen, no final model, or its task
            cannot be loaded.
        """
        members = self.experiment.clients.members
        if member is None and members > 1:
            raise ConfigError(
                f"the run trained {members} members: choose one, from model(0) to "
                f"model({members - 1}), or take models()"
            )
        if member is not None and not 0 <= member < members:
            raise ConfigError(f"member must be in [0, {members}), found {member}")
        return self.models()[member or 0]

    @property
    def voters(self) -> tuple[int, ...]:
        """The members that vote after the last round: all, unless ``clients.voters`` is set.

        Raises
        ------
        ConfigError
            If members are to be chosen, but the run has not finished.
        """
        clients = self.experiment.clients
        if not clients.voters:
            return tuple(range(clients.members))
        if (chosen := self.recorded.manifest.get("voters")) is None:
            raise ConfigError(f"{self.path} has no voters: the run did not finish")
        return tuple(chosen["members"])

    def report(self) -> Path:
        """Return the path of ``report.html``, which is drawn if it is missing."""
        if not (self.path / REPORT).exists():
            from hqde_fl.simulations.report import write_report

            write_report(Comparison.of(Run.load(self.path)), self.path)
        return self.path / REPORT

    def plot(self, metric: str | None = None) -> Figure:
        """Return a figure of a server metric over the rounds.

        Parameters
        ----------
        metric : str, optional
            The metric; the task's primary one if not given.

        Raises
        ------
        ConfigError
            If the server did not measure the metric.
        """
        from hqde_fl.simulations.python_api.metric_plot import plot_metric

        return plot_metric(Comparison.of(self.recorded), metric)
