"""Publish a run to other programs while its monitor records it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hqde_fl.monitor.exporters import Exporters
from hqde_fl.monitor.performance_monitor import PerformanceMonitor
from hqde_fl.monitor.schema import Record
from hqde_fl.simulations.recording.file_names import POOL, ROUNDS
from hqde_fl.simulations.recording.live_run import GrowingFile
from hqde_fl.simulations.recording.manifest import add_to_manifest, read_manifest


@contextmanager
def exported(exporters: Exporters, monitor: PerformanceMonitor, out: Path) -> Iterator[None]:
    """Publish what a monitor records, and the rounds of its run, until the block ends.

    It happens in the monitor's thread, once in an interval. Where an endpoint is goes to stderr and
    into the manifest.

    Parameters
    ----------
    exporters : Exporters
        The exporters, which are closed at the end.
    monitor : PerformanceMonitor
        The monitor, which the block starts and stops.
    out : Path
        The run directory, with its manifest. Rounds that are in it already are published as well.
    """
    rounds, pool = GrowingFile(out / ROUNDS), GrowingFile(out / POOL)

    def publish(records: Sequence[Record]) -> None:
        exporters.records(records)
        for line in rounds.new_lines():
            exporters.round(json.loads(line))
        for line in pool.new_lines():
            exporters.pool(json.loads(line))

    manifest = read_manifest(out)
    facts = {key: str(manifest.get(key)) for key in ("name", "engine", "seed", "started")}
    with exporters:
        places = exporters.open(facts, manifest["experiment"]["rounds"])
        for name, place in places.items():
            print(f"{name}: {place}", file=sys.stderr, flush=True)
        if places:  # the run may be in a process whose output nobody sees
            add_to_manifest(out, {"published-at": places})
        monitor.add_listener(publish)
        yield
