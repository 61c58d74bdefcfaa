"""The settings of a comparison of a sweep's results, in its ``[sweep]`` table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Protocol, Self

from hqde_fl.errors import ConfigError, UnknownNameError
from hqde_fl.simulations.statistics.samples import METHODS, Method

ROUNDS = ("last", "best")
"""Values of ``choose-round``."""

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
    interval : str, optional
        How 95 % intervals are computed: ``t``, the default, or ``bootstrap``. If it is given, the
        tables for a paper have the interval in place of the standard deviation.
    metric : str, optional
        The server's metric that is compared; by default the primary one of the task.
    compare : str, optional
        Name of the axis whose values are compared; by default the first that is neither the seed
        nor about faults, else the first that is not the seed.
    baseline : str, optional
        The label on that axis that the others are compared with; the first if not given.
    choose : tuple[str, ...], optional
        Names of the axes whose values are hyperparameters: for each setting those count that are
        best on the validation set under their worst attack.
    choose_round : str, default="last"
        Whose model the choice and the results are about: that of the ``last`` round, or of the
        ``best`` one on the validation set, for each attack, averaged over the seeds.
    """

    interval: Method | None = None
    metric: str | None = None
    compare: str | None = None
    baseline: str | None = None
    choose: tuple[str, ...] = ()
    choose_round: Literal["last", "best"] = "last"

    def __post_init__(self) -> None:
        if not isinstance(self.choose, list | tuple) or not all(
            isinstance(name, str) for name in self.choose
        ):
            raise ConfigError(f"[sweep] choose needs to be a list of keys, found {self.choose!r}")
        object.__setattr__(self, "choose", tuple(self.choose))
        for name, value in self.to_table().items():
            if name != "choose" and not isinstance(value, str):
                key = name.replace("_", "-")
                raise ConfigError(f"[sweep] {key} needs to be a string, found {value!r}")
        if self.choose_round not in ROUNDS:
            raise UnknownNameError("choose-round", self.choose_round, ROUNDS)
        if self.interval is not None and self.interval not in METHODS:
            raise UnknownNameError("interval", self.interval, METHODS)

    @property
    def method(self) -> Method:
        """The way in which 95 % intervals are computed: ``interval``, or by default ``t``."""
        return self.interval or "t"

    @classmethod
    def take(cls, table: Mapping[str, Any]) -> tuple[Self, dict[str, Any]]:
        """Return the settings in a ``[sweep]`` table, and the table without them.

        A list under one of these keys but ``choose`` is an axis, as under any other.
        """
        names = {field.name.replace("_", "-") for field in fields(cls)}
        axes = {
            key: value
            for key, value in table.items()
            if key not in names or (key != "choose" and isinstance(value, list | Mapping))
        }
        given = {key: value for key, value in table.items() if key not in axes}
        return cls(**{key.replace("-", "_"): value for key, value in given.items()}), axes

    def to_table(self) -> dict[str, Any]:
        """Return the settings that are given, by name."""
        table = {name: value for name, value in asdict(self).items() if value is not None}
        if not self.choose:
            table.pop("choose")
        if self.choose_round == "last":
            table.pop("choose_round")
        return table

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
            if self.compare in self.choose:
                raise ConfigError(
                    f"[sweep] compare needs an axis that is not in choose, found {self.compare!r}"
                )
            chosen: LabelledAxis | None = named[self.compare]
        else:
            others = [
                axis
                for axis in axes
                if axis.name.partition(".")[0] not in FAULT_AXES and axis.name not in self.choose
            ]
            chosen = next(iter([*others, *axes]), None)
        labels = () if chosen is None else chosen.labels
        if self.baseline is not None and self.baseline not in labels:
            raise UnknownNameError("baseline of the sweep", self.baseline, labels)
        return chosen
