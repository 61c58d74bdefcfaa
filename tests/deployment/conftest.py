"""Tests that start servers: each part below runs in one worker of pytest-xdist, in order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hqde_fl.simulations.engines.deployment import guarded_grid
from tests.deployment.superlink import Site, superlink

PARTS = {"test_sites": "sites", "test_drills": "drills", "test_edges": "edges"}
"""Modules with a federation of their own, which can run beside the others."""
SECOND_DRILLS = {
    "test_restarted_nodes_catch_up_with_a_frozen_backbone",
    "test_sigterm_stops_the_run_on_the_superlink",
    "test_sigterm_ends_nodes_up_and_all_it_has_started",
    "test_who_is_not_registered_or_not_who_they_say_is_refused",
    "test_the_engine_says_how_a_deployed_run_ended",
}
"""Drills on a second federation, which take about as long as the others."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            second = item.name in SECOND_DRILLS
            part = "second drills" if second else PARTS.get(item.path.stem, "others")
            item.add_marker(pytest.mark.xdist_group(f"deployment {part}"))


@pytest.fixture(scope="module")
def shared_site() -> Iterator[Site]:
    with superlink() as running:
        yield running


@pytest.fixture
def site(shared_site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A SuperLink that the guarded Grid polls more often than in a deployment."""
    monkeypatch.setattr(guarded_grid, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(guarded_grid, "NODES_SECONDS", 0.1)
    return shared_site
