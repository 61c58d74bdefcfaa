"""The tour: every stop works, and shows what its component is for."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from hqde_fl.simulations.console.command_line import app
from hqde_fl.simulations.tour import in_formulas, in_runs, on_ray

DOCS = Path(__file__).parents[3] / "docs"

BOUNDS = {
    "HQDESystem": (0.6, 1.0),
    "MapReduce": (0, 0),
    "DistributedWeightStore": (3, 3),
    "Independent members": (0.8, 1.0),
    "Merged members": (0.8, 1.0),
    "AdaptiveQuantizer": (3.5, 8.0),
    "Byzantine fault tolerance": (0.8, 1.0),
    "Hierarchy": (0.7, 1.0),
    "Load balancing": (1.2, 100.0),
    "Secure aggregation": (2, 2),
    "Superposition": (1.0, 1.0),
    "Entanglement": (0.0, 0.05),
    "Voting": (0.8, 1.0),
    "Adaptive choice": (0.2, 0.5),
    "Coherence": (0.0, 1.0),
    "Quantum noise": (0.0, 0.0),
    "QUBO selection": (1.0, 1.0),
    "Tree": (0.0, 1e-6),
    "Prediction": (0.8, 1.0),
    "PerformanceMonitor": (2, 100),
}
"""Least and largest figure of each stop."""

HERE = {stop.title: stop for stop in (*in_runs.STOPS, *in_formulas.STOPS)}


@pytest.mark.parametrize("title", HERE)
def test_a_stop_in_this_process(title: str) -> None:
    figure = HERE[title].measure()
    low, high = BOUNDS[title]
    assert (
        low == pytest.approx(figure.value)
        or high == pytest.approx(figure.value)
        or (low <= figure.value <= high)
    )


def test_every_stop_has_a_page() -> None:
    stops = [*on_ray.STOPS, *HERE.values()]
    assert {stop.title for stop in stops} == BOUNDS.keys()
    assert all((DOCS / stop.page).exists() for stop in stops)


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_the_whole_tour(tmp_path: Path) -> None:
    page = tmp_path / "tour.html"
    done = CliRunner().invoke(app, ["tour", "--out", str(page)])
    assert done.exit_code == 0, done.output
    assert f"{len(BOUNDS)} stops in " in done.output
    text = page.read_text()
    assert all(title in text for title in BOUNDS)
