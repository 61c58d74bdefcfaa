"""Tests of a node's cache of entries: damage, bounds, and several processes at once."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from flwr.app import Context, RecordDict

from hqde_fl.clients.cache_location import CACHE_DIR, CACHE_VARIABLE
from hqde_fl.clients.entry_cache import EntryCache
from hqde_fl.protocol.held_entries import Manifest, array_hash, equal_arrays
from hqde_fl.protocol.records import to_record

ROOT = Path(__file__).parents[2]


def model(count=3, size=100, shift=0.0):
    return dict(to_record({f"w{i}": torch.full((size,), i + shift) for i in range(count)}))


def stored(cache, arrays, chosen=None):
    """Store some arrays of a model, all if not given; return their manifest."""
    manifest = Manifest.of(arrays, arrays if chosen is None else chosen)
    assert cache.store(manifest, arrays)
    return manifest


@pytest.fixture
def cache(tmp_path):
    return EntryCache(tmp_path / "deep" / "cache")


def test_what_is_stored_comes_back_bit_by_bit(cache):
    arrays = model() | dict(
        to_record(
            {
                "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
                "scalar": torch.tensor(3),
                "empty": torch.zeros(0, 4),
                "lines": torch.full((64,), 10, dtype=torch.uint8),
            }
        )
    )
    manifest = stored(cache, arrays)
    assert cache.manifest(manifest.digest) == manifest
    for name, digest in manifest.held.items():
        assert equal_arrays(cache.array(digest), arrays[name]), name
        assert array_hash(cache.array(digest)) == digest


def test_only_chosen_entries_are_stored_and_equal_ones_once(cache):
    arrays = model()
    arrays["twin"] = arrays["w0"]
    manifest = stored(cache, arrays, ["w0", "twin"])
    assert len(list(cache.folder.iterdir())) == 2
    assert cache.array(manifest.held["twin"]) is not None
    assert cache.array(array_hash(arrays["w1"])) is None


def test_the_folder_and_its_files_are_the_users_own(cache):
    stored(cache, model())
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in cache.folder.iterdir()} == {0o600}


def test_reading_makes_no_folder(cache):
    assert cache.array("0" * 64) is None
    assert cache.manifest("0" * 64) is None
    assert not cache.folder.exists()


@pytest.mark.parametrize("damage", [b"", b"x", None], ids=["empty", "short", "one bit"])
def test_a_damaged_file_is_absent_and_is_written_anew(cache, damage):
    arrays = model()
    manifest = stored(cache, arrays)
    for digest in [manifest.digest, *manifest.held.values()]:
        file = cache.folder / digest
        content = file.read_bytes()
        file.write_bytes(content[:-1] + b"\x07" if damage is None else damage)
    assert cache.manifest(manifest.digest) is None
    assert all(cache.array(digest) is None for digest in manifest.held.values())
    assert list(cache.folder.iterdir()) == []
    assert stored(cache, arrays) == manifest
    assert cache.manifest(manifest.digest) == manifest


def test_manifests_are_no_arrays_and_arrays_no_manifests(cache):
    manifest = stored(cache, model())
    assert cache.array(manifest.digest) is None
    assert cache.manifest(manifest.held["w0"]) is None
    assert cache.manifest(manifest.digest) == manifest  # none was removed


@pytest.mark.parametrize("digest", ["", ".", "..", "../secret", "secret", "/etc/passwd", "0" * 63])
def test_a_digest_of_the_server_reaches_no_other_file(cache, digest):
    stored(cache, model())
    for folder in (cache.folder, cache.folder.parent):
        (folder / "secret").write_bytes(b"[]")
    assert cache.array(digest) is None
    assert cache.manifest(digest) is None
    assert (cache.folder / "secret").exists()


def test_the_least_recently_used_files_go_first(tmp_path):
    first, second, third = model(1), model(1, shift=1.0), model(1, shift=2.0)
    cache = EntryCache(tmp_path, max_bytes=1500)  # two models of 700 bytes
    old, used = stored(cache, first), stored(cache, second)
    for age, manifest in ((2, old), (1, used)):
        for digest in (manifest.digest, *manifest.held.values()):
            os.utime(tmp_path / digest, (1000 - age, 1000 - age))
    assert cache.array(old.held["w0"]) is not None  # now it is the one used last
    assert cache.manifest(old.digest) is not None
    new = stored(cache, third)
    assert cache.array(old.held["w0"]) is not None
    assert cache.array(new.held["w0"]) is not None
    assert cache.array(used.held["w0"]) is None
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 1500


def test_what_exceeds_the_bound_is_not_stored(tmp_path):
    cache, arrays = EntryCache(tmp_path, max_bytes=1000), model()
    assert not cache.store(Manifest.of(arrays, arrays), arrays)
    assert list(tmp_path.iterdir()) == []


def test_temporary_files_of_killed_processes_go(tmp_path):
    cache = EntryCache(tmp_path)
    old, new = tmp_path / ".new-old", tmp_path / ".new-new"
    old.write_bytes(b"half")
    new.write_bytes(b"half")
    os.utime(old, (1000, 1000))
    stored(cache, model())
    assert not old.exists()
    assert new.exists()  # another process may be writing it


def test_a_folder_that_cannot_be_written_stores_nothing(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    cache, arrays = EntryCache(tmp_path / "file" / "cache"), model()
    assert not cache.store(Manifest.of(arrays, arrays), arrays)
    assert cache.array("0" * 64) is None


WRITER = """
import sys
from pathlib import Path
import torch
from hqde_fl.clients.entry_cache import EntryCache
from hqde_fl.protocol.held_entries import Manifest
from hqde_fl.protocol.records import to_record

cache = EntryCache(Path(sys.argv[1]), int(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
lacking = 0
for turn in range(60):
    state = {f"w{i}": torch.full((2000,), float(i + turn % 5)) for i in range(6)}
    arrays = dict(to_record(state))
    manifest = Manifest.of(arrays, arrays)
    assert cache.store(manifest, arrays)
    for name, digest in manifest.held.items():
        array = cache.array(digest)
        lacking += array is None
        assert array is None or array.data == arrays[name].data
print(lacking, flush=True)
"""


@pytest.mark.parametrize("max_bytes", [1 << 30, 100_000], ids=["roomy", "crowded"])
def test_two_processes_write_and_read_at_once(tmp_path, max_bytes):
    command = [sys.executable, "-c", WRITER, str(tmp_path), str(max_bytes)]
    writers = [
        subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    lacking = [int(writer.communicate()[0]) for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0]
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]
    if max_bytes == 1 << 30:  # else one may remove what the other has just written
        assert lacking == [0, 0]
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < max_bytes + 100_000


def context(**config):
    return Context(1, 1, config, RecordDict(), {})


def test_the_node_config_goes_before_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    assert EntryCache.of(context()) is None
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "environment"))
    assert EntryCache.of(context()).folder == tmp_path / "environment"
    own = EntryCache.of(context(**{CACHE_DIR: str(tmp_path / "own")}))
    assert own.folder == tmp_path / "own"
    assert EntryCache.of(context(**{CACHE_DIR: ""})) is None
    monkeypatch.setenv(CACHE_VARIABLE, "")
    assert EntryCache.of(context()) is None
