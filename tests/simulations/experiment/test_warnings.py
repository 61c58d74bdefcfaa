"""Experiments that can run and are probably mistakes."""

from __future__ import annotations

from typing import Any

import pytest

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.experiment.warnings import require_none, warnings_of


def experiment(*faults: dict[str, Any], rounds: int = 4) -> Experiment:
    table = {"rounds": rounds, "clients": {"count": 10}, "faults": list(faults)}
    return Experiment.parse({**table, "strategy": {"rule": {"name": "median"}}})


FLIP: dict[str, Any] = {"name": "sign-flip"}


@pytest.mark.parametrize(
    ("faults", "warning"),
    [
        ([], None),
        ([{**FLIP, "count": 4}], None),
        ([{**FLIP, "count": 10}], "all 10 clients are faulty in every round: no update is honest"),
        (
            [{**FLIP, "count": 3}, {"name": "nan", "count": 2}],
            "5 of 10 clients are faulty in every round: no rule tolerates half of them or more",
        ),
        (
            [{**FLIP, "count": 4}, {"name": "nan", "count": 2, "start": 4}],
            "6 of 10 clients are faulty in round 4: no rule tolerates half of them or more",
        ),
        (
            [{**FLIP, "count": 6, "start": 2}],
            "6 of 10 clients are faulty in round 2 and 2 more: no rule tolerates half of them",
        ),
    ],
)
def test_as_many_faulty_clients_as_no_rule_tolerates_are_said(
    faults: list[dict[str, Any]], warning: str | None
) -> None:
    found = warnings_of(experiment(*faults))
    if warning is None:
        assert found == []
        require_none(found)
        return
    assert [line[: len(warning)] for line in found] == [warning]
    with pytest.raises(ConfigError, match=r"faulty .* \(an error because of --strict\)$"):
        require_none(found)


@pytest.mark.parametrize(
    ("strategy", "speed", "warns"),
    [
        ({"selector": {"name": "adaptive", "fraction": 0.5}}, False, True),
        ({"selector": {"name": "oort", "fraction": 0.5}}, True, False),
        ({"selector": {"name": "power-of-choice", "fraction": 0.5}}, False, False),
        ({"selector": {"name": "round-robin", "fraction": 0.5}}, False, False),
        ({"rule": {"name": "mean", "efficiency": 1.0}}, False, True),
        ({"rule": {"name": "mean", "efficiency": 1.0}}, True, False),
        ({"rule": {"name": "mean"}}, False, False),
    ],
)
def test_decisions_by_real_time_are_said(
    strategy: dict[str, Any], speed: bool, warns: bool
) -> None:
    clients: dict[str, Any] = {"count": 10}
    if speed:
        clients["speed"] = {"name": "log-uniform", "ratio": 10.0}
    experiment = Experiment.parse({"clients": clients, "strategy": strategy})
    assert ["decides by measured times" in line for line in warnings_of(experiment)] == [
        True
    ] * warns
