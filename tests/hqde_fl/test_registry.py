"""Registries: names and the frozen dataclasses behind them, and the errors for unknown names."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field

import pytest

from hqde_fl.errors import ConfigError, UnknownNameError
from hqde_fl.registry import Registry
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


@dataclass(frozen=True)
class OwnMean(Mean):
    """A mean of a test."""

    factor: float = 2.0
    hidden: int = field(default=0, init=False)


class Opaque:
    """No file can have one."""


@dataclass(frozen=True)
class OpaqueMean(Mean):
    """Has a parameter that no file can give."""

    things: Opaque | None = None


OWN = f"{__name__}:OwnMean"


def test_a_class_of_the_users_own() -> None:
    assert RULES.build({"name": OWN, "factor": 3}) == OwnMean(factor=3.0)
    assert RULES.parameters(OWN) == {**RULES.parameters("mean"), "factor": 2.0}
    assert RULES.name_of(OwnMean()) == OWN
    nested = {"name": "chain", "rules": [{"name": OWN, "factor": 3}]}
    assert RULES.build(nested) == Chain(OwnMean(factor=3.0))
    with pytest.raises(ConfigError, match=r"unknown parameter of rule .* 'hidden': "):
        RULES.build({"name": OWN, "hidden": 3})
    with pytest.raises(ConfigError, match=r"OpaqueMean.things cannot be set in a file"):
        RULES.build({"name": f"{__name__}:OpaqueMean", "things": 3})


def test_nothing_is_imported_for_a_name_from_elsewhere() -> None:
    """A server names codecs in messages; its clients import none of them."""
    registry = Registry[Mean]("rule", Mean, {"mean": Mean})
    with pytest.raises(UnknownNameError, match="unknown rule"):
        registry.build({"name": OWN}, imports=False)
    registry.build({"name": OWN})
    assert registry.build({"name": OWN}, imports=False) == OwnMean()
    assert registry.build("mean", imports=False) == Mean()


def test_names_are_listed_without_imports() -> None:
    registry = Registry[Mean]("rule", "no_such_module:Mean", {"mean": "no_such_module:Mean"})
    assert [*registry] == ["mean"]
    assert "mean" in registry
    assert registry.reference("mean") == "no_such_module:Mean"
    with pytest.raises(ModuleNotFoundError):
        registry["mean"]
