"""Read and write ``manifest.json``: what a run is, when it started and how it ended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from logging import WARNING
from pathlib import Path
from typing import Any

from hqde_fl.errors import ConfigError, RunError
from hqde_fl.private_files import private
from hqde_fl.protocol.flower_internals import log
from hqde_fl.simulations.recording.atomic_files import replace_file
from hqde_fl.simulations.recording.file_names import MANIFEST, RESERVE
from hqde_fl.simulations.recording.strict_json import parse_json, to_json_value, to_kebab_case

_REQUIRED = {"error", "experiment", "faulty", "name", "started", "status"}
"""Keys without which a file is no manifest."""
RESERVE_BYTES = 1 << 16
"""More than a manifest takes."""


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest of a run directory; the directory's other files may be damaged.

    Raises
    ------
    ConfigError
        If there is no readable manifest.
    """
    manifest = None
    with suppress(OSError):
        manifest = parse_json((path / MANIFEST).read_bytes())
    if not isinstance(manifest, dict) or not manifest.keys() >= _REQUIRED:
        raise ConfigError(f"{path} is no run directory: no readable {MANIFEST}")
    return manifest


def write_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """Replace the manifest of the run directory ``path`` in one step."""
    text = json.dumps(to_json_value(manifest), indent=2, allow_nan=False) + "\n"
    replace_file(path / MANIFEST, text.encode())


def keep_reserve(path: Path) -> None:
    """Keep room on the disk of a run directory in which ``record_end`` can write.

    On a full disk the file is shorter, or missing.
    """
    with suppress(OSError), open(path / RESERVE, "wb", opener=private) as file:
        file.write(bytes(RESERVE_BYTES))


def attempt_of(path: Path) -> tuple[str, int] | None:
    """Return the start time and the number of resumptions in a manifest, None without a manifest.

    Together they identify one attempt at a run: every resumption counts as a new attempt.
    """
    try:
        manifest = read_manifest(path)
    except ConfigError:
        return None
    return str(manifest["started"]), len(manifest.get("resumed", ()))


def record_end(
    path: Path,
    status: str,
    error: str | None = None,
    final: Mapping[str, float | None] | None = None,
) -> None:
    """Write the end of a run into its manifest, unless an end is recorded already.

    Parameters
    ----------
    path : Path
        The run directory; nothing happens if it has no manifest.
    status : str
        ``finished``, ``interrupted`` or ``failed``.
    error : str, optional
        The error that ended a failed run.
    final : Mapping[str, float | None], optional
        The server's metrics of the last round.
    """
    try:
        manifest = read_manifest(path)
    except ConfigError:
        return  # the run ended before its manifest was written
    if manifest["status"] == "running":
        ended = {"status": status, "error": error, "ended": timestamp(), "final": final}
        (path / RESERVE).unlink(missing_ok=True)
        write_manifest(path, manifest | ended)


def record_interruption(path: Path, since: float) -> None:
    """Write into a manifest that its run was interrupted, unless the run had ended before.

    Parameters
    ----------
    path : Path
        The run directory.
    since : float
        Time of the signal, in seconds since the epoch. A failure recorded after it was caused by
        the signal, and is replaced.
    """
    try:
        manifest = read_manifest(path)
    except ConfigError:
        return  # the run ended before its manifest was written
    ended = manifest.get("ended")
    second = since - 1.0  # times in a manifest are whole seconds
    if (
        manifest["status"] == "failed"
        and ended
        and datetime.fromisoformat(ended).timestamp() > second
    ):
        add_to_manifest(path, {"status": "interrupted", "error": None})
    else:
        record_end(path, "interrupted")


def add_to_manifest(path: Path, facts: Mapping[str, Any]) -> None:
    """Add facts to a manifest; log a warning instead of failing if it cannot be written.

    Parameters
    ----------
    path : Path
        The run directory; nothing happens if it has no manifest.
    facts : Mapping[str, Any]
        The new entries, which replace those of the same name.
    """
    try:
        manifest = read_manifest(path)
    except ConfigError:
        return  # the run ended before its manifest was written
    try:
        write_manifest(path, manifest | to_kebab_case(facts))
    except RunError as error:  # the run that the facts describe is more important
        log(WARNING, "%s: not noted: %s", error, dict(facts))


def timestamp() -> str:
    """Return the present time as manifests have it: UTC, ISO 8601, in whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")
