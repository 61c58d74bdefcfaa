"""Secure aggregation on four real SuperNodes: whole, and with one that is killed in training."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from hqde_fl.simulations.deploy.federation import FederationDirectory
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.run import run_experiment
from tests.deployment.disturbed_run import (
    EXPERIMENT,
    Going,
    all_online,
    kill,
    node_id,
    training,
    wait_until,
)

pytestmark = pytest.mark.deployment

SECURE = {
    "rounds": 2,
    "faults": [],
    "strategy": {
        "rule": {"name": "mean"},
        "deadline": 600.0,
        "secure-aggregation": {"bucket": 4, "threshold": 3},
    },
}

LONG_SECONDS = 5.0
"""A ClientApp that has been at work for so long trains; it answers questions in less."""


def test_two_rounds_have_the_model_of_a_simulation(
    federation: FederationDirectory, tmp_path: Path
) -> None:
    """The keys are signed by the nodes' own keys, and checked against ``peers.pub``."""
    assert len((federation.path / "node-0" / "peers.pub").read_bytes().splitlines()) == 6
    going = Going(federation, tmp_path / "run", SECURE)
    going.end()
    run_experiment(
        type(EXPERIMENT).parse({**EXPERIMENT.to_table(), **SECURE}),
        tmp_path / "inline",
        engine="inline",
        report=False,
    )
    here, there = (tmp_path / name / "model.safetensors" for name in ("inline", "run"))
    assert here.read_bytes() == there.read_bytes()
    run = Run.load(tmp_path / "run")
    assert [line["kept"] for line in run.rounds[1:]] == [4, 4]
    assert {client["bucket"] for client in run.clients} == {0}


def test_a_node_that_is_killed_after_it_shared_its_keys(
    federation: FederationDirectory, tmp_path: Path
) -> None:
    """The others reveal their shares of its key, and the round is completed without it."""
    wait_until(lambda: all_online(federation), "all nodes are online")
    slow = [{"name": "straggle", "clients": [1], "seconds": 3 * LONG_SECONDS}]
    going = Going(federation, tmp_path / "run", {**SECURE, "rounds": 1, "faults": slow})
    seen: dict[int, float] = {}

    def trains() -> bool:
        now = time.monotonic()
        for process in training(federation, "node-1"):
            seen.setdefault(process.pid, now)
        return any(now - since > LONG_SECONDS for since in seen.values()) or bool(going.error)

    wait_until(trains, "node-1 trains")
    kill(federation, "node-1")
    going.end()
    (line,) = going.rounds[1:]
    assert line["kept"] == 3
    assert line["diagnostics"] == {"buckets": 1, "clipped": 0.0, "void-buckets": 0} | {
        key: value
        for key, value in line["diagnostics"].items()
        if key not in ("buckets", "clipped", "void-buckets")
    }
    assert going.reasons(node_id(federation, "node-1"))[0] not in (None, "filtered")
