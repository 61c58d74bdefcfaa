"""Rank the compared values of a sweep by the cells that have finished so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from statistics import fmean

from hqde_fl.clients.objective import Objective
from hqde_fl.simulations.recording.comparison import SEED
from hqde_fl.simulations.sweep.cells import Sweep


@dataclass(frozen=True)
class LineSoFar:
    """One value of the axis that is compared, and its cells that have finished.

    Parameters
    ----------
    label : str
        The label of the value.
    values : tuple[float, ...]
        The final values of the compared metric, each different cell once.
    cells : int
        Number of its different cells.
    worst : float or None
        The worst of the values, None without any.
    """

    label: str
    values: tuple[float, ...]
    cells: int
    worst: float | None

    @property
    def mean(self) -> float | None:
        """The mean of the values, None without any."""
        return fmean(self.values) if self.values else None


class RankingSoFar:
    """Collects the final metrics of a sweep's cells and ranks the values that are compared.

    Parameters
    ----------
    sweep : Sweep
        The sweep.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.objective = Objective(sweep.analysis.metric or "accuracy")
        self._metric = sweep.analysis.metric
        self._finals: dict[str, Mapping[str, float | None]] = {}
        axis = sweep.analysis.line_axis([axis for axis in sweep.axes if axis.name != SEED])
        place = next((at for at, other in enumerate(sweep.axes) if other is axis), None)
        self.axis = "" if axis is None else axis.name
        self._keys: dict[str, dict[str, None]] = {}
        for cell in sweep.cells:
            label = sweep.name if place is None else cell.labels[place]
            self._keys.setdefault(label, {})[cell.key] = None

    def add(self, key: str, final: Mapping[str, float | None], objective: Objective) -> None:
        """Add the final metrics of a cell, and what its task says about them."""
        self.objective = Objective(self._metric or objective.primary, objective.directions)
        self._finals[key] = final

    @property
    def lines(self) -> Sequence[LineSoFar]:
        """The compared values, the best first by their worst cell so far; then those without."""
        lines = [self._line(label, list(keys)) for label, keys in self._keys.items()]
        badness = self.objective.badness
        return sorted(lines, key=lambda line: inf if line.worst is None else badness(line.worst))

    def _line(self, label: str, keys: Sequence[str]) -> LineSoFar:
        found = [self._finals.get(key, {}).get(self.objective.primary) for key in keys]
        values = tuple(value for value in found if value is not None)
        worst = max(values, key=self.objective.badness, default=None)
        return LineSoFar(label, values, len(keys), worst)
