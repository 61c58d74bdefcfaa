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
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from hqde_fl.errors import ConfigError, RunError
from hqde_fl.simulations.deploy.federation import SETTINGS_FILE, FederationDirectory
from hqde_fl.simulations.deploy.free_port import free_port
from hqde_fl.simulations.deploy.registered_keys import ControlAddress, synchronise
from hqde_fl.simulations.deploy.retire import retire
from hqde_fl.simulations.deploy.supervised import Supervised
from hqde_fl.simulations.deploy.units import node_command, superlink_command
from hqde_fl.simulations.engines.flower.process_guard import end_all
from hqde_fl.simulations.engines.flower.superlink import program
from hqde_fl.simulations.recording.atomic_files import replace_file

STATUS = "status.json"
LOOPBACK = "127.0.0.1"
PORTS = "ports.json"
"""Name of the file with the ports of the SuperLink and of each node, which later starts reuse."""

_POLL = 0.2
_STARTUP = 60.0
_ENDING = 10.0


def main(arguments: Sequence[str]) -> int:
    """Supervise a federation until a signal ends this process; return 1 after a ``RunError``.

    ``arguments`` are the federation's directory, the number of nodes, and the address on which the
    SuperLink listens. At the end all processes of the federation are ended.
    """
    federation, count = FederationDirectory.load(Path(arguments[0])), int(arguments[1])

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    supervisor = Supervisor(federation, count, arguments[2])
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
    """The processes of one federation on this machine: the SuperLink and ``count`` nodes.

    The SuperLink listens on the address ``listen``, which includes loopback. Nodes that ``nodes
    add`` and ``nodes revoke`` add to the federation or remove from it are started and ended while
    the others run.
    """

    def __init__(self, federation: FederationDirectory, count: int, listen: str) -> None:
        self._federation, self._count = federation, count
        self._environment = federation.environment()
        ports = json.loads((federation.state / PORTS).read_text(encoding="utf-8"))
        self._address = f"{LOOPBACK}:{ports[0]}"
        self._control = ControlAddress(self._address, federation.superlink / "ca.crt")
        self._logs = federation.state / "logs"
        self._logs.mkdir(mode=0o700, exist_ok=True)
        database = federation.state / "superlink.db"
        command = superlink_command(federation.superlink, database, listen, ports[0])
        self._link = self._supervised("superlink", command)
        started = federation.local[:count]
        self._nodes = [
            self._node(name, port) for name, port in zip(started, ports[1:], strict=False)
        ]
        self._left_out = {*federation.local} - {*started}
        self._ids: dict[str, int] = {}
        self._registered = False
        self._changed_at = self._settings_time()

    def run(self) -> None:
        """Start all processes, then restart those that end; never returns.

        ``RunError`` is raised if the SuperLink does not start or does not register the nodes.
        """
        self._link.start()
        self.write()
        self._wait_for_link()
        self._register()
        for node in self._nodes:
            node.start()
        self.write()
        while True:
            time.sleep(_POLL)
            changed = self._follow_members()
            if any([self._check_process(process) for process in (self._link, *self._nodes)]):
                changed = True
            if changed:
                self.write()

    def _supervised(self, name: str, command: list[str]) -> Supervised:
        path = program(command[0], self._environment)
        log = self._logs / f"{name}.log"
        return Supervised(name, [path, *command[1:]], self._environment, log)

    def _node(self, name: str, port: int) -> Supervised:
        settings = self._federation.settings(name, self._count)
        folder = self._federation.path / name
        return self._supervised(name, node_command(folder, self._address, port, settings))

    def _register(self) -> None:
        """Register the keys of all nodes that are started here or run elsewhere."""
        names = {*self._federation.names} - self._left_out
        self._ids = synchronise(self._federation, self._control, names)
        self._registered = True

    def _settings_time(self) -> int:
        return (self._federation.path / SETTINGS_FILE).stat().st_mtime_ns

    def _follow_members(self) -> bool:
        """End nodes that have left the federation, and start those that have joined it here.

        Return True if the settings have changed.
        """
        changed_at = self._settings_time()
        if changed_at == self._changed_at:
            return False
        try:
            self._federation = FederationDirectory.load(self._federation.path)
            local = self._federation.local
            for node in [node for node in self._nodes if node.name not in local]:
                node.stop(_ENDING)
                self._nodes.remove(node)
            running = {node.name for node in self._nodes}
            joined = [name for name in local if name not in running | self._left_out]
            self._register()
            for name in joined:
                self._nodes.append(self._node(name, free_port()))
                self._nodes[-1].start()
        except (ConfigError, RunError, OSError) as error:  # tried again in a moment
            print(error, file=sys.stderr, flush=True)
            return False
        self._changed_at = changed_at
        return True

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
            "registered": self._registered,
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


def forget(federation: FederationDirectory) -> None:
    """Delete the folder of state, if there is one: database with registrations, logs, ports."""
    shutil.rmtree(federation.state, ignore_errors=True)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
