"""Compare the runs of a sweep: its axes, its cells and the groups of cells with equal labels."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import inf
from pathlib import Path
from typing import Any, Protocol, Self

from hqde_fl.clients.objective import Objective
from hqde_fl.errors import ConfigError, UnknownNameError
from hqde_fl.simulations.experiment.display_names import component_label, faults_label
from hqde_fl.simulations.recording.atomic_files import replace_file
from hqde_fl.simulations.recording.baseline_differences import (
    BaselineDifferences,
    baseline_differences,
)
from hqde_fl.simulations.recording.file_names import INDEX, MANIFEST
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.recording.seed_groups import ComparisonRow, SeedGroup
from hqde_fl.simulations.statistics.analysis import Analysis
from hqde_fl.simulations.statistics.mean_ranks import MeanRanks, mean_ranks
from hqde_fl.simulations.statistics.paired import PairedDifference

SEED = "seed"
"""The axis over which results are averaged."""


class AxisLike(Protocol):
    """An axis of a sweep: its name, its values and their labels."""

    @property
    def name(self) -> str:
        """The name of the axis."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The label of each value."""

    @property
    def texts(self) -> tuple[Any, ...]:
        """The values if all are booleans, numbers or strings, else their labels."""


@dataclass(frozen=True)
class ComparisonAxis:
    """An axis as tables show it.

    Parameters
    ----------
    name : str
        The name of the axis.
    labels : tuple[str, ...]
        The label of each value.
    texts : tuple[Any, ...]
        The values if all are booleans, numbers or strings, else their labels.
    """

    name: str
    labels: tuple[str, ...]
    texts: tuple[Any, ...]

    @classmethod
    def of(cls, axis: AxisLike) -> Self:
        """Return a copy of an axis with its name, labels and texts only."""
        return cls(axis.name, tuple(axis.labels), tuple(axis.texts))

    def text(self, label: str) -> Any:
        """Return the entry of ``texts`` for a label; raise ``ValueError`` for an unknown label."""
        return self.texts[self.labels.index(label)]


