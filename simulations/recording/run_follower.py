"""What another process records of a run, heard as it happens."""

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
"""Called with every line of ``rounds.jsonl`` as it is written."""

POLL_SECONDS = 0.2


@contextmanager
def followed(out: Path, on_round: OnRound, resuming: bool) -> Iterator[None]:
    """While it lasts, and once more at its end, pass on rounds that another process records.

    Parameters
    ----------
    out : Path
        The run directory.
    on_round : Callable
        Gets the lines of its ``rounds.jsonl``.
    resuming : bool
        Whether the process resumes a run. It begins by cutting off what is to be repeated; when it
        has, the manifest has one more resumption.
    """
    over, seen = threading.Event(), -1
    before = _resumptions(out) if resuming else None

    def read() -> None:
        nonlocal seen, before
        if before is not None:
            now = _resumptions(out)
            if now is None or len(now) == len(before):
                return
            for name, reason in now[-1]["refused"].items():
                log(WARNING, "checkpoint %s refused: %s", name, reason)
            before, seen = None, -1 if now[-1]["round"] is None else now[-1]["round"]
        path = out / ROUNDS
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        for line in map(loads, text[: text.rfind("\n") + 1].splitlines()):
            if line["round"] > seen:
                on_round(line)
                seen = line["round"]

    def follow() -> None:
        while not over.wait(POLL_SECONDS):
            read()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        read()


def _resumptions(out: Path) -> list[Mapping[str, Any]] | None:
    """What the manifest says of the times that its run went on; None if there is no run."""
    if not (out / MANIFEST).exists():
        return None
    try:
        return list(read_manifest(out).get("resumed", ()))
    except ConfigError:  # the next one is written from the checkpoints
        return []
