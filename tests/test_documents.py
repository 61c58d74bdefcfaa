"""The code in the documents runs as it stands, and prints what they show."""

from __future__ import annotations

import contextlib
import io
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message, RecordDict

from hqde_fl.privacy.secagg import SecureAggregation
from hqde_fl.rules import Rule, aggregate
from hqde_fl.simulations.engines.inline import InlineGrid
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.updates import Updates

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(document: str) -> list[tuple[str, str]]:
    """Return the language and the text of each code block of a document."""
    return BLOCK.findall((ROOT / document).read_text())


def names_of(code: str) -> dict[str, Any]:
    """Return the names that the code defines."""
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, "example", "exec"), names)
    return names


def test_the_first_lines_of_the_readme_print_what_it_shows() -> None:
    found = blocks("README.md")
    first = next(place for place, (language, _) in enumerate(found) if language == "python")
    code, shown = found[first][1], found[first + 1][1]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        names_of(code)
    assert printed.getvalue() == shown


@pytest.mark.parametrize("document", ["CONTRIBUTING.md", "docs/rules.md"])
def test_the_example_of_a_new_rule_runs(document: str) -> None:
    codes = [code for language, code in blocks(document) if "(Rule)" in code]
    (rule,) = (
        value
        for value in names_of(codes[0]).values()
        if isinstance(value, type) and issubclass(value, Rule) and value is not Rule
    )
    outcome = aggregate(rule(), Updates(torch.randn(5, 20, generator=torch.manual_seed(0))))
    assert outcome.delta.shape == (20,)
    assert float(outcome.influence.sum()) == pytest.approx(1)
    assert rule().breakdown(5) == 0


def test_the_example_of_the_rules_runs() -> None:
    names = names_of(blocks("docs/rules.md")[0][1])
    assert names["result"].delta.shape == (1000,)


def test_the_examples_of_secure_aggregation() -> None:
    found = blocks("docs/secure-aggregation.md")
    (table,) = (text for language, text in found if language == "toml")
    experiment = Experiment.parse(tomllib.loads(table))
    assert experiment.parts.aggregation.secure_aggregation == SecureAggregation(5, 4)
    apps = [names_of(text)["app"] for language, text in found if language == "python"]
    for app in apps:
        InlineGrid(app, 1, {}, seed=1)  # makes this process one of a run, as messages need
        message = Message(RecordDict(), 1, "query.secure_keys")
        reply = app(message, Context(1, 1, {}, RecordDict(), {}))
        assert "without masks" in reply.error.reason  # there is no record in it
