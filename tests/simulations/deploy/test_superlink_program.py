"""A SuperLink that hqde-fl starts: certificates that are renewed, locks, and its SuperExec."""

from __future__ import annotations

import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hqde_fl.simulations.deploy import superlink_program
from hqde_fl.simulations.deploy.federation import FederationDirectory
from hqde_fl.simulations.deploy.superlink_program import reload_when_changed
from hqde_fl.simulations.engines.flower_internals import sql_mixin


@pytest.fixture
def federation(tmp_path: Path) -> FederationDirectory:
    return FederationDirectory.create(tmp_path / "fed", 0)


@pytest.fixture
def context(
    federation: FederationDirectory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ssl.SSLContext]:
    """A server's context whose files are watched."""
    monkeypatch.setattr(superlink_program, "POLL_SECONDS", 0.01)
    files = federation.superlink / "server.crt", federation.superlink / "server.key"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    ended = threading.Event()
    watch = threading.Thread(target=reload_when_changed, args=(context, *files, ended))
    watch.start()
    yield context
    ended.set()
    watch.join()


def shown(context: ssl.SSLContext) -> str:
    """Return the certificate that a server with this context shows."""
    ends = socket.socketpair()
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname, client_context.verify_mode = False, ssl.CERT_NONE
    server = threading.Thread(target=lambda: context.wrap_socket(ends[0], server_side=True).close())
    server.start()
    with client_context.wrap_socket(ends[1]) as client:
        certificate = client.getpeercert(binary_form=True)
    server.join()
    assert certificate is not None
    return ssl.DER_cert_to_PEM_cert(certificate)


def wait_for(context: ssl.SSLContext, certificate: str) -> None:
    tried = 0
    while shown(context) != certificate:
        tried += 1
        assert tried < 5000


def test_a_renewed_certificate_is_shown(
    federation: FederationDirectory, context: ssl.SSLContext
) -> None:
    first = shown(context)
    federation.renew()
    renewed = (federation.superlink / "server.crt").read_text()
    assert renewed != first
    wait_for(context, renewed)


def test_a_pair_that_does_not_fit_is_not_shown(
    federation: FederationDirectory, context: ssl.SSLContext
) -> None:
    first = (federation.superlink / "server.crt").read_text()
    federation.renew()
    renewed = (federation.superlink / "server.crt").read_text()
    wait_for(context, renewed)
    (federation.superlink / "server.crt").write_text(first)  # of another key
    assert [shown(context) for _ in range(20)] == [renewed] * 20
    federation.renew()
    wait_for(context, (federation.superlink / "server.crt").read_text())


def test_a_locked_database_is_waited_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_mixin, "SQLITE_PRAGMAS", tuple(sql_mixin.SQLITE_PRAGMAS))
    superlink_program.wait_for_locks(12.5)
    with closing(sqlite3.connect(":memory:")) as database:
        sql_mixin._set_sqlite_pragmas(database, None)
        assert database.execute("PRAGMA busy_timeout").fetchone() == (12500,)


PROGRAM = """
import subprocess, sys, threading
from hqde_fl.simulations.deploy import superlink_program as program
program.POLL_SECONDS = 0.05
program.PATIENCE_SECONDS = 0.1
child = subprocess.Popen([sys.executable, "-c", "input()", "the-program"], stdin=subprocess.PIPE)
ended = threading.Event()
threading.Thread(target=program.end_without, args=("the-program", ended), daemon=True).start()
print("started", flush=True)
sys.stdin.readline()
child.communicate(b"\\n")
threading.Event().wait()
"""


def test_a_superlink_ends_when_what_starts_its_runs_has_ended() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        assert process.poll() is None
        process.communicate("\n", timeout=120)
    assert process.returncode == -signal.SIGTERM
