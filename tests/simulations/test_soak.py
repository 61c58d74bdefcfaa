"""A long run on Ray: killed at random it ends with the same model, and it does not grow.

``make test-soak`` runs it; docs/drills.md has the figures.
"""

from __future__ import annotations

import os
import random
import re
import signal
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import psutil
import pytest

from tests.simulations.command import Running, chain_in, rounds_in, started

pytestmark = pytest.mark.soak

ROUNDS, KILLS = 200, 16
MAX_GROWTH = 0.02
"""Growth of anything between the two halves of a run, at most."""
EXPERIMENT = f"""
seed = 5
rounds = {ROUNDS}
task = {{ name = "digits", hidden = 16 }}
clients = {{ count = 6, lr = 0.1 }}
strategy = {{ rule = "geometric-median", fraction-train = 0.7 }}
engine = {{ name = "ray" }}
checkpoint = {{ every = 5 }}
"""


@dataclass(frozen=True)
class Use:
    """Resources that a run and its processes use.

    Parameters
    ----------
    memory : float
        Bytes of the processes' own memory.
    descriptors : float
        Their open file descriptors.
    processes : float
        Their number.
    shared : float
        Bytes of files in shared memory.
    temporary : float
        Entries of the folder for temporary files.
    """

    memory: float
    descriptors: float
    processes: float
    shared: float
    temporary: float

    @classmethod
    def of(cls, running: Running) -> Use:
        """Measure a command and all that it has started."""
        family = [psutil.Process(running.process.pid), *running.left()]
        memory = descriptors = 0
        for process in family:
            with suppress(psutil.Error):
                used = process.memory_info()
                memory += used.rss - used.shared
                descriptors += process.num_fds()
        shared = sum(entry.stat().st_size for entry in _entries("/dev/shm"))
        temporary = sum(1 for _ in _entries(tempfile.gettempdir()))
        return cls(memory, descriptors, len(family), shared, temporary)


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        yield from entries


def test_a_run_that_is_killed_at_random_ends_with_the_same_model(tmp_path: Path) -> None:
    (tmp_path / "soak.toml").write_text(EXPERIMENT)
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    uses: list[Use] = []
    with started("run", "soak.toml", "--out", calm, cwd=tmp_path) as running:
        for number in range(ROUNDS // 4, ROUNDS, 5):
            running.wait_for(lambda n=number: rounds_in(calm) > n, f"round {number}")
            uses.append(Use.of(running))
        status, errors = running.end()
        assert status == 0, errors
    print("growth from the first to the second half:", growths(uses))
    rng, drivers, workers = random.Random(3), 0, 0
    moments = sorted(rng.sample(range(5, ROUNDS - 5), KILLS))
    resume: tuple[object, ...] = ("run", "soak.toml", "--out", killed)
    while moments or rounds_in(killed) <= ROUNDS:
        with started(*resume, cwd=tmp_path) as running:
            while moments:
                running.wait_for(lambda: rounds_in(killed) > moments[0], f"round {moments[0]}")
                moments.pop(0)
                if rng.random() < 0.4:
                    drivers += 1
                    running.process.send_signal(signal.SIGKILL)
                    running.process.wait()
                    break
                workers += kill_worker(running, rng)
            else:
                status, errors = running.end()
                assert status == 0, errors
        resume = ("run", "--resume", killed)
    print(f"killed: {drivers} drivers, {workers} workers")
    assert drivers > 2
    assert workers > 2
    assert chain_in(killed) == chain_in(calm)
    assert max(growths(uses).values()) <= MAX_GROWTH


def kill_worker(running: Running, rng: random.Random) -> int:
    """Kill one of the run's Ray workers; return the number of those that were killed."""
    # Ray's own agents are named so, too: with them dies the machine's whole Ray
    workers = [p for p in running.left() if re.match(r"ray::(?!\w*Agent)", named(p))]
    if not workers:
        return 0
    with suppress(psutil.Error):
        rng.choice(workers).kill()
        return 1
    return 0


def named(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def growths(uses: list[Use]) -> dict[str, float]:
    """Return how much more of each the second half of the measurements shows than the first."""
    middle = len(uses) // 2
    first, second = (
        [statistics.median(column) for column in zip(*map(astuple, part), strict=True)]
        for part in (uses[:middle], uses[middle:])
    )
    names = [field.name for field in fields(Use)]
    return {
        name: after / before - 1 if before else float(after > 0)
        for name, before, after in zip(names, first, second, strict=True)
    }
