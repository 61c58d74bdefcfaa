"""Read and check a sweep: its axes, and the experiment in each of its cells."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from hqde_fl.clients.task_check import needs_validation
from hqde_fl.errors import ConfigError, UnknownNameError
from hqde_fl.own_modules import is_own, searched_first
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.experiment.overrides import name_of, read_toml, with_overrides
from hqde_fl.simulations.experiment.shipped import experiment_file_of
from hqde_fl.simulations.recording.comparison import SEED
from hqde_fl.simulations.statistics.analysis import FAULT_AXES, Analysis
from hqde_fl.simulations.sweep.sweep_table import Axis, axes_of, document_at

CELLS = "cells"
"""Directory of the run directories of a sweep, in its own."""

RECORD_KEYS = ("name", "checkpoint", "callbacks", "monitor")
"""Keys of an experiment that only concern its records."""

LOCATION_KEYS = ("address", "runtime-env")
"""Keys of ``[engine]`` that no result depends on."""


@dataclass(frozen=True)
class Cell:
    """One experiment of a sweep.

    Parameters
    ----------
    labels : tuple[str, ...]
        Its label on each axis.
    experiment : Experiment
        The experiment.
    key : str
        Hash of all settings that decide the result; equal keys mean equal results.
    """

    labels: tuple[str, ...]
    experiment: Experiment
    key: str

    @property
    def label(self) -> str:
        """Return the cell's labels, joined by commas."""
        return ", ".join(self.labels)

    @property
    def directory(self) -> str:
        """Return the cell's run directory, ``cells/KEY``, relative to the sweep's."""
        return f"{CELLS}/{self.key}"


@dataclass(frozen=True)
class Sweep:
    """A checked sweep.

    Parameters
    ----------
    name : str
        Name of the experiments.
    axes : tuple[Axis, ...]
        The keys and variables that vary.
    cells : tuple[Cell, ...]
        The product of the axes; the last axis varies fastest.
    analysis : Analysis
        How the results are compared.
    document : Mapping[str, Any]
        The file with all overrides.
    """

    name: str
    axes: tuple[Axis, ...]
    cells: tuple[Cell, ...]
    analysis: Analysis = field(default_factory=Analysis)
    document: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Self:
        """Return the sweep that a TOML file with a ``[sweep]`` table describes.

        Parameters
        ----------
        path : str or Path
            The file, or the name of one that comes with hqde-fl, such as ``robustness``.
        overrides : Sequence[str]
            ``"dotted.key=value"``; ``sweep.NAME=[...]`` for an axis.

        Raises
        ------
        ConfigError
            If the file has no ``[sweep]`` table, if it, an axis or any cell is wrong, or if an
            override sets a key that varies.
        """
        path = experiment_file_of(path)
        document = {"name": name_of(path), **read_toml(path)}
        if not isinstance(document.get("sweep"), Mapping):
            raise ConfigError(f"{path} has no [sweep] table: run it with `hqde-fl run {path}`")
        with searched_first(Path(path).absolute().parent):
            return cls.parse(document, str(path), overrides)

    @classmethod
    def parse(cls, document: Mapping[str, Any], source: str, overrides: Sequence[str] = ()) -> Self:
        """Return the sweep that a document with a ``sweep`` table describes.

        Parameters
        ----------
        document : Mapping[str, Any]
            The content of a file.
        source : str
            What the document is called in error messages.
        overrides : Sequence[str]
            As of ``load``.

        Raises
        ------
        ConfigError
            As of ``load``.
        """
        defaults = Experiment.defaults()
        document = with_overrides(document, overrides, defaults)
        file = copy.deepcopy(document)
        analysis, table = Analysis.take(document.pop("sweep"))
        document.setdefault("checkpoint", {"every": 0})  # an interrupted cell starts over
        document.setdefault("monitor", {"enabled": False})
        axes = axes_of(table, document, defaults)
        if not axes:
            raise ConfigError(f"{source}: [sweep] needs at least one key with a list of values")
        analysis = _with_axis_names(analysis, axes, source)
        analysis.line_axis([axis for axis in axes if axis.name != SEED])
        _refuse_swept(overrides, axes)
        choices = [list(zip(axis.values, axis.labels, strict=True)) for axis in axes]
        cells: list[Cell] = []
        reduced: dict[str, Experiment] = {}
        for chosen in itertools.product(*choices):
            labels = tuple(label for _, label in chosen)
            try:
                changed = document_at(document, axes, [value for value, _ in chosen], defaults)
                experiment = _without_unused_faults(Experiment.parse(changed), reduced)
            except ConfigError as error:
                _check_name(document, source)
                raise ConfigError(f"{source}: cell {', '.join(labels)}: {error}") from None
            cells.append(Cell(labels, experiment, key_of(experiment)))
        if analysis.choose:
            _require_validation(cells, source)
        return cls(cells[0].experiment.name, axes, tuple(cells), analysis, file)

    @property
    def distinct(self) -> tuple[Cell, ...]:
        """Return the cells without those that have the same result as an earlier one."""
        first: dict[str, Cell] = {}
        for cell in self.cells:
            first.setdefault(cell.key, cell)
        return tuple(first.values())


