"""A sweep, read and checked: its axes, and the experiment in each of its cells."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.experiment.model import Experiment
from hqde_fl.simulations.experiment.overrides import read_toml, with_overrides
from hqde_fl.simulations.sweep.grammar import Axis, axes_of, place

CELLS = "cells"
"""Where the run directories of a sweep are."""

RECORDS = ("name", "checkpoint")
"""Of an experiment, what only says how it is kept."""

ELSEWHERE = ("address", "runtime-env")
"""What an engine is told that no result depends on."""


@dataclass(frozen=True)
class Cell:
    """One place of a sweep.

    Parameters
    ----------
    labels : tuple[str, ...]
        What it is called on each axis.
    experiment : Experiment
        What is run.
    key : str
        The same for experiments that come out the same.
    """

    labels: tuple[str, ...]
    experiment: Experiment
    key: str

    @property
    def label(self) -> str:
        """All its labels."""
        return ", ".join(self.labels)

    @property
    def directory(self) -> str:
        """Its run directory, relative to the sweep's."""
        return f"{CELLS}/{self.key}"


@dataclass(frozen=True)
class Sweep:
    """A sweep, checked.

    Parameters
    ----------
    name : str
        Of the file.
    axes : tuple[Axis, ...]
        What varies.
    cells : tuple[Cell, ...]
        Their product, the last axis fastest.
    """

    name: str
    axes: tuple[Axis, ...]
    cells: tuple[Cell, ...]

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Self:
        """Read a TOML file with a ``[sweep]`` table.

        Parameters
        ----------
        path : str or Path
            The file.
        overrides : Sequence[str]
            ``"dotted.key=value"``; ``sweep.NAME=[...]`` for what varies.

        Raises
        ------
        ConfigError
            If the file, an axis or any cell is wrong.
        """
        document = read_toml(path)
        if not isinstance(document.get("sweep"), Mapping):
            raise ConfigError(f"{path} has no [sweep] table: run it with `hqde-fl run {path}`")
        defaults = Experiment.defaults()
        document = with_overrides({"name": Path(path).stem, **document}, overrides, defaults)
        table = document.pop("sweep")
        document.setdefault("checkpoint", {"every": 0})  # a cell that is cut short begins anew
        axes = axes_of(table, document, defaults)
        if not axes:
            raise ConfigError(f"{path}: [sweep] needs at least one key with a list of values")
        _refuse_swept(overrides, axes)
        choices = [list(zip(axis.values, axis.labels, strict=True)) for axis in axes]
        cells = []
        for chosen in itertools.product(*choices):
            labels = tuple(label for _, label in chosen)
            try:
                changed = place(document, axes, [value for value, _ in chosen], defaults)
                experiment = _without_idle(Experiment.parse(changed))
            except ConfigError as error:
                raise ConfigError(f"{path}: cell {', '.join(labels)}: {error}") from None
            cells.append(Cell(labels, experiment, key_of(experiment)))
        return cls(cells[0].experiment.name, axes, tuple(cells))

    @property
    def distinct(self) -> tuple[Cell, ...]:
        """The cells without those that come out the same as an earlier one."""
        found: dict[str, Cell] = {}
        for cell in self.cells:
            found.setdefault(cell.key, cell)
        return tuple(found.values())


def key_of(experiment: Experiment) -> str:
    """A hash of everything that decides how an experiment comes out."""
    table: dict[str, Any] = experiment.to_table()
    for name in RECORDS:
        table.pop(name, None)
    table["engine"] = {k: v for k, v in table["engine"].items() if k not in ELSEWHERE}
    text = json.dumps(table, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _without_idle(experiment: Experiment) -> Experiment:
    """An experiment without the faults that nobody has."""
    counts = [fault.count for fault in experiment.parts.faults.faults]
    if all(counts):
        return experiment
    table = experiment.to_table()
    pairs = zip(table["faults"], counts, strict=True)
    return Experiment.parse({**table, "faults": [fault for fault, count in pairs if count]})


def _refuse_swept(overrides: Sequence[str], axes: Sequence[Axis]) -> None:
    """An override of what varies would have no effect."""
    for override in overrides:
        key = override.partition("=")[0].strip()
        for axis in axes:
            if not axis.variable and (key == axis.key or key.startswith(f"{axis.key}.")):
                raise ConfigError(
                    f"{key} varies in this sweep: set it with --set 'sweep.{axis.written}=[...]'"
                )
