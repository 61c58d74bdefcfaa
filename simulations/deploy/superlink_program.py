"""Run ``flower-superlink`` so that it reads a renewed certificate without a restart.

::

    python -P -m hqde_fl.simulations.deploy.superlink_program ARGUMENTS OF flower-superlink

Connections that are open keep the certificate with which they began; new ones get the new one. It
also waits longer for a database that another program has locked, and it ends when its SuperExec,
which starts ServerApps, has ended: whoever supervises it then starts both again.
"""

from __future__ import annotations

import os
import signal
import ssl
import sys
import threading
import time
from importlib import import_module
from logging import ERROR, INFO, WARNING
from pathlib import Path
from typing import Any

import psutil
import uvicorn

from hqde_fl.protocol.flower_internals import log
from hqde_fl.simulations.deploy.run_files import serve_runs
from hqde_fl.simulations.deploy.server_log import start_server_log
from hqde_fl.simulations.engines.flower_internals import flower_superlink, sql_mixin

POLL_SECONDS = 1.0

LOCK_SECONDS = 60.0
"""Seconds that a request waits for a locked database; a backup takes longer than Flower's own 5."""

PATIENCE_SECONDS = 10.0
"""Seconds that the SuperLink may run on without its SuperExec, as it does when it ends itself."""


def reload_when_changed(
    context: ssl.SSLContext, certificate: Path, key: Path, ended: threading.Event
) -> None:
    """Let a server's context show its certificate as the files have it now, until ``ended``.

    A pair that does not fit together yet, as it is being copied, is tried again. A renewed pair
    gets a context of its own, to which each handshake turns: loaded into the server's own one, its
    certificate would be without its key for a moment.
    """
    current = context

    def turn_to_current(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        connection.context = current

    context.sni_callback = turn_to_current
    loaded = None  # they may have changed before this began
    while not ended.wait(POLL_SECONDS):
        found = _times(certificate, key)
        if found is None or found == loaded:
            continue
        try:
            renewed = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            renewed.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            log(WARNING, "%s is not read again yet: %s", certificate, error)
        else:
            if loaded is not None:
                log(INFO, "%s was renewed and is read again", certificate)
            current, loaded = renewed, found


def wait_for_locks(seconds: float = LOCK_SECONDS) -> None:
    """Let Flower's SQLite wait so long for a lock before a request fails."""
    module: Any = sql_mixin
    pragmas = {**dict(module.SQLITE_PRAGMAS), "busy_timeout": str(round(1000 * seconds))}
    module.SQLITE_PRAGMAS = tuple(pragmas.items())


def end_without(program: str, ended: threading.Event) -> None:
    """End this process once a program that it has started has ended before it.

    ``ended`` is set then. A program that has not been seen yet is waited for.
    """
    this, seen = psutil.Process(), False
    while True:
        runs = any(program in " ".join(_command(child)) for child in this.children())
        if seen and not runs:
            break
        seen |= runs
        time.sleep(POLL_SECONDS)
    time.sleep(PATIENCE_SECONDS)  # a process that is ending ends its programs first
    log(ERROR, "%s has ended, without which no run starts: the SuperLink ends, too", program)
    ended.set()
    os.kill(this.pid, signal.SIGTERM)


def _command(process: psutil.Process) -> list[str]:
    try:
        return [] if process.status() == psutil.STATUS_ZOMBIE else process.cmdline()
    except psutil.Error:
        return []


def _times(certificate: Path, key: Path) -> tuple[int, int] | None:
    try:
        return certificate.stat().st_mtime_ns, key.stat().st_mtime_ns
    except OSError:
        return None


class _ReloadingConfig(uvicorn.Config):
    """Uvicorn's configuration, which keeps its TLS context up to date."""

    def load(self) -> None:
        """Load the configuration, add the routes of the runs, and watch the certificate's files."""
        serve_runs(self.app, Path("runs"))
        super().load()
        if self.ssl is None or self.ssl_certfile is None or self.ssl_keyfile is None:
            return
        files = (Path(self.ssl_certfile), Path(self.ssl_keyfile))
        arguments = (self.ssl, *files, threading.Event())
        threading.Thread(
            target=reload_when_changed, args=arguments, daemon=True, name="certificate"
        ).start()


def main() -> None:
    """Run the SuperLink with the arguments of this process."""
    sys.argv[0] = "flower-superlink"
    start_server_log("superlink")
    run_module: Any = import_module("uvicorn.main")
    run_module.Config = _ReloadingConfig  # which ``uvicorn.run`` makes
    wait_for_locks()
    ended = threading.Event()
    arguments = ("flower-superexec", ended)
    threading.Thread(target=end_without, args=arguments, daemon=True, name="superexec").start()
    try:
        flower_superlink()
    finally:
        if ended.is_set():
            os._exit(1)  # whatever status it would end with: it is to be started again


if __name__ == "__main__":
    main()