@dataclass(frozen=True)
class Comparison:
    """The runs of a sweep; one run alone is a comparison without axes.

    Parameters
    ----------
    title : str
        The name of the sweep or run.
    axes : tuple[ComparisonAxis, ...]
        The axes, in the order of the file.
    rows : tuple[ComparisonRow, ...]
        The cells.
    analysis : Analysis, optional
        The metric and the axis that are compared, the baseline, and the kind of interval.
    document : Mapping[str, Any], optional
        The file of the sweep with all overrides; empty if it was not recorded.

    Raises
    ------
    ConfigError
        If the analysis names an axis or a baseline that the sweep does not have.
    """

    title: str
    axes: tuple[ComparisonAxis, ...]
    rows: tuple[ComparisonRow, ...]
    analysis: Analysis = field(default_factory=Analysis)
    document: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.analysis.line_axis([axis for axis in self.axes if axis.name != SEED])

    def check_metric(self) -> None:
        """Raise ``ConfigError`` if the analysis names a metric that no run has measured.

        Nothing is raised as long as no run has measured any.
        """
        metric, known = self.analysis.metric, self.metrics
        if metric is not None and known and metric not in known:
            raise UnknownNameError("metric of the sweep", metric, known)

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that the server measured in any run, the compared one first."""
        measured = {name for run in self._runs for line in run.rounds for name in line["server"]}
        return tuple(sorted(measured, key=lambda name: (name != self.metric, name)))

    @cached_property
    def client_metrics(self) -> tuple[str, ...]:
        """The metrics that clients reported in any run, but not times."""
        return tuple(sorted({name for run in self._runs for name in run.client_metrics}))

    @classmethod
    def read(
        cls,
        base: Path,
        title: str,
        axes: Iterable[AxisLike],
        cells: Iterable[tuple[Sequence[str], str, str | None]],
        analysis: Analysis | None = None,
        document: Mapping[str, Any] | None = None,
    ) -> Self:
        """Read the runs of a sweep's cells from their directories.

        Parameters
        ----------
        base : Path
            The directory of the sweep.
        title : str
            Its name.
        axes : Iterable[AxisLike]
            Its axes.
        cells : Iterable[tuple[Sequence[str], str, str | None]]
            The labels, the directory (relative to ``base``) and the error of each cell, whether or
            not it has begun. Cells with the same directory share its run.
        analysis : Analysis, optional
            How the results are compared.
        document : Mapping[str, Any], optional
            The file of the sweep.
        """
        runs: dict[str, Run | None] = {}
        rows = []
        for labels, directory, error in cells:
            if directory not in runs:
                path = base / directory
                runs[directory] = Run.load(path) if (path / MANIFEST).exists() else None
            run = runs[directory]
            error = error or (None if run is None else run.manifest["error"])
            rows.append(ComparisonRow(tuple(labels), directory, run, error))
        shown = tuple(map(ComparisonAxis.of, axes))
        return cls(title, shown, tuple(rows), analysis or Analysis(), document or {})

    @classmethod
    def load(cls, path: str | Path, changes: Mapping[str, str] | None = None) -> Self:
        """Read the directory of a sweep or of a run.

        Parameters
        ----------
        path : str or Path
            The directory.
        changes : Mapping[str, str], optional
            Settings of the sweep's analysis that replace those in its file.

        Raises
        ------
        ConfigError
            If the directory is neither, if its files are damaged, or if the analysis of a sweep
            names what it does not have.
        """
        path = Path(path)
        if not (path / INDEX).exists():
            if not (path / MANIFEST).exists():
                raise ConfigError(f"{path} is no run directory: no {MANIFEST}, no {INDEX}")
            return cls.of(Run.load(path))
        try:
            index = json.loads((path / INDEX).read_text(encoding="utf-8"))
            name, settings = index["name"], dict(index.get("analysis", {}))
            document = dict(index.get("file", {}))
            axes = [
                ComparisonAxis(axis["name"], tuple(axis["labels"]), tuple(axis["values"]))
                for axis in index["axes"]
            ]
            cells = [
                (cell["labels"], os.fspath(cell["directory"]), cell["error"])
                for cell in index["cells"]
            ]
            for labels, _, _ in cells:
                for axis, label in zip(axes, labels, strict=True):
                    axis.text(label)
        except (OSError, ValueError, LookupError, TypeError) as error:
            cause = f"{type(error).__name__}: {error}"
            raise ConfigError(f"{path / INDEX} is damaged: {cause}") from None
        analysis = Analysis(**{**settings, **(changes or {})})
        return cls.read(path, name, axes, cells, analysis, document)

    @classmethod
    def of(cls, run: Run) -> Self:
        """Return a comparison with one run as its only row and no axes."""
        experiment = run.manifest["experiment"]
        label = component_label(experiment["strategy"]["rule"])
        labels = (f"{label}, {faults_label(experiment['faults'])}",)
        row = ComparisonRow(labels, ".", run, run.manifest["error"])
        return cls(str(run.manifest["name"]), (), (row,))

    def save(self, path: Path) -> None:
        """Write ``sweep.json``, from which ``load`` reads a sweep, into the directory ``path``."""
        cells = [
            {"labels": row.labels, "directory": row.directory, "error": row.error}
            for row in self.rows
        ]
        axes = [
            {"name": axis.name, "labels": axis.labels, "values": axis.texts} for axis in self.axes
        ]
        index: dict[str, Any] = {"name": self.title, "axes": axes, "cells": cells}
        if settings := self.analysis.to_table():
            index["analysis"] = settings
        if self.document:
            index["file"] = self.document
        replace_file(path / INDEX, (json.dumps(index, indent=1) + "\n").encode())

    @property
    def _runs(self) -> list[Run]:
        return [row.run for row in self.rows if row.run is not None]

    @cached_property
    def objective(self) -> Objective:
        """The metric that is compared, and the direction of all metrics.

        It is the primary metric of the runs' tasks, or the loss if these have different ones.
        """
        begun = [run for run in self._runs if run.rounds or "objective" in run.manifest]
        objectives = [run.objective for run in begun]
        primaries = list(dict.fromkeys(objective.primary for objective in objectives))
        shared = primaries[0] if len(primaries) == 1 else "loss"
        primary = self.analysis.metric or (shared if primaries else Objective().primary)
        directions: dict[str, bool] = {}
        for objective in objectives:
            directions |= objective.directions
        return Objective(primary, directions)

    @property
    def metric(self) -> str:
        """The name of the metric that is compared."""
        return self.objective.primary

    @cached_property
    def compared_axes(self) -> tuple[ComparisonAxis, ...]:
        """The axes that results are not averaged over: all but the seed.

        The first one is that whose values are compared.
        """
        return tuple(self.axes[place] for place in self._places)

    @cached_property
    def _places(self) -> list[int]:
        """The places of the compared axes among all axes."""
        places = [place for place, axis in enumerate(self.axes) if axis.name != SEED]
        first = self.analysis.line_axis([self.axes[place] for place in places])
        return sorted(places, key=lambda place: self.axes[place] is not first)

    @cached_property
    def groups(self) -> tuple[SeedGroup, ...]:
        """The cells, grouped by their labels on all axes but the seed."""
        seed = next((place for place, axis in enumerate(self.axes) if axis.name == SEED), None)
        by_labels: dict[tuple[str, ...], list[ComparisonRow]] = {}
        for row in self.rows:
            labels = tuple(row.labels[place] for place in self._places)
            labels = labels if self.axes else row.labels
            by_labels.setdefault(labels or (self.title,), []).append(row)
        return tuple(
            SeedGroup(
                labels,
                tuple(rows),
                tuple("" if seed is None else row.labels[seed] for row in rows),
                self.objective,
                self.analysis.method,
            )
            for labels, rows in by_labels.items()
        )

    @cached_property
    def lines(self) -> tuple[str, ...]:
        """Labels on the axis that is compared: the rows of a table.

        Without such an axis there is one row, labelled by the run or the title.
        """
        return tuple(dict.fromkeys(group.labels[0] for group in self.groups))

    @cached_property
    def columns(self) -> tuple[tuple[str, ...], ...]:
        """Combinations of labels on all axes but the compared one and the seed: the conditions."""
        return tuple(dict.fromkeys(group.labels[1:] for group in self.groups))

    @cached_property
    def distinct_columns(self) -> tuple[tuple[str, ...], ...]:
        """The columns without those that show the same runs as an earlier one."""
        distinct: dict[tuple[str, ...], tuple[str, ...]] = {}
        for column in self.columns:
            groups = [self.group_at(line, column) for line in self.lines]
            names = tuple(name for group in groups for name in group.directories)
            distinct.setdefault(names, column)
        return tuple(distinct.values())

    def group_at(self, line: str, column: tuple[str, ...]) -> SeedGroup:
        """Return the group with an entry of ``lines`` and of ``columns`` as its labels."""
        return self._by_labels[line, *column]

    def groups_of(self, line: str) -> list[SeedGroup]:
        """Return all groups whose first label is ``line``; none for an unknown label."""
        return [group for group in self.groups if group.labels[0] == line]

    @cached_property
    def _by_labels(self) -> dict[tuple[str, ...], SeedGroup]:
        return {group.labels: group for group in self.groups}

    @property
    def baseline_line(self) -> str:
        """The line that the others are compared with, each under the same condition."""
        return self.analysis.baseline or self.lines[0]

    @cached_property
    def differences(self) -> BaselineDifferences:
        """The differences of all groups and lines to those of the baseline."""
        return baseline_differences(self)

    def difference(self, group: SeedGroup) -> PairedDifference | None:
        """Return a group's difference to the baseline under the same condition.

        It is None for the baseline itself, and without a common seed.
        """
        return self.differences.groups.get(group.labels)

    def is_worse(self, difference: PairedDifference | None) -> bool:
        """Return True if the whole interval of a difference is on the worse side of zero."""
        interval = None if difference is None else difference.sample.interval
        return interval is not None and min(map(self.objective.badness, interval)) > 0

    @cached_property
    def mean_ranks(self) -> MeanRanks | None:
        """The mean ranks of the lines over the conditions that have finished for all of them.

        A finished group without a finite value ranks last. None with one line or no condition.
        """
        finished = [
            column
            for column in self.distinct_columns
            if all(
                self.group_at(line, column).status in ("finished", "not finite")
                for line in self.lines
            )
        ]
        badness = {
            line: [
                inf if (value := self.group_at(line, column).badness) is None else value
                for column in finished
            ]
            for line in self.lines
        }
        return mean_ranks(badness)
