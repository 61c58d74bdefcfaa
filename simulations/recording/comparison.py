"""Runs side by side: what the console table, ``results.csv`` and the report are made from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol, Self

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.experiment.labels import component_label, faults_label
from hqde_fl.simulations.recording.atomic_files import replace_file
from hqde_fl.simulations.recording.detection import Detection
from hqde_fl.simulations.recording.run_directory import MANIFEST, Run

INDEX = "sweep.json"
SEED = "seed"
"""The axis over which results are averaged."""


class AxisLike(Protocol):
    """Something that varies: its name, what its values are called, and as plain values."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def labels(self) -> tuple[str, ...]:
        """What its values are called."""

    @property
    def texts(self) -> tuple[Any, ...]:
        """Its values: plain, or else their labels."""


@dataclass(frozen=True)
class Shown:
    """An axis as a table shows it.

    Parameters
    ----------
    name : str
        What it is called.
    labels : tuple[str, ...]
        What its values are called.
    texts : tuple[Any, ...]
        The values: plain, or else their labels.
    """

    name: str
    labels: tuple[str, ...]
    texts: tuple[Any, ...]

    @classmethod
    def of(cls, axis: AxisLike) -> Self:
        """What is shown of an axis."""
        return cls(axis.name, tuple(axis.labels), tuple(axis.texts))

    def text(self, label: str) -> Any:
        """The value with a label."""
        return self.texts[self.labels.index(label)]


@dataclass(frozen=True)
class Row:
    """What became of one cell of a sweep.

    Parameters
    ----------
    labels : tuple[str, ...]
        What the cell is called on each axis.
    directory : str
        Its run directory, relative to the sweep's.
    run : Run or None
        Its run, if it began.
    error : str or None
        Why it failed, if it did.
    """

    labels: tuple[str, ...]
    directory: str
    run: Run | None
    error: str | None = None

    @property
    def accuracy(self) -> float | None:
        """The final accuracy of a run that finished."""
        return self.run.accuracy if self.run is not None and self.status == "finished" else None

    @property
    def status(self) -> str:
        """How the run ended."""
        if self.error:
            return "failed"
        return "not run" if self.run is None else str(self.run.manifest["status"])


