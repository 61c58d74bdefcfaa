"""A Ray that is started here has a short folder of its own, whatever the environment says."""

import os
import stat
import tempfile
from pathlib import Path

import pytest

from hqde_fl.errors import RunError
from hqde_fl.simulations.engines.ray import pool, private_ray, session_folder
from hqde_fl.simulations.engines.ray.session_folder import new_session_folder, short_folder

LONGEST_PATH = 107  # bytes, of a Unix socket
SOCKET = "/ray/session_2026-11-26_14-27-35_667266_4194304/sockets/plasma_store"


@pytest.fixture(autouse=True)
def no_folder(monkeypatch):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)


def test_sockets_fit_below_the_folder_of_a_job_with_a_long_temporary_folder(tmp_path, monkeypatch):
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    folder = new_session_folder()
    assert len(folder.path + SOCKET) <= LONGEST_PATH
    assert stat.S_IMODE(os.stat(folder.path).st_mode) == 0o700
    folder.close()
    assert not os.path.exists(folder.path)


def test_a_folder_of_the_longest_path_is_taken_and_no_longer_one(monkeypatch):
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        name = 107 - len(SOCKET) - 1 - len(short)
        monkeypatch.setenv("RAY_TMPDIR", short)
        assert short_folder(name) == short
        assert short_folder(name + 1) == "/tmp"


def test_the_users_own_folder_is_taken_first_and_made(monkeypatch):
    with tempfile.TemporaryDirectory(dir="/tmp") as parent:
        own = f"{parent}/r"
        monkeypatch.setenv("RAY_TMPDIR", own)
        assert short_folder(8) == own
        assert os.path.isdir(own)


def test_umlauts_count_with_their_bytes(tmp_path, monkeypatch):
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="ü") as short:
        monkeypatch.setenv("RAY_TMPDIR", short)
        assert short_folder(107 - len(SOCKET) - 1 - len(short) - 1) == short
        assert short_folder(107 - len(SOCKET) - 1 - len(short)) == "/tmp"


def test_without_a_folder_the_error_says_what_was_tried(monkeypatch):
    monkeypatch.setattr(session_folder, "_writable", lambda folder: False)
    with pytest.raises(RunError, match=r"at most 21 bytes, tried .*/tmp.*set RAY_TMPDIR"):
        new_session_folder()


def test_a_ray_that_does_not_start_is_one_line_and_keeps_its_logs(monkeypatch):
    ray = pool.ray
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(private_ray, "read_environment", lambda: None)
    monkeypatch.setattr("ray._private.worker._global_node", None)
    monkeypatch.setattr(private_ray, "_folders", [])

    def fail(**options):
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(RunError, match=r"no Ray at this machine: .*logs are below (\S+)\)$"):
        pool.connect()
    folder = Path(private_ray.files_folder())
    assert folder.is_dir()
    folder.rmdir()
