"""Watch a run on a SuperLink, and end the ``flwr run`` that follows it once the run has ended.

``flwr run --stream`` ends with its stream of the log. A stream that hangs, because the ServerApp
was killed or the network has gone, would otherwise keep it waiting.
"""

from __future__ import annotations

import threading
import time
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

from hqde_fl.simulations.engines.flower.control_client import control_client
from hqde_fl.simulations.engines.flower_internals import ListRunsRequest

POLL_SECONDS = 15.0
GRACE_SECONDS = 5.0
"""Time for the last lines of the log after the run has ended."""
SILENCE_SECONDS = 60.0
"""Time for which a SuperLink may not answer."""


class RunWatch:
    """Calls a function once a run has ended, or its SuperLink has been silent for a minute.

    Parameters
    ----------
    home : Path
        The ``FLWR_HOME`` whose configuration has the SuperLink's address.
    connection : str
        The SuperLink's name there; empty for the default one.
    end : Callable
        Called at most once, from a thread of its own.
    """

    def __init__(self, home: Path, connection: str, end: Callable[[], None]) -> None:
        self._home, self._entry = home, superlink_entry(home, connection)
        self._end, self._over = end, threading.Event()

    def start(self, run_id: str) -> None:
        """Begin to watch a run; nothing happens if its SuperLink's address is not known."""
        if "address" in self._entry:
            threading.Thread(
                target=self._watch, args=(int(run_id),), daemon=True, name="run"
            ).start()

    def stop(self) -> None:
        """End the watch."""
        self._over.set()

    def _watch(self, run_id: int) -> None:
        answered = time.monotonic()
        while not self._over.wait(POLL_SECONDS):
            finished = is_finished(self._home, self._entry, run_id)
            now = time.monotonic()
            if finished is not None:
                answered = now
            if finished or now - answered > SILENCE_SECONDS:
                if not self._over.wait(GRACE_SECONDS):
                    self._end()
                return


def is_finished(home: Path, entry: Mapping[str, object], run_id: int) -> bool | None:
    """Return True if a run has ended, False if not; None if the SuperLink does not say.

    Parameters
    ----------
    home : Path
        The ``FLWR_HOME``, to which the certificate's path is relative.
    entry : Mapping
        The SuperLink's entry in the configuration there, as of ``superlink_entry``.
    run_id : int
        Flower's id of the run.
    """
    try:
        root = entry.get("root-certificates")
        with control_client(
            str(entry["address"]),
            None if root is None else (home / str(root)).read_bytes(),
            insecure=bool(entry.get("insecure", False)),
        ) as client:
            answer = client.ListRuns(ListRunsRequest(run_id=run_id))
        return bool(answer.run_dict[run_id].status.status == "finished")
    except Exception:  # of Flower, of its HTTP library, of TLS: it may answer later
        return None


def superlink_entry(home: Path, connection: str = "") -> dict[str, object]:
    """Return a SuperLink's entry in the configuration; empty if there is none that can be used."""
    try:
        table = tomllib.loads((home / "config.toml").read_text(encoding="utf-8"))["superlink"]
        entry = table[connection or table["default"]]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return dict(entry) if isinstance(entry, dict) else {}
