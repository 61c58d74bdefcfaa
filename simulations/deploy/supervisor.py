"""The supervisor process of ``nodes up``, which keeps the SuperLink and the SuperNodes running.

It runs detached until ``nodes down`` ends it, and writes its status to ``DIR/state/status.json``.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from hqde_fl.errors import RunError
from hqde_fl.simulations.deploy.federation import CONNECTION, FederationDirectory
from hqde_fl.simulations.deploy.registered_keys import public_key, registered
from hqde_fl.simulations.deploy.retire import retire
from hqde_fl.simulations.deploy.supervised import Supervised
from hqde_fl.simulations.deploy.units import node_command, superlink_command
from hqde_fl.simulations.engines.flower.process_guard import end_all
from hqde_fl.simulations.engines.flower.superlink import SuperLink, program
from hqde_fl.simulations.recording.atomic_files import replace_file

STATUS = "status.json"
PORTS = "ports.json"
"""Name of the file with the ports of the SuperLink and of each node, which later starts reuse."""

_POLL = 0.2
_STARTUP = 60.0
_ENDING = 10.0


def main(arguments: Sequence[str]) -> int:
    """Supervise a federation until a signal ends this process; return 1 after a ``RunError``.

    ``arguments`` are the federation's directory and the number of nodes. At the end all processes
    of the federation are ended.
    """
    federation, count = FederationDirectory.load(Path(arguments[0])), int(arguments[1])

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    supervisor = Supervisor(federation, count)
    try:
        supervisor.run()
    except RunError as error:
        supervisor.write(str(error))
        return 1
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # no signal may interrupt the clean-up
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        supervisor.stop()
    return 0


class Supervisor:
    """The processes of one federation on this machine: the SuperLink and ``count`` nodes."""

    def __init__(self, federation: FederationDirectory, count: int) -> None:
        self._federation = federation
        environment = federation.environment()
        ports = json.loads((federation.state / PORTS).read_text(encoding="utf-8"))
        self._address = f"127.0.0.1:{ports[0]}"
        logs = federation.state / "logs"
        logs.mkdir(mode=0o700, exist_ok=True)

        def supervised(name: str, command: list[str]) -> Supervised:
            path = program(command[0], environment)
            return Supervised(name, [path, *command[1:]], environment, logs / f"{name}.log")

        database = federation.state / "superlink.db"
        self._link = supervised(
            "superlink",
            superlink_command(federation.superlink, database, "127.0.0.1", ports[0]),
        )
        self._nodes = [
            supervised(
                name,
                node_command(
                    federation.path / name,
                    self._address,
                    port,
                    federation.settings(number, count),
                ),
            )
            for number, (name, port) in enumerate(
                zip(federation.nodes[:count], ports[1:], strict=False)
            )
        ]
        self._ids: dict[str, int] = {}

    def run(self) -> None:
        """Start all processes, then restart those that end; never returns.

        ``RunError`` is raised if the SuperLink does not start or does not register the nodes.
        """
        self._link.start()
        self.write()
        self._wait_for_link()
        self._ids = register(self._federation, [node.name for node in self._nodes], self._address)
        for node in self._nodes:
            node.start()
        self.write()
        while True:
            time.sleep(_POLL)
            if any([self._check_process(process) for process in (self._link, *self._nodes)]):
                self.write()

    def stop(self) -> None:
        """End the nodes, which sign off, then the SuperLink, then any process that is left.

        The status file, if there still is one, is written a last time.
        """
        for process in (*self._nodes, self._link):
            process.stop(_ENDING)
        end_all(str(self._federation.home))
        if not (self._federation.state / STATUS).exists():
            return
        self.write(self._failure())

    def write(self, error: str | None = None) -> None:
        """Write the processes' status, and the error that ended the supervisor, atomically."""
        reports = [process.report for process in (self._link, *self._nodes)]
        status = {
            "supervisor": os.getpid(),
            "address": self._address,
            "processes": [dataclasses.asdict(report) for report in reports],
            "ids": self._ids,
            "error": error,
        }
        replace_file(self._federation.state / STATUS, json.dumps(status, indent=1).encode())

    def _failure(self) -> str | None:
        status = json.loads((self._federation.state / STATUS).read_text(encoding="utf-8"))
        error = status.get("error")
        return None if error is None else str(error)

    def _check_process(self, process: Supervised) -> bool:
        """Sign off a node that has just ended, or restart a process when that is due.

        Return True if the process has just ended, which holds for the SuperLink too, or was
        restarted.
        """
        if process.ended():
            if process.name in self._ids:
                folder = self._federation.path / process.name
                retire(self._address, folder, self._ids[process.name])
            return True
        return process.start_if_due()

    def _wait_for_link(self) -> None:
        until = time.monotonic() + _STARTUP
        while not healthy(self._address, self._federation.superlink / "ca.crt"):
            if self._link.ended() or time.monotonic() > until:
                raise RunError(f"the SuperLink did not start: see {self._link.log}")
            time.sleep(_POLL)


def healthy(address: str, root: Path) -> bool:
    """Return True if a SuperLink with a certificate of the authority answers at an address."""
    context = ssl.create_default_context(cafile=str(root))
    opener = urllib.request.build_opener(
        urllib.request.HTTPSHandler(context=context), urllib.request.ProxyHandler({})
    )
    try:
        with opener.open(f"https://{address}/health", timeout=2.0) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def register(federation: FederationDirectory, names: Sequence[str], address: str) -> dict[str, int]:
    """Register the nodes whose public keys the SuperLink does not know; return all ids by name.

    Raises
    ------
    RunError
        If the SuperLink refuses a key, or does not answer.
    """
    ids = registered(address, federation.superlink / "ca.crt")
    keys = {name: public_key(federation.superlink / f"{name}.pub") for name in names}
    known = {name: ids[key] for name, key in keys.items() if key in ids}
    link = federation.connect(address)
    calls = {name: _registering(link, federation, name) for name in names if name not in known}
    for name, call in calls.items():
        output, errors = call.communicate()
        try:
            known[name] = int(json.loads(output)["node-id"])
        except (ValueError, KeyError) as error:
            reason = (errors or output).strip() or f"exit status {call.returncode}"
            raise RunError(f"the SuperLink did not register {name}: {reason}") from error
    return {name: known[name] for name in names}


def _registering(
    link: SuperLink, federation: FederationDirectory, name: str
) -> subprocess.Popen[str]:
    public = str(federation.superlink / f"{name}.pub")
    return subprocess.Popen(
        link.flwr("supernode", "register", public, CONNECTION, "--format", "json"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(link.environment),
        text=True,
    )


def forget(federation: FederationDirectory) -> None:
    """Delete the folder of state, if there is one: database with registrations, logs, ports."""
    shutil.rmtree(federation.state, ignore_errors=True)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
