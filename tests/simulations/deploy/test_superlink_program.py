"""A server shows a renewed certificate without a restart."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hqde_fl.simulations.deploy import superlink_program
from hqde_fl.simulations.deploy.federation import FederationDirectory
from hqde_fl.simulations.deploy.superlink_program import reload_when_changed


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
