"""Tests that start servers: each part below runs in one worker of pytest-xdist, in order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hqde_fl.simulations.deploy import nodes
from hqde_fl.simulations.deploy.federation import FederationDirectory
from hqde_fl.simulations.deploy.registered_keys import ControlAddress, synchronise
from hqde_fl.simulations.engines.deployment import guarded_grid
from tests.deployment.disturbed_run import processes_of
from tests.deployment.superlink import Site, superlink

PARTS = {
    "test_sites": "sites",
    "test_restarts": "restarts",
    "test_hostile_nodes": "hostile nodes",
    "test_own_parts": "own parts",
    "test_hostile_memory": "hostile memory",
    "test_drills": "drills",
    "test_edges": "edges",
}
"""Modules with processes of their own, which can run beside the others; the longest first."""


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    own = [item for item in items if Path(__file__).parent in item.path.parents]
    for item in own:
        part = PARTS.get(item.path.stem, "others")
        item.add_marker(pytest.mark.xdist_group(f"deployment {part}"))
    order = {name: place for place, name in enumerate(PARTS)}
    own.sort(key=lambda item: order.get(item.path.stem, len(order)))
    items[:] = [*own, *(item for item in items if item not in own)]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FederationDirectory]:
    """A federation with four of six nodes up; one more key is registered, and one is not."""
    made = FederationDirectory.create(tmp_path_factory.mktemp("deployment") / "federation", 6)
    with nodes.federation_up(made, 4) as found:
        control = ControlAddress(found.address, made.superlink / "ca.crt")
        synchronise(made, control, ["node-4"])
        yield made
    left = [process.pid for process in processes_of(made)]
    assert left == []


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
