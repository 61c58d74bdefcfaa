"""Tests of the temporary folder of simulated clients' caches: nothing is left of it."""

import gc
import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from hqde_fl.simulations.engines import locked_folder
from hqde_fl.simulations.engines.cache_folder import PREFIX, CacheFolder

ROOT = Path(__file__).parents[3]

OWNER = """
import sys
from hqde_fl.simulations.engines.cache_folder import CacheFolder
folder = CacheFolder()
print(folder.path, flush=True)
sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def owner(temporary):
    """Start a process that owns a folder; return the process and the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    return process, Path(process.stdout.readline().strip())


def test_a_folder_is_the_users_own_and_goes_when_it_is_closed(temporary):
    folder = CacheFolder()
    assert stat.S_IMODE(os.stat(folder.path).st_mode) == 0o700
    Path(folder.path, "entry").write_bytes(b"content")
    folder.close()
    folder.close()
    assert list(temporary.iterdir()) == []


def test_a_folder_goes_with_its_owner(temporary):
    folder = CacheFolder()
    assert len(list(temporary.iterdir())) == 1
    del folder
    gc.collect()
    assert list(temporary.iterdir()) == []


def test_a_folder_goes_when_its_process_ends(temporary):
    process, folder = owner(temporary)
    assert folder.is_dir()
    process.communicate("\n")
    assert process.returncode == 0
    assert not folder.exists()


def test_the_folder_of_a_killed_process_goes_with_the_next_one(temporary):
    process, folder = owner(temporary)
    other = CacheFolder()
    assert folder.is_dir()  # its process lives
    (folder / "entry").write_bytes(b"content")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert folder.is_dir()
    third = CacheFolder()
    assert not folder.exists()
    assert {other.path, third.path} == {str(path) for path in temporary.iterdir()}


def test_links_and_other_files_are_left_alone(temporary):
    target = temporary / "target"
    target.mkdir()
    link, file = temporary / f"{PREFIX}link", temporary / "file"
    link.symlink_to(target)
    file.write_bytes(b"")
    folder = CacheFolder()
    assert {target, link, file, Path(folder.path)} == set(temporary.iterdir())


def test_without_locks_nothing_of_others_is_removed(temporary, monkeypatch):
    def refuse(*arguments):
        raise OSError(95, "not supported")

    monkeypatch.setattr(locked_folder.fcntl, "flock", refuse)
    one, two = CacheFolder(), CacheFolder()
    assert {one.path, two.path} == {str(path) for path in temporary.iterdir()}


def test_where_nothing_can_be_written_there_is_no_folder(temporary, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / "missing"))
    folder = CacheFolder()
    assert folder.path == ""
    folder.close()
