"""The published tables can be run: every figure belongs to a cell of its sweep."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import published


@pytest.mark.parametrize("table", published.figures())
def test_every_figure_has_a_cell(table: str) -> None:
    cells = [label for label, _, _ in published.cells_of(table, ())]
    assert sorted(cells) == sorted(published.figures()[table])


def test_more_seeds_are_more_cells() -> None:
    cells = list(published.cells_of("t1", (42, 43)))
    assert len(cells) == 2 * len(published.figures()["t1"])
    assert {seed for _, seed, _ in cells} == {42, 43}
    divisions = {cell.experiment.clients.partition.get("seed") for _, _, cell in cells}
    assert divisions == {None, 42, 43}  # iid has none


def test_a_row_has_the_mean_its_interval_and_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = {"table": "t2", "cell": "20 alie, median", "last-ten": 0.6}
    lines = [line | {"seed": 33, "accuracy": 0.70}, line | {"seed": 34, "accuracy": 0.66}]
    monkeypatch.setattr(published, "RESULTS", tmp_path / "results.jsonl")
    published.RESULTS.write_text("".join(json.dumps(one) + "\n" for one in lines))
    rows = {row["cell"]: row for row in published.rows_of("t2", published.results())}
    row = rows["20 alie, median"]
    assert row["ours"] == pytest.approx(0.68)
    assert row["difference"] == pytest.approx(0.03)
    assert row["interval"][0] < 0.66 < 0.70 < row["interval"][1]
    assert rows["20 alie, bulyan (f=20)"]["ours"] is None
    assert "not run" in published.markdown_row(rows["20 alie, bulyan (f=20)"])
    run, near = published.checks_of(list(rows.values()))
    assert (run["value"], near["value"]) == (1, pytest.approx(1 / 20))
