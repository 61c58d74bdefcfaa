"""Follow a run directory that another process writes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from json import loads
from logging import WARNING
from pathlib import Path
from typing import Any

from hqde_fl.errors import ConfigError
from hqde_fl.protocol.flower_internals import log
from hqde_fl.simulations.recording.file_names import MANIFEST, ROUNDS
from hqde_fl.simulations.recording.manifest import read_manifest

OnRound = Callable[[Mapping[str, Any]], None]
"""A function that gets every line of ``rounds.jsonl`` as it is written."""

POLL_SECONDS = 0.2


@contextmanager
def follow_run(out: Path, on_round: OnRound, resuming: bool) -> Iterator[None]:
    """Pass on the rounds that another process records, while the block runs and at its end.

    Parameters
    ----------
    out : Path
        The run directory.
    on_round : Callable
        Called with each new line of ``rounds.jsonl``.
    resuming : bool
        Whether the process resumes a run. It first deletes the lines of rounds that it repeats and
        then adds a resumption to the manifest; lines are passed on only from then.
    """
    over, last_round = threading.Event(), -1
    before = _resumptions(out) if resuming else None

    def read() -> None:
        nonlocal last_round, before
        if before is not None:
            now = _resumptions(out)
            if now is None or len(now) == len(before):
                return
            for name, reason in now[-1]["refused"].items():
                log(WARNING, "checkpoint %s refused: %s", name, reason)
            before, last_round = None, -1 if now[-1]["round"] is None else now[-1]["round"]
        path = out / ROUNDS
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        for line in map(loads, text[: text.rfind("\n") + 1].splitlines()):
            if line["round"] > last_round:
                on_round(line)
                last_round = line["round"]

    def poll() -> None:
        while not over.wait(POLL_SECONDS):
            read()

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        read()


def _resumptions(out: Path) -> list[Mapping[str, Any]] | None:
    """Return the manifest's records of the run's resumptions.

    Return None if there is no manifest, and an empty list if it is damaged.
    """
    if not (out / MANIFEST).exists():
        return None
    try:
        return list(read_manifest(out).get("resumed", ()))
    except ConfigError:  # damaged: the process writes a new one from the checkpoints
        return []