@dataclass(frozen=True)
class Group:
    """The cells of a sweep that differ in their seed only.

    Parameters
    ----------
    labels : tuple[str, ...]
        What they are called on the other axes.
    rows : tuple[Row, ...]
        One for each seed, at least one.
    """

    labels: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def accuracies(self) -> tuple[float, ...]:
        """Of the seeds that finished."""
        return tuple(row.accuracy for row in self.rows if row.accuracy is not None)

    @property
    def accuracy(self) -> float | None:
        """The mean over the seeds; None unless all of them finished."""
        return fmean(self.accuracies) if len(self.accuracies) == len(self.rows) else None

    @property
    def spread(self) -> float | None:
        """Half the distance between the best and the worst seed; None if there is only one."""
        found = self.accuracies
        return (max(found) - min(found)) / 2 if len(found) > 1 else None

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs that began."""
        return tuple(row.run for row in self.rows if row.run is not None)

    @property
    def error(self) -> str | None:
        """Why a seed failed, if one did."""
        return next((row.error for row in self.rows if row.error), None)

    @property
    def status(self) -> str:
        """How the worst of its runs ended."""
        found = [row.status for row in self.rows]
        return next((status for status in found if status != "finished"), found[0])

    @cached_property
    def detection(self) -> Detection:
        """How well faulty clients were told from honest ones, over all seeds."""
        return Detection.total(run.detection for run in self.runs)

    @property
    def faulty(self) -> bool:
        """Whether anybody was."""
        return any(run.faulty for run in self.runs)

    @property
    def filters(self) -> bool:
        """Whether the rule singles out clients."""
        return any(run.filters for run in self.runs)


@dataclass(frozen=True)
class Comparison:
    """The runs of a sweep; one run alone is a comparison without axes.

    Parameters
    ----------
    title : str
        What was run.
    axes : tuple[Shown, ...]
        What varies. The first that is not the seed makes the rows of a table, the others its
        columns.
    rows : tuple[Row, ...]
        The cells; the first is what the others are measured against.
    """

    title: str
    axes: tuple[Shown, ...]
    rows: tuple[Row, ...]

    @classmethod
    def read(
        cls,
        base: Path,
        title: str,
        axes: Iterable[AxisLike],
        cells: Iterable[tuple[Sequence[str], str, str | None]],
    ) -> Self:
        """The cells of a sweep (labels, directory, error), whether or not they have begun.

        Cells that share a directory share its run.
        """
        runs: dict[str, Run | None] = {}
        rows = []
        for labels, directory, error in cells:
            if directory not in runs:
                path = base / directory
                runs[directory] = Run.load(path) if (path / MANIFEST).exists() else None
            run = runs[directory]
            error = error or (None if run is None else run.manifest["error"])
            rows.append(Row(tuple(labels), directory, run, error))
        return cls(title, tuple(map(Shown.of, axes)), tuple(rows))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read the directory of a sweep or of a run.

        Raises
        ------
        ConfigError
            If it is neither.
        """
        path = Path(path)
        if not (path / INDEX).exists():
            if not (path / MANIFEST).exists():
                raise ConfigError(f"{path} is no run directory: no {MANIFEST}, no {INDEX}")
            return cls.of(Run.load(path))
        try:
            index = json.loads((path / INDEX).read_text(encoding="utf-8"))
            name = index["name"]
            axes = [Shown(a["name"], tuple(a["labels"]), tuple(a["values"])) for a in index["axes"]]
            cells = [
                (cell["labels"], os.fspath(cell["directory"]), cell["error"])
                for cell in index["cells"]
            ]
            for labels, _, _ in cells:
                for axis, label in zip(axes, labels, strict=True):
                    axis.text(label)
        except (OSError, ValueError, LookupError, TypeError) as error:
            what = f"{type(error).__name__}: {error}"
            raise ConfigError(f"{path / INDEX} is damaged: {what}") from None
        return cls.read(path, name, axes, cells)

    @classmethod
    def of(cls, run: Run) -> Self:
        """One run."""
        experiment = run.manifest["experiment"]
        label = component_label(experiment["strategy"]["rule"])
        labels = (f"{label}, {faults_label(experiment['faults'])}",)
        row = Row(labels, ".", run, run.manifest["error"])
        return cls(str(run.manifest["name"]), (), (row,))

    def save(self, path: Path) -> None:
        """Write what ``load`` reads."""
        cells = [
            {"labels": row.labels, "directory": row.directory, "error": row.error}
            for row in self.rows
        ]
        axes = [{"name": a.name, "labels": a.labels, "values": a.texts} for a in self.axes]
        index = {"name": self.title, "axes": axes, "cells": cells}
        replace_file(path / INDEX, (json.dumps(index, indent=1) + "\n").encode())

    @cached_property
    def compared(self) -> tuple[Shown, ...]:
        """The axes that are not averaged over."""
        return tuple(axis for axis in self.axes if axis.name != SEED)

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The cells, those that differ in their seed together."""
        keep = [place for place, axis in enumerate(self.axes) if axis.name != SEED]
        found: dict[tuple[str, ...], list[Row]] = {}
        for row in self.rows:
            labels = tuple(row.labels[place] for place in keep) if self.axes else row.labels
            found.setdefault(labels or (self.title,), []).append(row)
        return tuple(Group(labels, tuple(rows)) for labels, rows in found.items())

    @cached_property
    def lines(self) -> tuple[str, ...]:
        """Labels of the first axis: a table's rows."""
        return tuple(dict.fromkeys(group.labels[0] for group in self.groups))

    @cached_property
    def columns(self) -> tuple[tuple[str, ...], ...]:
        """Labels on the other axes: a table's columns."""
        return tuple(dict.fromkeys(group.labels[1:] for group in self.groups))

    def at(self, line: str, column: tuple[str, ...]) -> Group:
        """The group with these labels."""
        return self._by_labels[line, *column]

    @cached_property
    def _by_labels(self) -> dict[tuple[str, ...], Group]:
        return {group.labels: group for group in self.groups}

    @property
    def baseline(self) -> Group:
        """What the others are measured against."""
        return self.groups[0]

    def difference(self, group: Group) -> float | None:
        """Final accuracy minus the baseline's."""
        if group.accuracy is None or self.baseline.accuracy is None:
            return None
        return group.accuracy - self.baseline.accuracy


def fixed(value: float | None, digits: int = 3) -> str:
    """A number with so many decimals, or a dash."""
    return "\u2013" if value is None else f"{value:.{digits}f}"


def signed(value: float | None) -> str:
    """A difference, or a dash."""
    return "\u2013" if value is None else f"{value:+.3f}".replace("-", "\u2212")
