"""Make data frames of what runs have recorded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.recording.strict_json import to_kebab_case
from hqde_fl.strategies.callbacks import ClientRecord, RoundRecord

if TYPE_CHECKING:
    import pandas as pd

ROUND_COLUMNS = tuple(to_kebab_case({field.name: None for field in fields(RoundRecord)}))
"""The keys of ``rounds.jsonl`` that every round has, in the order of the columns."""

CLIENT_COLUMNS = tuple(to_kebab_case({field.name: None for field in fields(ClientRecord)}))
"""The keys of ``clients.jsonl`` but ``fault``, in the order of the columns."""

TEXTS = frozenset({"error", "fault", "note", "reason"})
"""Columns of text, where None is no number that is missing."""


def rounds_frame(runs: Iterable[tuple[Mapping[str, Any], Run]]) -> pd.DataFrame:
    """Return a data frame with a row for each round of runs.

    Parameters
    ----------
    runs : Iterable[tuple[Mapping[str, Any], Run]]
        The first columns of a run's rows, by name, and the run.

    Returns
    -------
    pd.DataFrame
        The keys of ``rounds.jsonl`` as columns. An entry of a table has the column ``TABLE.KEY``,
        such as ``server.accuracy``.
    """
    rows = [
        _after(before, _flat(line, ROUND_COLUMNS)) for before, run in runs for line in run.rounds
    ]
    return data_frame(rows)


def clients_frame(runs: Iterable[tuple[Mapping[str, Any], Run]]) -> pd.DataFrame:
    """Return a data frame with a row for each client that was asked to train, in each round.

    Parameters
    ----------
    runs : Iterable[tuple[Mapping[str, Any], Run]]
        The first columns of a run's rows, by name, and the run.

    Returns
    -------
    pd.DataFrame
        The keys of ``clients.jsonl`` as columns.
    """
    rows = [
        _after(before, _flat(line, CLIENT_COLUMNS)) for before, run in runs for line in run.clients
    ]
    return data_frame(rows)


def data_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return a data frame with all keys of the rows as columns; numbers that are missing are NaN.

    A column without any value is one of numbers, unless it is one of ``TEXTS``.
    """
    import pandas as pd

    columns = list(dict.fromkeys(key for row in rows for key in row))
    frame = pd.DataFrame.from_records([dict(row) for row in rows], columns=columns)
    empty = [name for name in columns if name not in TEXTS and frame[name].isna().all()]
    return frame.astype(dict.fromkeys(empty, float))


def _after(before: Mapping[str, Any], line: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a run, then those of a line: ``recorded-f`` beside an axis ``f``."""
    own = {f"recorded-{key}" if key in before else key: value for key, value in line.items()}
    return {**before, **own}


def _flat(line: Mapping[str, Any], order: Sequence[str]) -> dict[str, Any]:
    """Return a line in an order of its keys, the entries of its tables under dotted keys."""
    flat: dict[str, Any] = {}
    keys = [key for key in order if key in line]
    for key in [*keys, *(key for key in line if key not in keys)]:
        value = line[key]
        flat |= _entries(value, f"{key}.") if isinstance(value, Mapping) else {key: value}
    return flat


def _entries(table: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the entries of a table and of the tables in it, by their dotted keys."""
    entries: dict[str, Any] = {}
    for key, value in table.items():
        name = f"{prefix}{key}"
        entries |= _entries(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return entries
