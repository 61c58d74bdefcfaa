"""A run on real nodes that a test disturbs, and what the test asks of its processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from hqde_fl.errors import RunError
from hqde_fl.simulations.deploy.federation import FederationDirectory
from hqde_fl.simulations.deploy.nodes import connected, status
from hqde_fl.simulations.deploy.registered_keys import ControlAddress, public_key
from hqde_fl.simulations.deploy.supervised import Report
from hqde_fl.simulations.engines.flower.engine import run_deployed
from hqde_fl.simulations.engines.flower.superlink import SuperLink
from hqde_fl.simulations.experiment.experiment import Experiment

PATIENCE = 1800.0
"""Maximum time to wait for anything."""
EXPERIMENT = Experiment.parse(
    {
        "name": "drill",
        "seed": 5,
        "rounds": 4,
        "clients": {"count": 4, "epochs": 5, "lr": 0.2},
        "strategy": {"rule": {"name": "geometric-median"}, "deadline": 600.0},
        "faults": [{"name": "sign-flip", "count": 1, "scale": 4.0}],
        "engine": {"name": "flower"},
    }
)
SHORT = {"rounds": 2, "faults": []}


@dataclass
class Going:
    """A run in a thread."""

    federation: FederationDirectory
    out: Path
    changes: dict[str, object] = field(default_factory=dict)
    resume: bool = False
    error: BaseException | None = None

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        table = {**EXPERIMENT.to_table(), **self.changes}
        link = connected(self.federation)
        try:
            run_deployed(
                Experiment.parse(table).to_json(),
                self.out,
                link,
                resume=self.resume,
                on_line=lambda line: None,
            )
        except BaseException as error:
            self.error = error

    def end(self) -> None:
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        if self.error is not None:
            raise self.error

    @property
    def rounds(self) -> list[dict[str, object]]:
        path = self.out / "rounds.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    @property
    def accuracy(self) -> float:
        return float(self.rounds[-1]["server"]["accuracy"])  # type: ignore[index]

    def clients(self, node: int | None = None) -> list[dict[str, Any]]:
        """Return what is recorded of a node, or of all, by round."""
        path = self.out / "clients.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        tables = [json.loads(line) for line in lines if line.endswith("\n")]
        return [table for table in tables if node in (None, table["node"])]

    def reasons(self, node: int) -> list[str | None]:
        """Return the reasons for which a node was not kept, by round."""
        return [line["reason"] for line in self.clients(node)]

    def stop(self) -> None:
        """Stop the run on the SuperLink, and wait for its end."""
        link = connected(self.federation)
        going = [run["run-id"] for run in runs(link) if run["status"] == "running"]
        for number in going:
            subprocess.run(
                link.flwr("stop", str(number)),
                env=dict(link.environment),
                capture_output=True,
                check=True,
            )
        with pytest.raises(RunError, match="finished:stopped"):
            self.end()


def wait_for_round(going: Going, number: int) -> None:
    wait_until(lambda: len(going.rounds) > number or going.error, f"round {number}")


def wait_until(holds: Callable[[], object], what: str) -> None:
    until = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < until, what
        time.sleep(0.2)


def report(federation: FederationDirectory, name: str) -> Report:
    found = status(federation)
    assert found is not None
    return next(process for process in found.processes if process.name == name)


def processes_of(federation: FederationDirectory) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("FLWR_HOME") == str(federation.home):
                found.append(process)
        except psutil.Error:
            continue
    return found


def training(federation: FederationDirectory, name: str) -> list[psutil.Process]:
    """Return the ClientApp processes of a SuperNode."""
    pid = report(federation, name).pid
    if pid is None:
        return []
    try:
        children = psutil.Process(pid).children(recursive=True)
        return [child for child in children if "clientapp_shim" in " ".join(child.cmdline())]
    except psutil.Error:
        return []


def kill(federation: FederationDirectory, name: str) -> int:
    """Kill a supervised process with ``kill -9``; return the number of its restarts before."""
    before = report(federation, name)
    assert before.pid is not None
    os.kill(before.pid, signal.SIGKILL)
    return before.restarts


def control_of(federation: FederationDirectory) -> ControlAddress:
    """Return the control address of a federation that is up."""
    current = status(federation)
    assert current is not None
    return ControlAddress(current.address, federation.superlink / "ca.crt")


def all_online(federation: FederationDirectory) -> bool:
    found = status(federation)
    assert found is not None
    try:
        said = control_of(federation).statuses()
    except RunError:  # it is being restarted
        return False
    return all(said[node] == "online" for node in found.ids.values())


def node_id(federation: FederationDirectory, name: str) -> int:
    """Return the id of a node, whose key is registered already."""
    return control_of(federation).registered()[public_key(federation.superlink / f"{name}.pub")]


def running_programs(name: str, federation: FederationDirectory, option: str = "") -> list[int]:
    """Return the process ids of a federation's programs of that name, with an option if given."""
    found = []
    for process in processes_of(federation):
        with suppress(psutil.Error):  # gone meanwhile
            words = process.cmdline()
            if any(Path(w).name == name for w in words[:2]) and (not option or option in words):
                found.append(process.pid)
    return found


def runs(link: SuperLink) -> list[dict[str, Any]]:
    """Return Flower's list of all runs on a SuperLink."""
    listed = subprocess.run(
        link.flwr("ls", "--format", "json"),
        env=dict(link.environment),
        capture_output=True,
        text=True,
        check=True,
    )
    found: list[dict[str, Any]] = json.loads(listed.stdout)["runs"]
    return found
