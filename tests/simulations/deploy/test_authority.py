"""Permissions of keys, and certificates under Python's and Flower's verifiers."""

from __future__ import annotations

import socket
import ssl
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from flwr.cli.supernode.register import try_load_public_key
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from hqde_fl.errors import ConfigError, RunError
from hqde_fl.simulations.deploy.authority import (
    issue_server,
    make_authority,
    make_node_key,
    valid_until,
)

LONG = ".".join(["a" * 40, "b" * 40, "example"])
"""A host name that is longer than a common name may be."""


@pytest.fixture
def authority(tmp_path: Path) -> tuple[Path, Path]:
    made = tmp_path / "ca.crt", tmp_path / "ca.key"
    make_authority(*made)
    return made


def server(tmp_path: Path, authority: tuple[Path, Path], *hosts: str) -> tuple[Path, Path]:
    made = tmp_path / "server.crt", tmp_path / "server.key"
    issue_server(authority, *made, hosts)
    return made


def handshake(certificate: Path, key: Path, root: Path, name: str) -> str | None:
    """Connect to the server by a name and return the version of the protocol."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate, key)
    asking = ssl.create_default_context(cafile=str(root))
    asking.verify_flags |= ssl.VERIFY_X509_STRICT
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            serving.wrap_socket(theirs, server_side=True).close()
        except (ssl.SSLError, OSError):
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with asking.wrap_socket(ours, server_hostname=name) as connection:
            return connection.version()
    finally:
        ours.close()
        thread.join()


@pytest.mark.parametrize("name", ["fl.example.org", "127.0.0.1", "::1", LONG])
def test_the_certificate_holds_for_every_name(
    tmp_path: Path, authority: tuple[Path, Path], name: str
) -> None:
    made = server(tmp_path, authority, LONG, "fl.example.org", "127.0.0.1", "::1")
    assert handshake(*made, authority[0], name) == "TLSv1.3"


def test_another_name_or_another_authority_is_refused(
    tmp_path: Path, authority: tuple[Path, Path]
) -> None:
    made = server(tmp_path, authority, "localhost")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(*made, authority[0], "example.org")
    make_authority(tmp_path / "other.crt", tmp_path / "other.key")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(*made, tmp_path / "other.crt", "localhost")


def test_a_certificate_is_renewed_in_place(tmp_path: Path, authority: tuple[Path, Path]) -> None:
    made = server(tmp_path, authority, "localhost")
    before = [path.read_bytes() for path in made]
    issue_server(authority, *made, ["localhost"], days=10)
    assert [path.read_bytes() for path in made] != before
    assert handshake(*made, authority[0], "localhost") == "TLSv1.3"
    assert valid_until(made[0]) - datetime.now(UTC) <= timedelta(days=10)


def test_private_keys_are_private(tmp_path: Path, authority: tuple[Path, Path]) -> None:
    made = server(tmp_path, authority, "localhost")
    make_node_key(tmp_path / "node.key", tmp_path / "node.pub")
    for path in (authority[1], made[1], tmp_path / "node.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_node_keys_are_as_flower_wants_them(tmp_path: Path) -> None:
    private, public = tmp_path / "node.key", tmp_path / "node.pub"
    make_node_key(private, public)
    key = load_ssh_private_key(private.read_bytes(), None)
    assert try_load_public_key(public) == public_key_to_bytes(key.public_key())  # type: ignore[arg-type]
    assert load_ssh_public_key(public.read_bytes()) == key.public_key()
    with pytest.raises(FileExistsError):
        make_node_key(private, tmp_path / "again.pub")


@pytest.mark.parametrize("days", [0, 4000])
def test_days_have_bounds(tmp_path: Path, authority: tuple[Path, Path], days: int) -> None:
    with pytest.raises(ConfigError, match=rf"days must be in \[1, 3650\], found {days}"):
        issue_server(authority, tmp_path / "c", tmp_path / "k", ["localhost"], days)


def test_without_the_authoritys_key_nothing_is_issued(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the authority's certificate and key are needed"):
        issue_server((tmp_path / "a", tmp_path / "b"), tmp_path / "c", tmp_path / "k", ["x"])


def test_a_damaged_or_another_authoritys_key_issues_nothing(
    tmp_path: Path, authority: tuple[Path, Path]
) -> None:
    make_authority(tmp_path / "other.crt", tmp_path / "other.key")
    with pytest.raises(ConfigError, match=r"other\.key is not the key of .*ca\.crt"):
        server(tmp_path, (authority[0], tmp_path / "other.key"), "localhost")
    authority[1].write_text("damaged")
    with pytest.raises(ConfigError, match=r"ca\.key is damaged: "):
        server(tmp_path, authority, "localhost")
    assert not (tmp_path / "server.key").exists()


def test_a_certificate_that_cannot_be_written_leaves_the_old_key(
    tmp_path: Path, authority: tuple[Path, Path]
) -> None:
    made = server(tmp_path, authority, "localhost")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(RunError, match=r"server\.crt cannot be written: No such file"):
        issue_server(authority, tmp_path / "none" / "server.crt", made[1], ["localhost"])
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
