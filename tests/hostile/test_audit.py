"""Tests of the audit, with strategies that withstand the catalogue and others that do not."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from hqde_fl.errors import ConfigError, UnknownNameError
from hqde_fl.simulations.audit import HOSTILE
from hqde_fl.simulations.audit.audited_strategies import build_strategy
from hqde_fl.simulations.audit.catalogue import GROUPS
from hqde_fl.simulations.audit.command import UNMEASURED, cell, to_markdown, verdict
from hqde_fl.simulations.audit.peak_memory import PeakMeter, memory_bound
from hqde_fl.simulations.audit.strategy_audit import StrategyAudit, audit, select_rows
from hqde_fl.simulations.audit.trial import Finding
from hqde_fl.simulations.console.command_line import app

FAULTY = "tests.hostile.faulty:"


def test_rows_have_unique_names_and_a_description() -> None:
    assert len(HOSTILE) == sum(map(len, GROUPS.values()))
    assert all(re.fullmatch(r"[\w.^-]+", name) for name in HOSTILE)
    assert all(row.behaviour and row.behaviour[0].islower() for row in HOSTILE.values())


def test_the_documentation_lists_every_row() -> None:
    page = (Path(__file__).parents[2] / "docs" / "hostile.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([^`]+)`", page, re.MULTILINE) == list(HOSTILE)


def test_rows_are_selected_by_pattern() -> None:
    assert [row.name for row in select_rows(["header-*", "one-nan"])][-1] == "one-nan"
    assert len(select_rows([])) == len(HOSTILE)
    with pytest.raises(UnknownNameError, match=r"unknown row 'one-nam': did you mean 'one-nan'\?"):
        select_rows(["one-nam"])


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("FedAvgg", "did you mean 'FedAvg'"),
        ("no.module:x", "there is no module 'no.module'"),
        (f"{FAULTY}nothing", "has no 'nothing'"),
        (f"{FAULTY}number", "must be a Strategy or return one, found 3"),
        (f"{FAULTY}Picky", "cannot be called without arguments"),
        (f"{FAULTY}raises", "'tests.hostile.faulty:raises' raised ValueError: not today"),
        ("a b:c", "must read package.module:attribute"),
    ],
)
def test_a_name_that_is_no_strategy_is_refused(name: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(complaint)):
        build_strategy(name)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("def (\n", "module 'of_mine' raised SyntaxError: "),
        ("import not_there\n", "module 'of_mine' raised ModuleNotFoundError: "),
        ("1 / 0\n", "module 'of_mine' raised ZeroDivisionError: "),
    ],
    ids=["syntax", "import", "code"],
)
def test_a_module_that_cannot_be_imported_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, complaint: str
) -> None:
    (tmp_path / "of_mine.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=re.escape(f"strategy 'of_mine:x': {complaint}")):
        build_strategy("of_mine:x")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["FedAvg", "--json", "/nonexistent/x.json"], "--json /nonexistent/x.json cannot be"),
        (["FedAvg", "--json", "/"], "--json / cannot be written: Is a directory"),
        (["FedAvg", "--seconds", "nan"], "seconds must be in (0, 1e+06], found nan"),
        (["FedAvg", "--seconds", "inf"], "seconds must be in (0, 1e+06], found inf"),
        (["FedAvg", "--memory", "99999999999999999"], "memory must be in [1, 1099511627776] MiB"),
        (["[/x]"], "unknown strategy '[/x]'"),
    ],
    ids=["file", "directory", "nan", "inf", "memory", "markup"],
)
def test_a_wrong_command_gives_one_line_before_any_trial(
    arguments: list[str], complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unused:
        def __init__(self, *_: object) -> None: ...
        def __enter__(self) -> Callable[..., object]:
            return lambda name, *_: build_strategy(name)

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr("hqde_fl.simulations.audit.strategy_audit.Sandbox", Unused)
    done = CliRunner().invoke(app, ["audit", *arguments])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert complaint in done.stderr


def test_each_row_has_a_verdict_in_a_few_words() -> None:
    expected = {
        "one-nan": "not finite",
        "count-of-1e18": "poisoned (0.41)",
        "tiny-count": "ok",
        "1e30": "poisoned (1.6e+29)",
        "missing-array": "run ends",
        "error": "ok",
        "evaluation-count-of-1e18": "evaluation -1",
    }
    rows = select_rows(list(expected))
    subject = audit("FedAvg", rows)
    assert {row.name: cell(subject, row) for row in rows} == expected
    assert set(subject.failures) == {name for name, word in expected.items() if word != "ok"}
    assert "| `one-nan` | sends one NaN | not finite |" in list(to_markdown([subject], rows))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "verdict"), [("dies", "process dies"), ("hangs", "hangs")])
def test_a_row_that_ends_its_process_does_not_end_the_audit(name: str, verdict: str) -> None:
    rows = select_rows(["error"])
    subject = audit(FAULTY + name, rows, seconds=3.0 if name == "hangs" else 120.0)
    assert cell(subject, rows[0]) == verdict, subject.findings
    assert subject.failures == [rows[0].name]


def test_the_command_prints_a_table_and_exits_with_1_on_a_failure(tmp_path: Path) -> None:
    file = tmp_path / "audit.json"
    rows = ["--rows", "one-nan", "--rows", "packed-cut"]
    done = CliRunner().invoke(app, ["audit", "FedAvg", *rows, "--json", str(file)])
    assert done.exit_code == 1
    assert "FedAvg: passed 0 of 1 rows" in done.output
    assert "no way to tell" in " ".join(done.output.split())
    (row,) = json.loads(file.read_text())["strategies"]["FedAvg"]["rows"]
    assert (row["row"], row["model"], row["passed"]) == ("one-nan", "not finite", False)
    assert row["named"] is None  # no way to tell
    assert row["memory_bound"] == memory_bound(row["received"])
    assert row["received"] > 1000


def test_the_meter_measures_allocations_of_python_and_numpy() -> None:
    meter = PeakMeter()
    for allocate in (lambda: [{} for _ in range(500_000)], lambda: np.ones(5 << 20)):
        meter.start()
        allocate()  # freed at once: the meter measures the peak
        growth = meter.stop()
        assert growth is None or (30 << 20) < growth < (60 << 20)
        assert (growth is None) == (sys.platform != "linux")  # None, not 0, if not measured


def test_the_memory_bound_is_four_times_the_received_bytes_plus_16_mib() -> None:
    assert memory_bound(0) == 16 << 20
    assert memory_bound(1000) == (16 << 20) + 4000
    assert Finding("", received=1000, growth=(16 << 20) + 4000).within_memory_bound
    assert not Finding("", received=1000, growth=(16 << 20) + 4001).within_memory_bound


def test_a_row_beyond_the_memory_bound_fails_hqde_strategies_only() -> None:
    row = HOSTILE["shape-of-objects"]
    greedy = Finding(row.name, model="sound", named=True, received=5 << 20, growth=144 << 20)
    for is_hqde, passed, word in ((True, False, "memory 144.0 MiB for 5.0"), (False, True, "ok")):
        subject = StrategyAudit("x", is_hqde, {row.name: greedy})
        assert (subject.passed(row), cell(subject, row)) == (passed, word)


def test_the_verdict_states_if_memory_was_not_measured() -> None:
    row = HOSTILE["error"]
    subject = StrategyAudit("x", True, {row.name: Finding(row.name, model="sound", named=True)})
    assert subject.passed(row)
    assert verdict(subject) == f"x: passed 1 of 1 rows; {UNMEASURED}"
    measured = StrategyAudit(
        "x", True, {row.name: Finding(row.name, model="sound", named=True, growth=0)}
    )
    assert verdict(measured) == "x: passed 1 of 1 rows"


@pytest.mark.slow
def test_flowers_own_reader_exceeds_the_memory_bound() -> None:
    """This shows that the measurement detects growth at all."""
    rows = select_rows(["shape-of-objects"])
    (finding,) = audit("FedAvg", rows).findings.values()
    assert (finding.growth is None) == (sys.platform != "linux")
    assert finding.growth is None or not finding.within_memory_bound


def test_an_instance_is_copied_for_each_row() -> None:
    name = f"{FAULTY}instance"
    assert build_strategy(name) is not build_strategy(name)
