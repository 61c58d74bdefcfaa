"""Measured speeds, bandwidths and availabilities of devices, read from a file.

A CSV file has a line of column names; a JSON file has a list of objects with the same keys:

* ``client``: the partition id; required.
* ``round``: the first round in which the row applies; 1 if there is none.
* ``seconds-per-example``: seconds for one example in one epoch, > 0.
* ``up``, ``down``: Mbit/s from the client and to it, > 0.
* ``latency``: seconds of a round that pass on the way, >= 0.
* ``available``: the probability, in [0, 1], that the client does not drop out; or true, or false.

A value applies until a later row of the client has another one, and the first one also before.
"""

from __future__ import annotations

import csv
import json
import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, final

from hqde_fl.errors import ConfigError, UnknownNameError
from hqde_fl.own_modules import find_file

CLIENT, ROUND = "client", "round"
SECONDS, UP, DOWN, LATENCY, AVAILABLE = "seconds-per-example", "up", "down", "latency", "available"

_BOUNDS: Mapping[str, tuple[str, Callable[[float], bool]]] = {
    CLIENT: ("an integer >= 0", lambda value: value >= 0 and value.is_integer()),
    ROUND: ("an integer >= 1", lambda value: value >= 1 and value.is_integer()),
    SECONDS: ("finite and > 0", lambda value: value > 0),
    UP: ("finite and > 0", lambda value: value > 0),
    DOWN: ("finite and > 0", lambda value: value > 0),
    LATENCY: ("finite and >= 0", lambda value: value >= 0),
    AVAILABLE: ("in [0, 1]", lambda value: 0 <= value <= 1),
}
_WORDS = {"true": 1.0, "false": 0.0}


@final
@dataclass(frozen=True, eq=False)
class DeviceTrace:
    """Speeds, bandwidths and availability of devices, read from a file.

    Parameters
    ----------
    name : str
        The file, as an experiment names it.
    steps : Mapping[str, Mapping[int, Sequence[tuple[int, float]]]]
        Column -> client -> (first round, value), by round.
    """

    name: str
    steps: Mapping[str, Mapping[int, Sequence[tuple[int, float]]]]

    @classmethod
    def read(cls, kind: str, name: str) -> Self:
        """Read a file, which is searched for like a file of the user's own parts.

        Parameters
        ----------
        kind : str
            What needs the file, for error messages: "speed".
        name : str
            Path of the file: absolute, or relative to the experiment's folder.

        Raises
        ------
        ConfigError
            If there is no such file, it cannot be read, or a value in it is not what its column
            holds; the message names file, row and column.
        """
        path = Path(find_file(kind, "trace", name))
        try:
            text = path.read_text(encoding="utf-8-sig")
            rows = json.loads(text) if path.suffix == ".json" else _csv_rows(text)
        except (OSError, ValueError, RecursionError, csv.Error) as error:
            raise ConfigError(f"{kind} 'trace': {name} cannot be read: {error}") from None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ConfigError(f"{kind} 'trace': {name} needs to be a list of objects")
        return cls(name, _steps(f"{kind} 'trace': {name}", rows))

    def value(self, column: str, client: int, server_round: int) -> float:
        """Return what a column holds for a client in a round."""
        steps = self.steps[column][client]
        place = bisect_right(steps, server_round, key=lambda step: step[0])
        return steps[max(0, place - 1)][1]

    def has(self, column: str, client: int) -> bool:
        """Return True if a column holds anything for a client."""
        return client in self.steps.get(column, {})

    def check(self, kind: str, clients: int, columns: Iterable[str]) -> None:
        """Raise ``ConfigError`` unless each column holds something for each of so many clients."""
        for column in columns:
            for client in range(clients):
                if not self.has(column, client):
                    raise ConfigError(
                        f"{kind} 'trace': {self.name} needs {column} of every client, of "
                        f"{clients}, found none of client {client}"
                    )


def _csv_rows(text: str) -> list[dict[str, Any]]:
    rows = list(csv.DictReader(text.splitlines(), skipinitialspace=True, strict=True))
    for number, row in enumerate(rows, start=1):
        if None in row:  # so csv calls what is beyond the last column
            raise ValueError(f"row {number} has more values than there are columns")
    return [{k: v for k, v in row.items() if v not in (None, "")} for row in rows]


def _steps(
    what: str, rows: Sequence[Mapping[Any, Any]]
) -> dict[str, dict[int, list[tuple[int, float]]]]:
    """Return column -> client -> (first round, value) of all rows."""
    found: dict[str, dict[int, dict[int, float]]] = {}
    for number, row in enumerate(rows, start=1):
        for column in row:
            if column not in _BOUNDS:
                raise UnknownNameError(f"column in {what}, row {number}:", str(column), _BOUNDS)
        values = {
            column: _number(f"{what}, row {number}: {column}", column, value)
            for column, value in row.items()
            if value is not None
        }
        if CLIENT not in values:
            raise ConfigError(f"{what}, row {number} needs a client")
        client, first = int(values.pop(CLIENT)), int(values.pop(ROUND, 1.0))
        for column, value in values.items():
            rounds = found.setdefault(column, {}).setdefault(client, {})
            if first in rounds:
                raise ConfigError(
                    f"{what}, row {number}: a second {column} of client {client} from round {first}"
                )
            rounds[first] = value
    return {
        column: {client: sorted(rounds.items()) for client, rounds in clients.items()}
        for column, clients in found.items()
    }


def _number(where: str, column: str, value: Any) -> float:
    """Return a value of a column as a number; raise ``ConfigError`` if it is out of bounds."""
    text = value.strip().lower() if isinstance(value, str) else value
    try:
        number = _WORDS[text] if column == AVAILABLE and text in _WORDS else float(text)
    except (TypeError, ValueError):
        number = math.nan
    bound, holds = _BOUNDS[column]
    if not (math.isfinite(number) and holds(number)):
        raise ConfigError(f"{where} must be {bound}, found {value!r}")
    return number
