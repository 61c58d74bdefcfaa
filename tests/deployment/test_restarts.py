"""A killed SuperLink, a killed ServerApp, and nodes that are refused, on real processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

from hqde_fl.errors import RunError
from hqde_fl.simulations.deploy.authority import make_authority, make_node_key
from hqde_fl.simulations.deploy.federation import FederationDirectory
from hqde_fl.simulations.deploy.nodes import connected, online, status
from hqde_fl.simulations.engines.flower.superlink import program
from tests.deployment.disturbed_run import (
    PATIENCE,
    SHORT,
    Going,
    all_online,
    kill,
    report,
    running_programs,
    wait_until,
)

pytestmark = pytest.mark.deployment


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
