"""A private Ray, and the memory of its processes."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

DRIVER_SECONDS, OTHER_SECONDS = 0.01, 0.2
"""Time between two looks at this process, and at its descendants."""


@contextmanager
def local_ray(**options: Any) -> Iterator[None]:
    """Start a private Ray, and end it."""
    import ray

    from hqde_fl.simulations.engines.ray.private_ray import private_ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with private_ray():
        ray.init(
            "local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **options,
        )
    try:
        yield
    finally:
        ray.shutdown()


class Memory:
    """Samples the memory of this process and of its descendants until it is left.

    ``peaks`` holds the bytes of this process ("driver") beyond those at the beginning, and of the
    largest descendant ("other"): without shared pages ("private") and with them ("whole").
    """

    def __init__(self) -> None:
        self.peaks = {"driver-private": 0, "driver-whole": 0, "other-private": 0, "other-whole": 0}
        self._own = psutil.Process()
        self._done = threading.Event()
        self.before = memory_of(self._own.pid)
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        turn, turns = 0, round(OTHER_SECONDS / DRIVER_SECONDS)
        while not self._done.wait(DRIVER_SECONDS):
            private, whole = memory_of(self._own.pid)
            self._note("driver", private - self.before[0], whole - self.before[1])
            if (turn := turn + 1) % turns == 0:
                for child in self._own.children(recursive=True):
                    self._note("other", *memory_of(child.pid))

    def _note(self, who: str, private: int, whole: int) -> None:
        self.peaks[f"{who}-private"] = max(self.peaks[f"{who}-private"], private)
        self.peaks[f"{who}-whole"] = max(self.peaks[f"{who}-whole"], whole)


def memory_of(pid: int) -> tuple[int, int]:
    """Return the bytes of a process's own memory, and of all that it has in memory."""
    try:
        _, whole, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
    except OSError:
        return 0, 0
    page = os.sysconf("SC_PAGE_SIZE")
    return (int(whole) - int(shared)) * page, int(whole) * page


def spilled_bytes() -> int:
    """Return the bytes that Ray has written to disk."""
    from hqde_fl.simulations.engines.ray.private_ray import files_folder

    files = Path(files_folder()).rglob("ray_spilled_objects*/*")
    return sum(path.stat().st_size for path in files if path.is_file())
