"""Compare the runs of a sweep: its axes, its cells and the groups of cells with equal labels."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.experiment.display_names import component_label, faults_label
from hqde_fl.simulations.recording.atomic_files import replace_file
from hqde_fl.simulations.recording.file_names import INDEX, MANIFEST
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.recording.seed_groups import ComparisonRow, SeedGroup

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
        The axes. The first that is not the seed makes the rows of a table, the others its columns.
    rows : tuple[ComparisonRow, ...]
        The cells. The group of the first is the baseline.
    """

    title: str
    axes: tuple[ComparisonAxis, ...]
    rows: tuple[ComparisonRow, ...]

    @classmethod
    def read(
        cls,
        base: Path,
        title: str,
        axes: Iterable[AxisLike],
        cells: Iterable[tuple[Sequence[str], str, str | None]],
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
        return cls(title, tuple(map(ComparisonAxis.of, axes)), tuple(rows))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read the directory of a sweep or of a run.

        Raises
        ------
        ConfigError
            If the directory is neither, or its files are damaged.
        """
        path = Path(path)
        if not (path / INDEX).exists():
            if not (path / MANIFEST).exists():
                raise ConfigError(f"{path} is no run directory: no {MANIFEST}, no {INDEX}")
            return cls.of(Run.load(path))
        try:
            index = json.loads((path / INDEX).read_text(encoding="utf-8"))
            name = index["name"]
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
        return cls.read(path, name, axes, cells)

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
        index = {"name": self.title, "axes": axes, "cells": cells}
        replace_file(path / INDEX, (json.dumps(index, indent=1) + "\n").encode())

    @cached_property
    def compared_axes(self) -> tuple[ComparisonAxis, ...]:
        """The axes that results are not averaged over: all but the seed."""
        return tuple(axis for axis in self.axes if axis.name != SEED)

    @cached_property
    def groups(self) -> tuple[SeedGroup, ...]:
        """The cells, grouped by their labels on all axes but the seed."""
        compared = [place for place, axis in enumerate(self.axes) if axis.name != SEED]
        by_labels: dict[tuple[str, ...], list[ComparisonRow]] = {}
        for row in self.rows:
            labels = tuple(row.labels[place] for place in compared) if self.axes else row.labels
            by_labels.setdefault(labels or (self.title,), []).append(row)
        return tuple(SeedGroup(labels, tuple(rows)) for labels, rows in by_labels.items())

    @cached_property
    def lines(self) -> tuple[str, ...]:
        """Labels on the first axis that is not the seed: the rows of a table.

        Without such an axis there is one row, labelled by the run or the title.
        """
        return tuple(dict.fromkeys(group.labels[0] for group in self.groups))

    @cached_property
    def columns(self) -> tuple[tuple[str, ...], ...]:
        """Combinations of labels on all axes but the first and the seed: the columns of a table."""
        return tuple(dict.fromkeys(group.labels[1:] for group in self.groups))

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
    def baseline(self) -> SeedGroup:
        """The first group, with which the others are compared."""
        return self.groups[0]

    def difference(self, group: SeedGroup) -> float | None:
        """Return a group's final accuracy minus the baseline's, or None if either is missing."""
        if group.accuracy is None or self.baseline.accuracy is None:
            return None
        return group.accuracy - self.baseline.accuracy
