"""Write a sweep as tidy tables, with one row for each cell and seed.

``results.csv`` and ``results.parquet`` hold nothing that differs between two runs of one seed, so
that the results of a sweep that was killed and resumed can be compared byte by byte with those of
one that was not. Time and memory are in ``timings.csv``.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hqde_fl.clients.objective import ATTACK_SUCCESS
from hqde_fl.simulations.recording.atomic_files import replace_file
from hqde_fl.simulations.recording.choice import is_chosen
from hqde_fl.simulations.recording.comparison import Comparison
from hqde_fl.simulations.recording.csv_text import csv_text
from hqde_fl.simulations.recording.detection import Detection
from hqde_fl.simulations.recording.seed_groups import ComparisonRow

RESULTS, PARQUET, TIMINGS = "results.csv", "results.parquet", "timings.csv"

COMMON_METRICS = ("accuracy", "loss", ATTACK_SUCCESS)

MEGABYTE = 1e6


def write_tables(comparison: Comparison, out: Path) -> None:
    """Write ``results.csv``, ``results.parquet`` and ``timings.csv`` into the directory ``out``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    replace_file(out / RESULTS, csv_text(_results(comparison)))
    buffer = io.BytesIO()
    pq.write_table(pa.table(result_columns(comparison)), buffer)
    replace_file(out / PARQUET, buffer.getvalue())
    replace_file(out / TIMINGS, csv_text([_timing(comparison, row) for row in comparison.rows]))


def result_columns(comparison: Comparison) -> dict[str, list[Any]]:
    """Return the columns of ``results.parquet`` by name; each has values of one type, or None."""
    records = _results(comparison)
    return {name: _typed([record[name] for record in records]) for name in records[0]}


def columns() -> frozenset[str]:
    """Return the names that no variable of a sweep may have: those of columns of its tables.

    Of metrics only the usual ones are among them: the others are not known before the runs.
    """
    nothing, row = Comparison("", (), ()), ComparisonRow((), "", None)
    return frozenset((*COMMON_METRICS, "chosen")) | {*_result(nothing, row), *_timing(nothing, row)}


def place_of(comparison: Comparison, row: ComparisonRow) -> dict[str, Any]:
    """Return axis -> the cell's value on it if that is plain, else its label."""
    pairs = zip(comparison.axes, row.labels, strict=False)
    return {axis.name: axis.text(label) for axis, label in pairs}


def _results(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the rows of ``results.csv``, with the column ``chosen`` if hyperparameters are."""
    records = [_result(comparison, row) for row in comparison.rows]
    if not comparison.analysis.choose:
        return records
    found = is_chosen(comparison)
    return [r | {"chosen": chosen} for r, chosen in zip(records, found, strict=True)]


def _result(comparison: Comparison, row: ComparisonRow) -> dict[str, Any]:
    """Return column -> value in ``results.csv``; all measurements of an unfinished run are None.

    They would depend on the moment at which it was interrupted. There is a column for every metric
    of the server and of the clients in the last round; those of times are left out.
    """
    run = row.run if row.status == "finished" else None
    reached = None if run is None else run.target_line
    detection = Detection() if run is None else run.detection
    counts: dict[str, Any] = dict(detection.counts())
    if run is None:
        counts = dict.fromkeys(counts)
    line: dict[str, Any] = {
        "status": row.status,
        **counts,
        "precision": detection.precision,
        "recall": detection.recall,
        "f1": detection.f1,
        "megabytes-up": None if run is None else _megabytes(run.rounds, "bytes-up"),
        "megabytes-down": None if run is None else _megabytes(run.rounds, "bytes-down"),
        "rounds": None if run is None else len(run.rounds) - 1,
        "spent-epsilon": None if run is None else run.epsilon,
        "virtual-time": None if run is None else run.virtual_time,
        "rounds-to-target": None if reached is None else reached["round"],
        "time-to-target": None if run is None else run.time_to_target,
        "cell": row.directory.rpartition("/")[2],
        "error": row.error,
    }
    # an axis ``rounds`` has the number configured, which a finished run has, too
    place = place_of(comparison, row)
    line = place | {name: value for name, value in line.items() if name not in place}
    measured: dict[str, Any] = {}
    for name in comparison.metrics:
        measured[_free_name(name, "server-", line, measured)] = row.final(name)
    last = {} if run is None else run.clients_final
    for name in comparison.client_metrics:
        measured[_free_name(name, "clients-", line, measured)] = last.get(name)
    head = {name: line.pop(name) for name in (*place, "status") if name in line}
    return head | measured | line


def _free_name(name: str, prefix: str, *taken: Mapping[str, Any]) -> str:
    """Return a metric's column: its name, after ``prefix`` if another column is called so."""
    while any(name in columns for columns in taken):
        name = prefix + name
    return name


def _timing(comparison: Comparison, row: ComparisonRow) -> dict[str, Any]:
    manifest: Mapping[str, Any] = {} if row.run is None else row.run.manifest
    return {
        **place_of(comparison, row),
        "cell": row.directory.rpartition("/")[2],
        "seconds": manifest.get("wall-seconds"),
        "round-seconds": None if row.run is None else round(row.run.seconds, 3),
        "memory-mib": manifest.get("memory-mib"),
        "ended": manifest.get("ended"),
    }


def _megabytes(rounds: Sequence[Mapping[str, Any]], key: str) -> float:
    return float(sum(line[key] for line in rounds)) / MEGABYTE


def _typed(values: list[Any]) -> list[Any]:
    """Return the values of a column in one type; None stays None.

    Integers become floats if there is a float among the values; a mixture of types that are not all
    numbers becomes text.
    """
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} or len(kinds) <= 1:
        return [float(v) if v is not None and float in kinds else v for v in values]
    return [None if value is None else str(value) for value in values]
