"""Fault drills on real processes: a SuperLink and SuperNodes with TLS and authentication.

``make test-deployment`` runs them; they take minutes, most of it SuperNodes starting Python.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import tomli_w

from hqde_fl.errors import RunError
from hqde_fl.simulations.deploy import nodes
from hqde_fl.simulations.deploy.authority import make_authority, make_node_key
from hqde_fl.simulations.deploy.federation import FederationDirectory
from hqde_fl.simulations.deploy.nodes import connected, online, status
from hqde_fl.simulations.deploy.registered_keys import ControlAddress, public_key, synchronise
from hqde_fl.simulations.deploy.supervised import Report
from hqde_fl.simulations.engines.flower.engine import run_deployed
from hqde_fl.simulations.engines.flower.flower_run import LOG_FILE
from hqde_fl.simulations.engines.flower.superlink import SuperLink, program
from hqde_fl.simulations.engines.ray.access import is_loopback
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.run import run_experiment
from tests.simulations.command import rounds_in, started

pytestmark = pytest.mark.deployment

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


def all_online(federation: FederationDirectory) -> bool:
    found = status(federation)
    assert found is not None
    control = ControlAddress(found.address, federation.superlink / "ca.crt")
    try:
        said = control.statuses()
    except RunError:  # it is being restarted
        return False
    return all(said[node] == "online" for node in found.ids.values())


def node_id(federation: FederationDirectory, name: str) -> int:
    """Return the id of a node, whose key is registered already."""
    current = status(federation)
    assert current is not None
    control = ControlAddress(current.address, federation.superlink / "ca.crt")
    return control.registered()[public_key(federation.superlink / f"{name}.pub")]


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


def test_a_superlink_that_is_killed_keeps_its_nodes_and_the_run_is_resumed(
    federation: FederationDirectory, tmp_path: Path
) -> None:
    out, plan = tmp_path / "run", SHORT
    going = Going(federation, out, plan)
    wait_until(lambda: len(going.rounds) >= 2 or going.error, "the first round")
    restarts = kill(federation, "superlink")
    with pytest.raises(RunError, match="finished:failed"):
        going.end()
    assert report(federation, "superlink").restarts == restarts + 1
    wait_until(lambda: all_online(federation), "the nodes are online again")
    again = Going(federation, out, plan, resume=True)
    again.end()
    assert [line["round"] for line in again.rounds] == [0, 1, 2]
    assert [line["kept"] for line in again.rounds[1:]] == [4, 4]


def test_a_killed_server_app_ends_the_run_though_the_stream_of_its_log_hangs(
    federation: FederationDirectory, tmp_path: Path
) -> None:
    """The SuperLink notices by the missing heartbeat; ``flwr run``, stopped here, notices nothing.

    Once the run has ended, another one can begin.
    """
    wait_until(lambda: all_online(federation), "nodes come back")
    going = Going(federation, tmp_path / "run", {"rounds": 1000})
    wait_until(lambda: len(going.rounds) >= 2 or going.error, "the first round")
    (app,) = running_programs("flwr-serverapp", federation)
    streams = running_programs("flwr", federation, "--stream")
    for stream in streams:
        os.kill(stream, signal.SIGSTOP)
    os.kill(app, signal.SIGKILL)
    with pytest.raises(RunError, match="ended finished:failed: No heartbeat received"):
        going.end()
    assert len(streams) == 1
    again = Going(federation, tmp_path / "again", {**SHORT, "rounds": 1})
    again.end()
    assert again.rounds[-1]["kept"] == 4


def running_programs(name: str, federation: FederationDirectory, option: str = "") -> list[int]:
    """Return the process ids of a federation's programs of that name, with an option if given."""
    found = []
    for process in processes_of(federation):
        with suppress(psutil.Error):  # gone meanwhile
            words = process.cmdline()
            if any(Path(w).name == name for w in words[:2]) and (not option or option in words):
                found.append(process.pid)
    return found


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


def supernode(
    federation: FederationDirectory, key: Path, root: Path | None, *options: str
) -> tuple[int, str]:
    """Run a SuperNode that is expected to give up; return its exit status and output.

    The output goes through a file: its SuperExec, which would hold the other end of a pipe, lives
    until the SuperNode is no zombie any more.
    """
    found = status(federation)
    assert found is not None
    environment = federation.environment()
    command = [program("flower-supernode", environment), "--superlink", found.address]
    command += ["--port", str(free_port()), "--max-retries", "1", *options]
    if root is not None:
        command += ["--root-certificates", str(root), "--auth-supernode-private-key", str(key)]
    with tempfile.TemporaryFile("w+") as output:
        done = subprocess.run(
            command,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE,
            check=False,
        )
        output.seek(0)
        return done.returncode, output.read()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_who_is_not_registered_or_not_who_they_say_is_refused(
    federation: FederationDirectory, tmp_path: Path
) -> None:
    """Refused: an unregistered key, another authority, plain text, and a key in use."""
    root = federation.path / "ca.crt"
    make_node_key(tmp_path / "stranger.key", tmp_path / "stranger.pub")
    make_authority(tmp_path / "other.crt", tmp_path / "other.key")
    code, output = supernode(federation, tmp_path / "stranger.key", root)
    assert code != 0
    assert "Failed to initialize the connection" in output
    key = federation.path / "node-5" / "node.key"
    code, output = supernode(federation, key, tmp_path / "other.crt")
    assert code != 0
    assert "CERTIFICATE_VERIFY_FAILED" in output
    code, output = supernode(federation, key, None, "--insecure")
    assert code != 0
    code, output = supernode(federation, federation.path / "node-0" / "node.key", root)
    assert code != 0
    assert "Failed to initialize the connection" in output
    found = status(federation)
    assert found is not None
    said = online(connected(federation))
    assert sorted(said[node] for node in found.ids.values()) == ["online"] * 4


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
