"""Registries: names and the frozen dataclasses behind them, and the errors for unknown names."""

from __future__ import annotations

import pickle

import pytest

from hqde_fl.errors import ConfigError, UnknownNameError
from hqde_fl.rules import RULES, ByzantineFilter, Chain, GeometricMedian, Mean, Median, TrimmedMean


def test_build_from_a_table_or_a_bare_name() -> None:
    assert RULES.build({"name": "trimmed-mean", "f": 3}) == TrimmedMean(f=3)
    assert RULES.build("median") == Median()
    assert RULES.build({"name": "mean", "weighted": True, "cap": 2}) == Mean(True, 2.0)


def test_rules_of_rules_are_nested_tables() -> None:
    table = {"name": "chain", "rules": [{"name": "geometric-median", "iterations": 5}]}
    assert RULES.build(table) == Chain(GeometricMedian(iterations=5))
    table = {"name": "byzantine-filter", "median": {"name": "geometric-median"}}
    assert RULES.build(table) == ByzantineFilter()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            {"name": "trimed-mean", "f": 3},
            "unknown rule 'trimed-mean': did you mean 'trimmed-mean'",
        ),
        (
            {"name": "trimmed-mean", "g": 3},
            "unknown parameter of rule 'trimmed-mean' 'g': known: f",
        ),
        ({"name": "trimmed-mean"}, "rule 'trimmed-mean' needs f"),
        ({"name": "trimmed-mean", "f": -1}, "TrimmedMean needs f >= 0, found -1"),
        ({"name": "trimmed-mean", "f": "many"}, "rule trimmed-mean.f: .*integer.*found 'many'"),
        ({"f": 3}, "rule needs a name, found None"),
        ({"name": "byzantine-filter", "median": {"naem": 1}}, "rule needs a name, found None"),
        ({"name": "chain", "rules": ["meen"]}, "unknown rule 'meen': did you mean 'mean'"),
    ],
)
def test_a_wrong_table_is_one_clear_line(table: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        RULES.build(table)
    assert "\n" not in str(caught.value)


def test_names_and_summaries_can_be_listed() -> None:
    assert "byzantine-filter" in list(RULES)
    assert RULES.summary("median").startswith("Median of every coordinate")
    assert RULES.parameters("trimmed-mean") == {"f": ...}
    assert RULES.name_of(Median()) == "median"


def test_without_known_names_none_is_suggested() -> None:
    assert str(UnknownNameError("rule", "krun", [])) == "unknown rule 'krun'"


def test_errors_survive_pickling() -> None:
    error = UnknownNameError("rule", "krun", ["krum"])
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) == "unknown rule 'krun': did you mean 'krum'?"