def key_of(experiment: Experiment) -> str:
    """Return a hash of everything that decides the result of an experiment."""
    table: dict[str, Any] = experiment.to_table()
    for name in RECORD_KEYS:
        table.pop(name, None)
    table["engine"] = {k: v for k, v in table["engine"].items() if k not in LOCATION_KEYS}
    text = json.dumps(table, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _without_unused_faults(experiment: Experiment, known: dict[str, Experiment]) -> Experiment:
    """Return an experiment without the faults of no clients; the given one if it has none.

    Parameters
    ----------
    experiment : Experiment
        The experiment.
    known : dict[str, Experiment]
        Results of earlier calls, which differ in no other table; the new one is added. Checking
        takes longer than all else, and without faults many cells of a sweep are the same.
    """
    counts = [fault.count for fault in experiment.parts.faults.faults]
    if all(counts):
        return experiment
    table = experiment.to_table()
    pairs = zip(table["faults"], counts, strict=True)
    table = {**table, "faults": [fault for fault, count in pairs if count]}
    text = json.dumps(table, sort_keys=True)
    if text not in known:
        known[text] = Experiment.parse(table)
    return known[text]


def _with_axis_names(analysis: Analysis, axes: Sequence[Axis], source: str) -> Analysis:
    """Return an analysis in which ``choose`` names axes as tables do, not by their keys.

    Raises ``ConfigError`` if a key is no axis, or is the seed or about faults.
    """
    names = []
    for key in analysis.choose:
        found = [axis for axis in axes if key in (axis.written, axis.key, axis.name)]
        if not found:
            raise UnknownNameError("[sweep] choose: axis", key, [axis.written for axis in axes])
        if found[0].name == SEED or found[0].name.partition(".")[0] in FAULT_AXES:
            raise ConfigError(
                f"{source}: [sweep] choose needs hyperparameters, found {key!r}: "
                "the seed and the faults are not to be chosen"
            )
        names.append(found[0].name)
    return replace(analysis, choose=tuple(dict.fromkeys(names)))


def _require_validation(cells: Sequence[Cell], source: str) -> None:
    """Raise ``ConfigError`` unless all cells with a built-in task have a validation set.

    Those of the user's own are loaded when the sweep begins.
    """
    for cell in cells:
        task = cell.experiment.task
        if not is_own(task["name"]) and not task.get("validation"):
            raise ConfigError(f"{source}: {needs_validation('[sweep] choose')}")


def _check_name(document: Mapping[str, Any], source: str) -> None:
    """Raise ``ConfigError`` if the sweep's name is none, which is not the fault of any cell."""
    try:
        name = document.get("name", "sweep")
        if not str(name).startswith("$"):  # else each cell has its own
            Experiment.parse({"name": name})
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def _refuse_swept(overrides: Sequence[str], axes: Sequence[Axis]) -> None:
    """Raise ``ConfigError`` for an override of a swept key, which would have no effect."""
    for override in overrides:
        key = override.partition("=")[0].strip()
        for axis in axes:
            if not axis.variable and (key == axis.key or key.startswith(f"{axis.key}.")):
                raise ConfigError(
                    f"{key} varies in this sweep: set it with --set 'sweep.{axis.written}=[...]'"
                )
