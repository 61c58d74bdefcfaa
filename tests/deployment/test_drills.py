"""Fault drills on real processes: a SuperLink and SuperNodes with TLS and authentication.

``make test-drills`` runs them; they take minutes, most of it SuperNodes starting Python.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import tomli_w

from hqde_fl.errors import RunError
from hqde_fl.simulations.deploy.federation import FederationDirectory
from hqde_fl.simulations.deploy.nodes import connected, status
from hqde_fl.simulations.engines.flower.flower_run import LOG_FILE
from hqde_fl.simulations.engines.ray.access import is_loopback
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.run import run_experiment
from tests.deployment.disturbed_run import (
    EXPERIMENT,
    SHORT,
    Going,
    all_online,
    kill,
    node_id,
    processes_of,
    report,
    runs,
    training,
    wait_until,
)
from tests.simulations.command import rounds_in, started

pytestmark = pytest.mark.drills


def test_one_hostile_node_and_one_killed_in_training(
    federation: FederationDirectory, tmp_path: Path
) -> None:
    """Assert that the run is completed and its model is as good as the simulation's."""
    going = Going(federation, tmp_path / "run")
    wait_until(lambda: len(going.rounds) >= 2 or going.error, "the first round")
    wait_until(lambda: training(federation, "node-1") or going.error, "node-1 at work")
    restarts = kill(federation, "node-1")
    going.end()
    assert len(going.rounds) == 5
    inline = run_experiment(EXPERIMENT, tmp_path / "inline", engine="inline")
    assert inline.final["accuracy"] is not None
    assert abs(going.accuracy - inline.final["accuracy"]) <= 0.03
    assert report(federation, "node-1").restarts > restarts
    lost = [reason for reason in going.reasons(node_id(federation, "node-1")) if reason]
    assert any("node" in r.lower() or "restarted" in r or r == "late" for r in lost)
    wait_until(lambda: all_online(federation), "node-1 is online again")


def listeners_of(federation: FederationDirectory) -> list[tuple[str, str]]:
    """Return the command line and the address of each listening socket of a federation."""
    listeners: list[tuple[str, str]] = []
    for process in processes_of(federation):
        with suppress(psutil.Error):  # gone meanwhile
            name = " ".join(process.cmdline())
            found = process.net_connections(kind="inet")
            listeners += [(name, c.laddr.ip) for c in found if c.status == psutil.CONN_LISTEN]
    return listeners


