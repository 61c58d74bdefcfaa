"""Write the records of ``monitor.jsonl`` as a table for data frames."""

from __future__ import annotations

import io
import os
import typing
from dataclasses import fields
from pathlib import Path
from typing import Any

from hqde_fl.monitor.schema import FILE, KINDS, PARQUET, Gpu, file_keys, from_line
from hqde_fl.private_files import private

BLOCK_BYTES = 1 << 26
"""Bytes that are parsed at a time, at least one line: one that names a million clients has 8 MB."""


def write_parquet(directory: Path) -> Path | None:
    """Write ``monitor.parquet`` beside ``monitor.jsonl``, and return its path.

    An earlier file is replaced. Nothing is written, and None returned, if there are no records.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    source, path = directory / FILE, directory / PARQUET
    if not source.exists() or not source.stat().st_size:
        return None
    try:
        table = _read(source)
    except pa.ArrowInvalid:  # a line that a killed process did not finish
        with source.open("rb") as file:
            lines = b"".join(line for line in file if from_line(line) is not None)
        if not lines:
            return None
        table = _read(io.BytesIO(lines))
    new = path.with_name(f".{PARQUET}.new")
    with open(new, "wb", opener=private) as file:
        pq.write_table(table, file, compression="zstd")
    os.replace(new, path)
    return path


def _read(source: Path | io.BytesIO) -> Any:
    import pyarrow.json as pj

    read = pj.ReadOptions(block_size=BLOCK_BYTES)
    parse = pj.ParseOptions(explicit_schema=arrow_schema(), unexpected_field_behavior="ignore")
    return pj.read_json(source, read_options=read, parse_options=parse)


def arrow_schema() -> Any:
    """Return the columns: the keys of all kinds of records, with their types."""
    import pyarrow as pa

    columns = {"kind": pa.string(), "start": pa.float64()}
    for record in KINDS.values():
        columns |= arrow_columns(record)
    return pa.schema(columns)


def arrow_columns(record: type) -> dict[str, Any]:
    """Return the columns of a kind of records, its keys in the file, with their types."""
    hints, keys = typing.get_type_hints(record), file_keys(record)
    return {keys[field.name]: _type(hints[field.name], field.name) for field in fields(record)}


def _type(hint: Any, name: str) -> Any:
    """Return the type of the column of a field with this type hint."""
    import pyarrow as pa

    present = [part for part in typing.get_args(hint) if part not in (type(None), ...)]
    if typing.get_origin(hint) is tuple:
        return pa.list_(_type(present[0], name))
    if present:
        return _type(present[0], name)
    if hint is Gpu:
        return pa.struct(arrow_columns(Gpu))
    if hint is int and name in ("client", "clients"):  # node ids take all 64 bits
        return pa.uint64()
    return {str: pa.string(), int: pa.int64(), float: pa.float64()}[hint]
