"""The page of a run with edges shows the bytes of each link level."""

from __future__ import annotations

from pathlib import Path

from hqde_fl.simulations.recording.comparison import Comparison
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.report import render
from hqde_fl.simulations.report.edges_view import edge_panels, link_levels
from hqde_fl.simulations.run import run_experiment
from tests.simulations.edges.test_experiment_edges import FLIP, line


def test_the_page_shows_the_bytes_of_each_level_and_the_hostile_edges(tmp_path: Path) -> None:
    hostile = [{**FLIP, "clients": [3], "level": "edge"}]
    experiment = line(edges={"groups": 4, "rounds": 3}, faults=hostile)
    run_experiment(experiment, tmp_path / "run", report=False)
    run = Run.load(tmp_path / "run")
    cloud, client = link_levels(run)
    assert cloud.up == sum(each["bytes-up"] for each in run.rounds)
    assert client.down_last == run.rounds[-1]["edges"]["client-edge"]["bytes-down"]
    page = render(Comparison.of(run))
    assert "4 edges, 3 rounds of each" in page
    assert "3 (sign-flip)" in page
    assert "edges and clients" in page
    assert "MB between server and edges" in page


def test_a_run_without_edges_shows_nothing_of_them(tmp_path: Path) -> None:
    run_experiment(line(), tmp_path / "run", report=False)
    run = Run.load(tmp_path / "run")
    assert link_levels(run) == []
    assert edge_panels(run) == []
