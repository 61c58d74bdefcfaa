"""Sweeps over a task of two classes, in which a crash is no detection."""

from __future__ import annotations

import csv
import json
import re
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.console.results_table import results_table
from hqde_fl.simulations.recording.comparison import Comparison
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.report import write_report
from hqde_fl.simulations.sweep import Sweep
from hqde_fl.simulations.sweep.command import show_plan
from hqde_fl.simulations.sweep.runner import run_sweep

TWO_CLASSES = """
rounds = 2
[task]
name = "tests.simulations.odd_tasks:two_classes"
[clients]
count = 8
[engine]
name = "inline"
[sweep]
rule = [
    { label = "FedAvg", name = "mean", weighted = true },
    "byzantine-filter",
    { label = "few", name = "multi-krum", f = 2, m = 3 },
]
attack = ["label-flip", "crash", "nan"]
f = [2]
"""


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Comparison]:
    out = tmp_path_factory.mktemp("two")
    (out / "two.toml").write_text(TWO_CLASSES)
    sweep = Sweep.load(out / "two.toml")
    return out / "out", run_sweep(sweep, out / "out")


def rows_of(out: Path) -> dict[tuple[str, str], dict[str, str]]:
    with (out / "results.csv").open(newline="") as lines:
        return {(row["rule"], row["attack"]): row for row in csv.DictReader(lines)}


def picked(row: dict[str, str], *names: str) -> list[str]:
    return [row[name] for name in names]


SCORES = ("precision", "recall", "f1")


def test_only_a_rule_that_filters_has_scores_and_only_where_it_judged(swept) -> None:
    out, comparison = swept
    assert {row.status for row in comparison.rows} == {"finished"}
    rows = rows_of(out)
    for (rule, attack), row in rows.items():
        judged = rule == "byzantine-filter" and attack == "label-flip"
        expected = ["1.0"] * 3 if judged else [""] * 3
        assert picked(row, *SCORES) == expected, (rule, attack)
        assert picked(row, "faulty", "honest") == ["4", "12"]
        assert picked(row, "failed-faulty", "failed-honest") == [
            "4" if attack == "crash" else "0",
            "0",
        ]
        assert row["rejected-faulty"] == ("4" if attack == "nan" else "0")
        assert row["skipped-faulty"] == row["late-honest"] == "0"
    assert rows["byzantine-filter", "crash"]["judged-faulty"] == "0"
    assert rows["byzantine-filter", "crash"]["judged-honest"] == "12"
    assert rows["FedAvg", "label-flip"]["judged-honest"] == "0"


def test_the_attack_acts(swept) -> None:
    rows = rows_of(swept[0])
    losses = {attack: float(rows["FedAvg", attack]["loss"]) for attack in ("label-flip", "crash")}
    assert losses["label-flip"] > 1.1 * losses["crash"]


def test_rounds_and_manifests_have_the_scores(swept) -> None:
    _, comparison = swept
    for row in comparison.rows:
        assert row.run is not None
        assert row.run.manifest["filters"] is (row.labels[0] == "byzantine-filter")
        for line in row.run.rounds[1:]:
            exclusion = line["exclusion"]
            if row.labels[1] == "crash":
                assert (exclusion["caught"], exclusion["failed-faulty"], exclusion["recall"]) == (
                    0,
                    2,
                    None,
                )
            if row.labels[:2] == ("byzantine-filter", "label-flip"):
                assert (
                    exclusion["judged-faulty"],
                    exclusion["precision"],
                    exclusion["recall"],
                ) == (2, 1, 1)


def page_of(run: Run) -> str:
    return write_report(Comparison.of(run), run.path).read_text()


def test_tables_and_pages_show_a_dash_and_the_reason(swept) -> None:
    out, comparison = swept
    for width in (80, 200):
        console = Console(file=StringIO(), width=width)
        console.print(results_table(comparison, width))
        printed = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
        assert "1.00 / 1.00" in printed
        assert "\N{EN DASH}: the rule filters nobody" in printed
        assert "rejected, failed: clients, faulty / honest" in printed
        assert "4 / 0" in printed
    page = (out / "report.html").read_text()
    assert "a dash where it filters nobody" in " ".join(page.split())
    assert re.search(r"<th>rejected</th>\s*<th>failed</th>", page)
    assert "<td>4 / 0</td>" in page
    cells = {row.labels[:2]: row.run for row in comparison.rows}
    plain = page_of(cells["FedAvg", "crash"])
    assert "precision and recall: the rule filters nobody" in plain
    assert "<tr><th>failed</th><td>4</td><td>0</td></tr>" in plain
    filtered = page_of(cells["byzantine-filter", "crash"])
    assert "recall: 0 of 0 faulty updates filtered: the rule judged none" in filtered
    assert "<tr><th>failed</th><td>4</td><td>0</td></tr>" in filtered


def test_a_directory_without_the_key_is_read_as_its_rule_says(swept, tmp_path: Path) -> None:
    for row in swept[1].rows:
        assert row.run is not None
        manifest = {key: value for key, value in row.run.manifest.items() if key != "filters"}
        old = Run(tmp_path, manifest, row.run.rounds, row.run.clients)
        assert old.filters is row.run.filters
        assert old.detection == row.run.detection
        odd = manifest | {"experiment": {"strategy": "of another version"}}
        unknown = Run(tmp_path, odd, row.run.rounds, row.run.clients)
        assert unknown.filters is (row.labels[:2] == ("byzantine-filter", "label-flip"))


REFUSED = TWO_CLASSES.replace('"crash"', '{ name = "label-flip", classes = 10 }')


def test_a_cell_that_cannot_act_stops_a_sweep_before_it_starts(file, tmp_path: Path) -> None:
    sweep = Sweep.load(file(REFUSED))
    message = "^fault 'label-flip' cannot act on this task: classes must be 2, .*, found 10$"
    with pytest.raises(ConfigError, match=message):
        run_sweep(sweep, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    console = Console(file=StringIO())
    with pytest.raises(ConfigError, match=message):
        show_plan(sweep, console, None)


def test_rounds_of_a_run_are_lines_of_plain_numbers(swept) -> None:
    out, comparison = swept
    path = out / comparison.rows[0].directory / "rounds.jsonl"
    for line in path.read_text().splitlines():
        assert list(json.loads(line)["exclusion"])[:2] == ["caught", "failed-faulty"]
