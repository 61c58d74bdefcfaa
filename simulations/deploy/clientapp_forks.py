"""Fork ClientApps from a process that has imported torch, Flower and hqde-fl.

A SuperNode starts a process for every message, and importing is most of what that costs: six
seconds of CPU time. Here a process imports once and forks a ClientApp for each message, in which
only the app itself is loaded. A ``flwr-clientapp`` of our own on the SuperNode's ``PATH`` asks for
them (``clientapp_shim.py``). Linux only; ``HQDE_FL_PRELOAD=0`` leaves everything to Flower.
"""

from __future__ import annotations

import json
import os
import random
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from hqde_fl.simulations.deploy import clientapp_shim
from hqde_fl.simulations.deploy.clientapp_shim import LENGTH

VARIABLE = "HQDE_FL_PRELOAD"
"""Environment variable that is 0 where ClientApps are to be started by Flower."""
PROGRAM = "flwr-clientapp"
MODULES = ("torch._dynamo", "flwr.supernode.cli", "hqde_fl.simulations.client_app")
"""Modules that are imported before a fork: a process's first optimiser needs ``torch._dynamo``."""
POLL_SECONDS = 1.0  # between looks at whether the SuperNode is still there


@contextmanager
def forked_clientapps() -> Iterator[None]:
    """Fork the ClientApps of a SuperNode that runs in the block, where that is possible."""
    program = shutil.which(PROGRAM)
    if sys.platform != "linux" or os.environ.get(VARIABLE) == "0" or program is None:
        yield
        return
    folder = Path(tempfile.mkdtemp(prefix="hqde-fl-"))
    shim = folder / PROGRAM
    words = [sys.executable, "-IS", clientapp_shim.__file__, str(folder / "socket"), program]
    shim.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    shim.chmod(0o700)
    command = [sys.executable, "-P", "-m", __name__, str(shim)]
    path = os.environ.get("PATH", os.defpath)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    os.environ["PATH"] = f"{folder}{os.pathsep}{path}"
    try:
        yield
    finally:
        os.environ["PATH"] = path
        process.terminate()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


class Forks:
    """The ClientApps that were forked, and the connections of those who wait for their ends.

    Parameters
    ----------
    path : Path
        The socket, in a folder of its own.
    """

    def __init__(self, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(64)
        self._waiting: dict[int, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._wakeup, ended = os.pipe()
        for end in (self._wakeup, ended):
            os.set_blocking(end, False)
        self._selector.register(self._wakeup, selectors.EVENT_READ)
        signal.set_wakeup_fd(ended, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def next_request(self, parent: int) -> dict[str, Any] | None:
        """Serve until a new ClientApp is to run; return its request, in a process of its own.

        The result is None in the first process, once the process ``parent`` has ended.
        """
        while os.getppid() == parent:
            for key, _ in self._selector.select(POLL_SECONDS):
                if key.fileobj is self._listener:
                    request = self._fork(self._listener.accept()[0])
                    if request is not None:
                        return request
                elif key.fileobj == self._wakeup:
                    os.read(self._wakeup, 4096)
                    self._tell_ended()
                else:
                    self._pass_signal(key.data)
        return None

    def kill(self) -> None:
        """Kill all ClientApps that are left."""
        for pid in self._waiting:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _fork(self, connection: socket.socket) -> dict[str, Any] | None:
        """Fork for a request; return it in the new process, and None in this one."""
        streams: list[int] = []
        try:
            length, streams, _, _ = socket.recv_fds(connection, LENGTH, 3)
            data = _received(connection, int.from_bytes(length, "big"))
            request: dict[str, Any] = json.loads(os.fsdecode(data))
            pid = os.fork()
        except (OSError, ValueError):  # whoever asked is gone, or there is no memory
            connection.close()
            _close(streams)
            return None
        if pid:
            self._waiting[pid] = connection
            self._selector.register(connection, selectors.EVENT_READ, pid)
            _close(streams)
            return None
        self._leave()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        _close(streams)
        connection.close()
        return request

    def _leave(self) -> None:
        """Close in a new process all that belongs to the first one."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        self._selector.close()
        self._listener.close()
        for other in self._waiting.values():
            other.close()

    def _tell_ended(self) -> None:
        """Tell those who wait how their ClientApps have ended."""
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                connection = self._waiting.pop(pid)
                with suppress(KeyError):  # its shim was killed
                    self._selector.unregister(connection)
                with suppress(OSError), connection:
                    code = os.waitstatus_to_exitcode(status)
                    connection.sendall(code.to_bytes(4, "big", signed=True))

    def _pass_signal(self, pid: int) -> None:
        """Send a ClientApp the signals that its shim has got; kill it if that was killed."""
        if pid not in self._waiting:  # it has ended meanwhile
            return
        numbers = b""
        with suppress(OSError):
            numbers = self._waiting[pid].recv(64)
        if not numbers:
            self._selector.unregister(self._waiting[pid])
        for number in numbers or [signal.SIGKILL]:
            os.kill(pid, number)


def _received(connection: socket.socket, size: int) -> bytes:
    """Return so many bytes of a connection; what follows them are signals.

    Raises ``ConnectionError`` if it is closed before.
    """
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            raise ConnectionError("the request is incomplete")
        data += more
    return data


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def preload() -> None:
    """Import what every ClientApp of an experiment needs."""
    for module in MODULES:
        import_module(module)


def become(request: dict[str, Any]) -> None:
    """Take over arguments, folder and environment of a request."""
    import numpy as np
    import torch

    os.environ.clear()
    os.environ.update(request["environ"])
    os.chdir(request["cwd"])
    sys.argv[:] = [PROGRAM, *request["argv"]]
    random.seed()
    np.random.seed()
    torch.seed()


def main() -> None:
    """Serve forks for the SuperNode that has started this process; a fork runs its ClientApp."""
    shim, parent = Path(sys.argv[1]), os.getppid()
    forks = Forks(shim.parent / "socket")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the SuperNode's end is ours
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    own, request = os.getpid(), None
    try:
        preload()
        request = forks.next_request(parent)
    finally:
        if request is None and os.getpid() == own:  # ended, or the SuperNode has: it may be killed
            forks.kill()
            shutil.rmtree(shim.parent, ignore_errors=True)
    if request is None:
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    become(request)
    from hqde_fl.simulations.engines.flower_internals import flwr_clientapp

    flwr_clientapp()


if __name__ == "__main__":
    main()
