"""The doctor warns of a file that makes Flower's own simulation wait for a Ray that is gone."""

import socket

import pytest

from hqde_fl.simulations.console.doctor import stale_cluster_file


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Return the file in which ``ray start`` leaves its address."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray" / "ray_current_cluster"


def test_only_a_cluster_that_does_not_answer_is_warned_of(file):
    assert stale_cluster_file() == ""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        file.write_text(address)
        assert stale_cluster_file() == ""
    assert stale_cluster_file().startswith(f"{file} names a Ray at {address} that does not answer")


@pytest.mark.parametrize("content", ["nonsense", "host.invalid:99999999", "[::1]:x"])
def test_an_address_that_is_none_does_not_answer(file, content):
    file.write_text(content)
    assert content in stale_cluster_file()


def test_an_empty_file_is_none(file):
    file.write_text("")
    assert stale_cluster_file() == ""
