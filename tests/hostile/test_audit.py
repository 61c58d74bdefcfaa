"""The audit: of strategies that hold, and of some that do not."""

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
from hqde_fl.simulations.audit.audit import Subject, audit, chosen
from hqde_fl.simulations.audit.catalogue import GROUPS
from hqde_fl.simulations.audit.command import UNMEASURED, cell, to_markdown, verdict
from hqde_fl.simulations.audit.memory import PeakMeter, memory_bound
from hqde_fl.simulations.audit.subjects import build
from hqde_fl.simulations.audit.trial import Finding
from hqde_fl.simulations.console.command_line import app

FAULTY = "tests.hostile.faulty:"


def test_names_are_unique_and_speak_for_themselves() -> None:
    assert len(HOSTILE) == sum(map(len, GROUPS.values()))
    assert all(re.fullmatch(r"[\w.^-]+", name) for name in HOSTILE)
    assert all(row.does and row.does[0].islower() for row in HOSTILE.values())


def test_the_page_has_every_row() -> None:
    page = (Path(__file__).parents[2] / "docs" / "hostile.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([^`]+)`", page, re.MULTILINE) == list(HOSTILE)


def test_rows_are_chosen_by_pattern() -> None:
    assert [row.name for row in chosen(["header-*", "one-nan"])][-1] == "one-nan"
    assert len(chosen([])) == len(HOSTILE)
    with pytest.raises(UnknownNameError, match=r"unknown row 'one-nam': did you mean 'one-nan'\?"):
        chosen(["one-nam"])


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
def test_what_is_no_strategy_is_refused(name: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(complaint)):
        build(name)


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
        build("of_mine:x")


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
def test_a_wrong_command_is_one_line_before_any_row_is_tried(
    arguments: list[str], complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unused:
        def __init__(self, *_: object) -> None: ...
        def __enter__(self) -> Callable[..., object]:
            return lambda name, *_: build(name)

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr("hqde_fl.simulations.audit.audit.Sandbox", Unused)
    done = CliRunner().invoke(app, ["audit", *arguments])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert complaint in done.stderr


def test_rows_end_in_a_word() -> None:
    expected = {
        "one-nan": "not finite",
        "count-of-1e18": "poisoned (0.41)",
        "tiny-count": "ok",
        "1e30": "poisoned (1.6e+29)",
        "missing-array": "run ends",
        "error": "ok",
        "evaluation-count-of-1e18": "evaluation -1",
    }
    rows = chosen(list(expected))
    subject = audit("FedAvg", rows)
    assert {row.name: cell(subject, row) for row in rows} == expected
    assert set(subject.failures) == {name for name, word in expected.items() if word != "ok"}
    assert "| `one-nan` | sends one NaN | not finite |" in list(to_markdown([subject], rows))


@pytest.mark.parametrize(("name", "found"), [("dies", "process dies"), ("hangs", "hangs")])
def test_a_row_cannot_take_the_audit_with_it(name: str, found: str) -> None:
    rows = chosen(["error"])
    subject = audit(FAULTY + name, rows, seconds=3.0 if name == "hangs" else 120.0)
    assert cell(subject, rows[0]) == found, subject.findings
    assert subject.failures == [rows[0].name]


def test_the_command_prints_a_table_and_tells_by_its_status(tmp_path: Path) -> None:
    file = tmp_path / "audit.json"
    rows = ["--rows", "one-nan", "--rows", "packed-cut"]
    done = CliRunner().invoke(app, ["audit", "FedAvg", *rows, "--json", str(file)])
    assert done.exit_code == 1
    assert "FedAvg: passed 0 of 1 rows" in done.output
    assert "no way to tell" in " ".join(done.output.split())
    (found,) = json.loads(file.read_text())["strategies"]["FedAvg"]["rows"]
    assert (found["row"], found["model"], found["passed"]) == ("one-nan", "not finite", False)
    assert found["named"] is None  # no way to tell
    assert found["memory_bound"] == memory_bound(found["received"])
    assert found["received"] > 1000


def test_the_meter_sees_what_python_and_what_numpy_allocate() -> None:
    meter = PeakMeter()
    for allocate in (lambda: [{} for _ in range(500_000)], lambda: np.ones(5 << 20)):
        meter.start()
        allocate()  # given back at once: a peak, not what is left
        growth = meter.stop()
        assert growth is None or (30 << 20) < growth < (60 << 20)
        assert (growth is None) == (sys.platform != "linux")  # it says so, and is not 0


def test_the_bound_is_four_times_what_was_received_and_16_mib() -> None:
    assert memory_bound(0) == 16 << 20
    assert memory_bound(1000) == (16 << 20) + 4000
    assert Finding("", received=1000, growth=(16 << 20) + 4000).frugal
    assert not Finding("", received=1000, growth=(16 << 20) + 4001).frugal


def test_a_row_beyond_the_memory_bound_fails_ours_and_no_other() -> None:
    row = HOSTILE["shape-of-objects"]
    greedy = Finding(row.name, model="sound", named=True, received=5 << 20, growth=144 << 20)
    for ours, passed, word in ((True, False, "memory 144.0 MiB for 5.0"), (False, True, "ok")):
        subject = Subject("x", ours, {row.name: greedy})
        assert (subject.passed(row), cell(subject, row)) == (passed, word)


def test_where_memory_cannot_be_measured_it_is_said() -> None:
    row = HOSTILE["error"]
    subject = Subject("x", True, {row.name: Finding(row.name, model="sound", named=True)})
    assert subject.passed(row)
    assert verdict(subject) == f"x: passed 1 of 1 rows; {UNMEASURED}"
    seen = Subject("x", True, {row.name: Finding(row.name, model="sound", named=True, growth=0)})
    assert verdict(seen) == "x: passed 1 of 1 rows"


def test_flowers_own_reader_is_measured_as_well() -> None:
    """Or nobody would know that the measurement sees anything."""
    rows = chosen(["shape-of-objects"])
    (finding,) = audit("FedAvg", rows).findings.values()
    assert (finding.growth is None) == (sys.platform != "linux")
    assert finding.growth is None or not finding.frugal


def test_an_instance_is_copied_for_each_row() -> None:
    name = f"{FAULTY}instance"
    assert build(name) is not build(name)
