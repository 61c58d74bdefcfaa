"""The settings of a comparison of a sweep's results, in its ``[sweep]`` table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol, Self

from hqde_fl.errors import ConfigError, UnknownNameError
from hqde_fl.simulations.statistics.samples import METHODS, Method

FAULT_AXES = ("attack", "f", "faults")
"""Names of axes that make conditions rather than lines, whether or not they come first."""


class LabelledAxis(Protocol):
    """An axis of a sweep."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The label of each value."""


@dataclass(frozen=True)
class Analysis:
    """The settings by which the results of a sweep are compared.

    Parameters
    ----------
    interval : str, default="t"
        How 95 % intervals are computed: ``t`` or ``bootstrap``.
    metric : str, optional
        The server's metric that is compared; by default the primary one of the task.
    compare : str, optional
        Name of the axis whose values are compared; by default the first that is neither the seed
        nor about faults, else the first that is not the seed.
    baseline : str, optional
        The label on that axis that the others are compared with; the first if not given.
    """

    interval: Method = "t"
    metric: str | None = None
    compare: str | None = None
    baseline: str | None = None

    def __post_init__(self) -> None:
        for name, value in self.to_table().items():
            if not isinstance(value, str):
                raise ConfigError(f"[sweep] {name} needs to be a string, found {value!r}")
        if self.interval not in METHODS:
            raise UnknownNameError("interval", self.interval, METHODS)

    @classmethod
    def take(cls, table: Mapping[str, Any]) -> tuple[Self, dict[str, Any]]:
        """Return the settings in a ``[sweep]`` table, and the table without them.

        A list under one of these keys is an axis, as under any other.
        """
        names = {field.name for field in fields(cls)}
        axes = {
            key: value
            for key, value in table.items()
            if key not in names or isinstance(value, list | Mapping)
        }
        return cls(**{key: value for key, value in table.items() if key not in axes}), axes

    def to_table(self) -> dict[str, str]:
        """Return the settings that are given, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def line_axis(self, axes: Sequence[LabelledAxis]) -> LabelledAxis | None:
        """Return the axis whose values are compared, None if there is none but the seed.

        Raises
        ------
        ConfigError
            If ``compare`` is no axis, or ``baseline`` none of its labels.
        """
        if self.compare is not None:
            named = {axis.name: axis for axis in axes}
            if self.compare not in named:
                raise UnknownNameError("axis to compare", self.compare, named)
            chosen: LabelledAxis | None = named[self.compare]
        else:
            others = [axis for axis in axes if axis.name.partition(".")[0] not in FAULT_AXES]
            chosen = next(iter([*others, *axes]), None)
        labels = () if chosen is None else chosen.labels
        if self.baseline is not None and self.baseline not in labels:
            raise UnknownNameError("baseline of the sweep", self.baseline, labels)
        return chosen
