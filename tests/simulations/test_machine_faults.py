"""Faults of the machine around a whole run, on every engine: it ends with the undisturbed model.

``make test-drills`` runs them; docs/drills.md has the table.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from hqde_fl.simulations.recording.recorded_run import read_lines
from tests.simulations.command import (
    SECONDS,
    call,
    chain_in,
    command,
    environment,
    rounds_in,
    started,
)

pytestmark = pytest.mark.drills

ENGINES = ("inline", "ray", "flower")
EXPERIMENT = """
seed = 5
rounds = 8
task = { name = "digits", hidden = 16 }
clients = { count = 4, epochs = 40, lr = 0.1 }
strategy = { rule = "geometric-median", fraction-evaluate = 0.5 }
"""
HOUR = 3600
NO_PROXY = "http://127.0.0.1:9"  # nobody listens on this port


@dataclass(frozen=True)
class Fault:
    """A fault of the machine around a run.

    Parameters
    ----------
    variables : Callable[[Path], Mapping[str, str]]
        Returns the environment variables, given a folder for the fault's own files.
    strike : Callable[[Path], object]
        Is called with that folder once two rounds have been recorded.
    """

    variables: Callable[[Path], Mapping[str, str]]
    strike: Callable[[Path], object] = lambda folder: None


def proxies(folder: Path) -> dict[str, str]:
    names = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")
    return {name: NO_PROXY for lower in names for name in (lower, lower.upper())}


def no_home(folder: Path) -> dict[str, str]:
    return {"HOME": "/proc"}  # not even root can write there


def clock(folder: Path) -> dict[str, str]:
    """Return the variables that put the clock of all processes under the file ``clock``."""
    import libfaketime  # the extra drills

    (folder / "clock").write_text("+0")
    library = Path(libfaketime.__file__).parent / "vendor/libfaketime/src/libfaketime.so.1"
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(folder / "clock"),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # setting a clock does not change that one
    }


FAULTS = {
    "http_proxy": Fault(proxies),
    "read-only home": Fault(no_home),
    "clock an hour on": Fault(clock, lambda f: (f / "clock").write_text(f"+{HOUR}")),
    "clock an hour back": Fault(clock, lambda f: (f / "clock").write_text(f"-{HOUR}")),
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str]]:
    """Return the hashes of the rounds of a run without faults, by engine."""

    @cache
    def hashes(engine: str) -> list[str]:
        folder = tmp_path_factory.mktemp(engine)
        (folder / "drill.toml").write_text(EXPERIMENT)
        words = ("run", "drill.toml", "--engine", engine, "--out", "run")
        call(*words, cwd=folder).check_returncode()
        return chain_in(folder / "run")

    return hashes


TRIED = [
    (name, engine)
    for name in FAULTS
    for engine in ENGINES
    # Ray's programs, which Flower's simulation starts as well, hang with libfaketime
    if not (name.startswith("clock") and engine != "inline")
]


@pytest.mark.parametrize(("name", "engine"), TRIED)
def test_a_run_does_not_notice(
    name: str, engine: str, undisturbed: Callable[[str], list[str]], tmp_path: Path
) -> None:
    expected, fault = undisturbed(engine), FAULTS[name]
    (tmp_path / "drill.toml").write_text(EXPERIMENT)
    out = tmp_path / "run"
    words = ("run", "drill.toml", "--engine", engine, "--out", "run")
    with started(*words, cwd=tmp_path, variables=fault.variables(tmp_path)) as running:
        running.wait_for(lambda: rounds_in(out) >= 3, "two rounds")
        fault.strike(tmp_path)
        status, errors = running.end()
    assert status == 0, errors
    assert chain_in(out) == expected
    lines = read_lines(out / "rounds.jsonl")
    assert all(line["seconds"] is None or 0 <= line["seconds"] < SECONDS for line in lines)


@pytest.mark.parametrize("engine", ENGINES)
def test_two_runs_at_once_do_not_notice_each_other(
    engine: str, undisturbed: Callable[[str], list[str]], tmp_path: Path
) -> None:
    expected = undisturbed(engine)
    (tmp_path / "drill.toml").write_text(EXPERIMENT)
    words = ("run", "drill.toml", "--engine", engine, "--out")
    with (
        started(*words, "one", cwd=tmp_path) as one,
        started(*words, "two", cwd=tmp_path) as two,
    ):
        ends = [one.end(), two.end()]
    assert [status for status, _ in ends] == [0, 0], ends
    assert chain_in(tmp_path / "one") == chain_in(tmp_path / "two") == expected


KIB = (16, 100, 250, 400, 600)
"""Sizes of the disk on which the run directory is: it is full at another point each time."""


ON_SMALL_DISK = """
mount -t tmpfs -o size="$1"k tmpfs "$2"; shift 2
"$@"; code=$?
cp -a "$COPY" "$TO"; exit $code
"""


@pytest.mark.parametrize("engine", ["inline", "ray"])
@pytest.mark.parametrize("kib", KIB)
def test_a_full_disk_loses_no_recorded_round(
    kib: int, engine: str, undisturbed: Callable[[str], list[str]], tmp_path: Path
) -> None:
    """The message says how to go on, and on a larger disk the run ends as it would have."""
    expected = undisturbed(engine)
    (tmp_path / "drill.toml").write_text(EXPERIMENT)
    disk = tmp_path / "disk"
    disk.mkdir()
    words = command("run", "drill.toml", "--engine", engine, "--out", disk / "run")
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", ON_SMALL_DISK, "-", str(kib), str(disk), *words],
        cwd=tmp_path,
        env=environment(COPY=str(disk / "run"), TO=str(tmp_path / "copy")),
        capture_output=True,
        text=True,
        check=False,
    )
    copy = tmp_path / "copy"
    before = chain_in(copy) if rounds_in(copy) else []
    if done.returncode == 0:  # there was room for all, or for all but the report
        assert before == expected
        return
    assert "cannot be written: No space left on device" in done.stderr
    assert json.loads((copy / "manifest.json").read_text())["status"] == "failed"
    assert before == expected[: len(before)]
    assert ("hqde-fl run --resume" in done.stderr) == any((copy / "checkpoint").glob("*"))
    if not before:  # not even the initial model is there: nothing to go on from
        return
    shutil.move(copy, disk / "run")
    again = call("run", "--resume", disk / "run", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert chain_in(disk / "run") == expected
