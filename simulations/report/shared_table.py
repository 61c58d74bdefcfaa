"""Rebuild the file of a sweep from the experiments of its runs and its axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hqde_fl.simulations.recording.comparison import ComparisonAxis

MISSING = object()


def shared_table(
    experiments: Sequence[Mapping[str, Any]], axes: Sequence[ComparisonAxis]
) -> dict[str, Any]:
    """Return what all experiments of a sweep have in common, and its axes as ``[sweep]``.

    Parameters
    ----------
    experiments : Sequence[Mapping[str, Any]]
        The experiments of the runs that have begun, at least one.
    axes : Sequence[ComparisonAxis]
        The axes, whose values stand in the table as they are, or as their labels.
    """
    common = dict(experiments[0])
    for experiment in experiments[1:]:
        common = _common(common, experiment)
    return {**common, "sweep": {axis.name: list(axis.texts) for axis in axes}}


def _common(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of two tables that are equal, and of tables in both what they share.

    Components, which are tables with a name, are either equal or left out.
    """
    common: dict[str, Any] = {}
    for key, value in one.items():
        there = other.get(key, MISSING)
        if there == value:
            common[key] = value
        elif isinstance(value, Mapping) and isinstance(there, Mapping) and "name" not in value:
            common[key] = _common(value, there)
    return common
