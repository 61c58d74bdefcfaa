"""Fork ClientApps from a process that has imported torch, Flower and hqde-fl.

A SuperNode starts a process for every message, and importing is most of what that costs: six
seconds of CPU time. Here a process imports once and forks a ClientApp for each message, in which
only the app itself is loaded. A ``flwr-clientapp`` of our own on the SuperNode's ``PATH`` asks for
them (``clientapp_shim.py``). Linux only; ``HQDE_FL_PRELOAD=0`` leaves everything to Flower.

On a node that gets too little CPU, Flower takes a ClientApp that is slow to begin for lost, and
starts another one for the same message every half minute. So only ``HQDE_FL_CLIENTAPPS`` of them
run at once; the others wait, and those that are not needed any more end as soon as they begin. One
that hangs would keep others waiting for ever: after a minute the oldest is killed.
"""

from __future__ import annotations

import json
import os
import random
import select
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.deploy import clientapp_shim
from hqde_fl.simulations.deploy.clientapp_shim import LENGTH
from hqde_fl.simulations.engines.locked_folder import LockedFolder

VARIABLE = "HQDE_FL_PRELOAD"
"""Environment variable that is 0 where ClientApps are to be started by Flower."""
MOST_VARIABLE = "HQDE_FL_CLIENTAPPS"
"""Environment variable with the number of ClientApps that run at once; by default 2, or as many as
there are cores."""
PROGRAM = "flwr-clientapp"
MODULES = ("torch._dynamo", "flwr.supernode.cli", "hqde_fl.simulations.client_app")
"""Modules that are imported before a fork: a process's first optimiser needs ``torch._dynamo``."""
PATIENCE_SECONDS = 60.0
"""Time for which a ClientApp waits for one of too many to end, before the oldest is killed."""
POLL_SECONDS = 1.0  # between looks at whether the SuperNode is still there


@contextmanager
def forked_clientapps() -> Iterator[None]:
    """Fork the ClientApps of a SuperNode that runs in the block, where that is possible."""
    program = shutil.which(PROGRAM)
    if sys.platform != "linux" or os.environ.get(VARIABLE) == "0" or program is None:
        yield
        return
    locked = LockedFolder("hqde-fl-forks-")
    folder = Path(locked.path)
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
        locked.close()


class Forks:
    """The ClientApps that were forked, and the connections of those who wait for their ends.

    Parameters
    ----------
    path : Path
        The socket, in a folder of its own.
    most : int
        ClientApps that run at once, >= 1.
    """

    def __init__(self, path: Path, most: int) -> None:
        self._most = most
        self._asked: float | None = None  # when a request was first seen to wait
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
            self._limit()
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

    def _limit(self) -> None:
        """Answer new requests or leave them waiting, but not for too long."""
        full, listens = len(self._waiting) >= self._most, self._listener in self._selector.get_map()
        if full and listens:
            self._selector.unregister(self._listener)
        elif not full and not listens:
            self._selector.register(self._listener, selectors.EVENT_READ)
        now = time.monotonic()
        if not (full and select.select([self._listener], [], [], 0)[0]):
            self._asked = None
        elif self._asked is None:
            self._asked = now
        elif now - self._asked > PATIENCE_SECONDS:
            print(
                f"hqde-fl: {self._most} ClientApps have run for {PATIENCE_SECONDS:g} s while "
                f"another one waits: the oldest is killed (see {MOST_VARIABLE})",
                file=sys.stderr,
                flush=True,
            )
            os.kill(next(iter(self._waiting)), signal.SIGKILL)
            self._asked = None

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


def most_clientapps() -> int:
    """Return the number of ClientApps that may run at once on this node.

    Raises
    ------
    ConfigError
        If ``HQDE_FL_CLIENTAPPS`` is no number >= 1.
    """
    text = os.environ.get(MOST_VARIABLE, "")
    if not text:
        return max(2, len(os.sched_getaffinity(0)))
    if not (text.isdecimal() and int(text) >= 1):
        raise ConfigError(f"{MOST_VARIABLE} needs a number >= 1, found {text!r}")
    return int(text)


def main() -> None:
    """Serve forks for the SuperNode that has started this process; a fork runs its ClientApp."""
    shim, parent = Path(sys.argv[1]), os.getppid()
    forks = Forks(shim.parent / "socket", most_clientapps())
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