def test_a_node_is_killed_while_uploading_and_all_that_listens_listens_on_loopback(
    federation: FederationDirectory, tmp_path: Path
) -> None:
    wait_until(lambda: all_online(federation), "nodes come back")
    found = status(federation)
    assert found is not None
    folder = str(federation.path / "node-4")
    dying = subprocess.Popen(
        [sys.executable, "-m", "tests.deployment.dying_node", found.address, folder, "9"],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert dying.stdout is not None
    assert dying.stdout.readline() == "connected\n"
    going = Going(federation, tmp_path / "run", SHORT)
    wait_until(lambda: training(federation, "node-0") or going.error, "training")
    listeners = listeners_of(federation)
    try:
        going.end()
    finally:
        dying.kill()
        dying.communicate()
    assert len(listeners) >= 5  # the SuperLink and four SuperNodes
    assert [each for each in listeners if not is_loopback(each[1])] == []
    assert dying.returncode == -signal.SIGKILL
    assert going.reasons(node_id(federation, "node-4"))[0] in (
        "late",
        "failed: went offline while uploading its reply",
    )
    assert [line["kept"] for line in going.rounds[1:]] == [4, 4]


BACKBONE = 4 * 17_000
"""Bytes of the frozen backbone; all else are 258 numbers."""


def test_restarted_nodes_catch_up_with_a_frozen_backbone(
    federation: FederationDirectory, tmp_path: Path
) -> None:
    """Two are killed after round 2: one keeps its cache, the other loses it.

    The run is stopped when both have been kept again after what they missed.
    """
    wait_until(lambda: all_online(federation), "nodes come back")
    task = {"name": "tests.simulations.odd_tasks:frozen_backbone"}
    changes = {"task": task, "rounds": 1000, "faults": [], "strategy": {"rule": "mean"}}
    going = Going(federation, tmp_path / "run", changes)
    keeps, loses = (node_id(federation, name) for name in ("node-1", "node-2"))
    wait_until(lambda: len(going.rounds) >= 3 or going.error, "the second round")
    rounds_before = {}

    def at_work(name: str) -> object:
        return training(federation, name) or going.error

    for name, node in (("node-1", keeps), ("node-2", loses)):
        wait_until(partial(at_work, name), f"{name} at work")
        rounds_before[node] = len(going.clients(node))
        kill(federation, name)
    shutil.rmtree(federation.cache("node-2"))

    def full_when_kept(node: int) -> list[bool]:
        """Return for each update kept since the node was killed if it had been sent all."""
        later = going.clients(node)[rounds_before[node] + 1 :]
        return [line["bytes-down"] > BACKBONE for line in later if line["kept"]]

    def caught_up() -> bool:
        again = full_when_kept(loses)
        return bool(full_when_kept(keeps)) and any(again) and not again[-1]

    wait_until(lambda: caught_up() or going.error, "both have caught up")
    going.stop()
    clients = going.clients(keeps)
    full = [line["bytes-down"] > BACKBONE for line in clients]
    assert full[:3] == [True, False, False]
    assert not any(full[1:])
    assert not any(missing(line) for line in clients)
    clients = going.clients(loses)
    full = [line["bytes-down"] > BACKBONE for line in clients]
    lacked = [missing(line) for line in clients]
    assert full[:3] == [True, False, False]
    assert sum(lacked) == 1
    assert full[lacked.index(True) + 1 :].count(True) == 1
    assert full[lacked.index(True) + 1]
    everyone = going.clients()
    assert all(line["bytes-up"] < BACKBONE for line in everyone)
    others = [line for line in everyone if line["node"] not in (keeps, loses)]
    assert all(line["kept"] for line in others)
    assert sum(line["bytes-down"] > BACKBONE for line in others) == 2


def missing(client: dict[str, Any]) -> bool:
    """Return True if a client's update was not kept because the client lacked entries."""
    return str(client["reason"] or "").startswith("missing")


OWN_TASK = """
from hqde_fl.simulations.tasks.digits import Digits
from hqde_fl.simulations.tasks.partition import PARTITIONERS


def task(partitions, seed, partition):
    return Digits().build(PARTITIONERS.build(partition), seed)
"""


def test_sigterm_stops_the_run_on_the_superlink(
    federation: FederationDirectory, tmp_path: Path
) -> None:
    """The experiment has a task in its folder; the signal is sent twice."""
    folder, out = tmp_path / "study", tmp_path / "run"
    folder.mkdir()
    (folder / "own_deployed_task.py").write_text(OWN_TASK)
    table = {**EXPERIMENT.to_table(), "task": {"name": "own_deployed_task:task"}, "rounds": 1000}
    (folder / "own.toml").write_text(tomli_w.dumps(table))
    arguments = ["run", "study/own.toml", "--out", out, "--superlink", federation.path]
    with started(*arguments, cwd=tmp_path) as running:
        running.wait_for(lambda: rounds_in(out) >= 2, "the first round")
        running.send(signal.SIGTERM, signal.SIGTERM)
        code, errors = running.end()
        assert (code, errors) == (143, "interrupted, kept in run\n")
    run = Run.load(out)
    assert run.manifest["status"] == "interrupted"
    assert run.rounds[1]["kept"] == 4
    assert all(state.startswith("finished") for state in states(federation))
    wait_until(lambda: not busy(federation), "the nodes' ClientApps have nothing to do")
    assert all_online(federation)


def states(federation: FederationDirectory) -> list[str]:
    """Return the statuses of all runs on the SuperLink."""
    return [run["status"] for run in runs(connected(federation))]


def busy(federation: FederationDirectory) -> list[str]:
    """Return the running ServerApps, and the ClientApps that use CPU time."""
    found = []
    for process in processes_of(federation):
        try:
            words = " ".join(process.cmdline())
            computes = "clientapp_" in words and process.cpu_percent(0.5) > 10.0
            if computes or "flwr-serverapp" in words:
                found.append(words)
        except psutil.Error:
            continue
    return found


def test_sigterm_ends_nodes_up_and_all_it_has_started(tmp_path: Path) -> None:
    made = FederationDirectory.create(tmp_path / "federation", 2)
    with started("nodes", "up", made.path, cwd=tmp_path) as running:
        running.wait_for(lambda: len(processes_of(made)) >= 3, "SuperLink and SuperNodes start")
        running.send(signal.SIGTERM, signal.SIGTERM)
        assert running.end() == (143, "interrupted\n")
    assert processes_of(made) == []
    assert status(made) is None


def test_a_fault_that_fails_ends_the_run_with_its_name(
    federation: FederationDirectory, tmp_path: Path
) -> None:
    task = {"name": "tests.simulations.odd_tasks:surprise"}
    changes = {"rounds": 1, "task": task, "faults": [{"name": "label-flip", "clients": [2]}]}
    going = Going(federation, tmp_path / "own", changes)
    own = "fault 'label-flip' of client 2 failed in round 1: ConfigError: LabelFlip"
    with pytest.raises(RunError, match=own):
        going.end()
    manifest = json.loads((tmp_path / "own" / "manifest.json").read_text())
    assert manifest["status"] == "failed"
    assert manifest["error"].startswith(f"RunError: {own}")


def test_the_engine_says_how_a_deployed_run_ended(
    federation: FederationDirectory, tmp_path: Path
) -> None:
    """By the command line: the true outcome, and a run directory like that of any run."""
    file = tmp_path / "good.toml"
    file.write_text('name = "good"\nrounds = 1\n[clients]\ncount = 4\n')
    command = [sys.executable, "-m", "hqde_fl.simulations.console.entry", "run", str(file)]
    command += ["--engine", "flower", "--superlink", str(federation.path)]

    def called(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *options], capture_output=True, text=True, check=False)

    done = called("--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "report.html").is_file()
    assert (tmp_path / "out" / LOG_FILE).is_file()
    refused = called("--out", str(tmp_path / "few"), "--set", "clients.count=3")
    assert refused.returncode == 2
    assert "clients.count = 3" in refused.stderr
