"""The reference of the experiment file is complete, true and current."""

from __future__ import annotations

import ast
import dataclasses
import json
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from hqde_fl.simulations.console.kinds import FAULT_KEYS, KINDS, TABLES, keys
from hqde_fl.simulations.console.reference import example, reference
from hqde_fl.simulations.experiment.display_names import CLIENT_KEYS
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.experiment.faults import SCHEDULE_KEYS
from hqde_fl.simulations.statistics.analysis import Analysis

ROOT = Path(__file__).resolve().parents[3]


def fields(model: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """Return dotted key -> field, for every key that is no table of fixed keys."""
    found: dict[str, FieldInfo] = {}
    for name, field in model.model_fields.items():
        key = prefix + (field.alias or name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= fields(field.annotation, f"{key}.")
        else:
            found[key] = field
    return found


def test_every_key_with_its_default_and_bounds() -> None:
    model, written = fields(Experiment), keys()
    inner = {key for key in written if key.rpartition(".")[0] in (*TABLES, "faults", "sweep")}
    assert set(model) == set(written) - inner
    for key, field in model.items():
        assert ast.literal_eval(str(written[key].default)) == field.default, key
        assert written[key].meaning.endswith("."), key
        bounds = [getattr(entry, "ge", None) for entry in field.metadata]
        for bound in (bound for bound in bounds if bound is not None):
            assert written[key].bounds.split(", ")[0] == f">= {bound}"


def test_settings_of_a_sweep() -> None:
    settings = [key.name for key in dataclasses.fields(Analysis)]
    assert [key for key in keys() if key.startswith("sweep.")] == [f"sweep.{n}" for n in settings]


def test_keys_of_a_fault() -> None:
    assert [key.name for key in FAULT_KEYS] == [
        "name",
        "count",
        "fraction",
        "clients",
        *SCHEDULE_KEYS,
    ]
    assert set(CLIENT_KEYS) < {key.name for key in FAULT_KEYS}


@pytest.mark.parametrize("key", [key for key in keys() if key != "faults"])
def test_every_example_is_toml(key: str) -> None:
    (value,) = tomllib.loads(example(key, keys()[key])).values()
    assert value or keys()[key].default in ("0", "0.0", "False")


def test_every_key_and_every_part_is_in_it() -> None:
    text = reference()
    assert all(f"| `{key.rpartition('.')[2]}` |" in text for key in keys() if key != "faults")
    for kind in KINDS.values():
        assert f"## {kind.name}\n" in text
        assert all(f"`{name}`" in text for name in kind)


def test_every_example_of_a_part_can_be_read() -> None:
    parts = [block.partition("\n```")[0] for block in reference().split("```toml\n")[1:]]
    for block in parts:
        document = tomllib.loads(block)
        if "sweep" not in document and "..." not in block:
            document.setdefault("clients", {})["count"] = 10
            Experiment.parse(json.loads(json.dumps(document)))


def test_the_page_is_current() -> None:
    page = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert page == reference(), "run `hqde-fl reference > docs/reference.md`"
