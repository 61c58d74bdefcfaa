"""A run of 15 rounds on real nodes, of which anything is killed five times."""

from __future__ import annotations

import os
import random
import signal
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from hqde_fl.errors import RunError
from hqde_fl.simulations.deploy.federation import FederationDirectory
from tests.deployment.disturbed_run import (
    Going,
    all_online,
    kill,
    running_programs,
    training,
    wait_for_round,
    wait_until,
)

pytestmark = pytest.mark.soak

ROUNDS = 15
VICTIMS = ("superlink", "node-1", "a ClientApp", "the ServerApp", "node-3")
"""Parts of the federation that are killed, in random order."""


def test_anything_is_killed_and_the_run_ends(
    federation: FederationDirectory, tmp_path: Path
) -> None:
    wait_until(lambda: all_online(federation), "the nodes")
    out, changes = tmp_path / "run", {"rounds": ROUNDS, "faults": []}
    rng, going, resumed = random.Random(3), Going(federation, out, changes), 0
    for number, victim in enumerate(rng.sample(VICTIMS, len(VICTIMS))):
        wait_for_round(going, 2 + number * (ROUNDS - 4) // len(VICTIMS))
        strike(federation, victim)
        if victim in ("superlink", "the ServerApp"):
            with pytest.raises(RunError):
                going.end()
            wait_until(lambda: all_online(federation), "the nodes are online again")
            going, resumed = Going(federation, out, changes, resume=True), resumed + 1
    going.end()
    rounds = going.rounds
    assert resumed == 2
    assert [line["round"] for line in rounds] == list(range(ROUNDS + 1))
    lost = [line for line in going.clients() if not line["kept"]]
    assert all(line["reason"] for line in lost)
    print(f"lost replies: {[(line['round'], line['reason']) for line in lost]}")


def strike(federation: FederationDirectory, victim: str) -> None:
    """Kill a part of the federation while it is at work."""
    if victim == "the ServerApp":
        for number in running_programs("flwr-serverapp", federation):
            os.kill(number, signal.SIGKILL)
    elif victim == "a ClientApp":
        wait_until(lambda: training(federation, "node-0"), "node-0 at work")
        for process in training(federation, "node-0"):
            with suppress(psutil.Error):
                process.kill()
    else:
        kill(federation, victim)
