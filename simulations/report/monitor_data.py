"""Read ``monitor.jsonl`` into the sums, curves and spans that a page shows.

The file of a large run has gigabytes. It is read in pieces, and what is kept of a piece is small.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hqde_fl.monitor.parquet import arrow_columns
from hqde_fl.monitor.schema import KINDS, from_line

PIECE_BYTES = 1 << 24

SPAN_COLUMNS = ("name", "parent", "start", "seconds", "until", "round", "client", "attempt")

_KIND = b'{"kind":"'
_NO_CLIENT = 2**64 - 1


@dataclass
class MonitorData:
    """Records of a monitor, without the rounds that a resumed run ran again.

    Parameters
    ----------
    rounds : pandas.DataFrame
        ``start`` and ``seconds`` of each round, by its number.
    phases : pandas.DataFrame
        Seconds of each phase of a round (columns) in each round (rows).
    clients : pandas.DataFrame
        Seconds of each phase of a client (columns), over all rounds, for each client (rows).
    trained : pandas.Series
        Number of rounds in which a client trained, by the client.
    samples : pandas.DataFrame
        The samples of all hosts, in the order of time.
    hosts : dict[str, Mapping]
        What each host has: ``cores``, ``memory``, ``gpu-names``.
    flying : tuple of numpy.ndarray
        Times at which messages were sent or replies read, and the change in their number.
    training : tuple of numpy.ndarray
        Times at which clients began or ended to train, and the change in their number.
    begun, ended : float
        Times of the first and the last record.
    """

    rounds: pd.DataFrame
    phases: pd.DataFrame
    clients: pd.DataFrame
    trained: pd.Series
    samples: pd.DataFrame
    hosts: dict[str, dict[str, Any]]
    flying: tuple[np.ndarray, np.ndarray]
    training: tuple[np.ndarray, np.ndarray]
    begun: float
    ended: float


@dataclass
class _Sums:
    """Sums over the pieces of the records that were read so far."""

    rounds: list[pd.DataFrame] = field(default_factory=list)
    phases: list[pd.DataFrame] = field(default_factory=list)
    clients: list[pd.DataFrame] = field(default_factory=list)
    samples: list[pd.DataFrame] = field(default_factory=list)
    hosts: dict[str, dict[str, Any]] = field(default_factory=dict)
    flying: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    training: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    last: dict[int, int] = field(default_factory=dict)
    begun: float = np.inf
    ended: float = -np.inf


def read_monitor(path: Path) -> MonitorData | None:
    """Return what ``monitor.jsonl`` at a path says; None if it says nothing.

    Lines that cannot be read are passed over.
    """
    sums = _Sums()
    for piece in _pieces(path):
        _add(sums, piece)
    if not np.isfinite(sums.begun):
        return None
    rounds = _of_last_attempt(sums, sums.rounds, ["round", "start", "seconds"])
    phases = _of_last_attempt(sums, sums.phases, ["round", "name", "seconds"])
    clients = _of_last_attempt(sums, sums.clients, ["round", "client", "name", "seconds"])
    # a piece may end within a round
    in_round = clients.groupby(["round", "client", "name"])["seconds"].sum()
    per_client = in_round.groupby(["client", "name"]).agg(seconds="sum", rounds="count")
    trained = per_client["rounds"].unstack(fill_value=0)
    return MonitorData(
        rounds=rounds.groupby("round")[["start", "seconds"]].last(),
        phases=phases.groupby(["round", "name"])["seconds"].sum().unstack(fill_value=0.0),
        clients=per_client["seconds"].unstack(fill_value=0.0),
        trained=trained["train"] if "train" in trained else trained.sum(axis=1),
        samples=_joined(sums.samples, ["time", "host"]).sort_values("time", kind="stable"),
        hosts=sums.hosts,
        flying=_events(sums.flying),
        training=_events(sums.training),
        begun=sums.begun,
        ended=sums.ended,
    )


def spans_of_rounds(path: Path, rounds: Collection[int]) -> dict[int, pd.DataFrame]:
    """Return all spans of some rounds, each time those of the last attempt at the round.

    The columns are ``SPAN_COLUMNS``; ``client`` is -1 for a span of the server, and signed: ids of
    64 bits are those modulo 2^64.
    """
    found = []
    for piece in _pieces(path):
        frame = piece.spans()
        found.append(frame[frame["round"].isin(rounds)])
    spans = _joined(found, SPAN_COLUMNS)
    return {
        number: own[own["attempt"] == own["attempt"].max()]
        for number in rounds
        if len(own := spans[spans["round"] == number])
    }


@dataclass
class _Piece:
    """Lines of one attempt at a run, by their kind."""

    attempt: int
    lines: dict[str, list[bytes]]

    def table(self, kind: str) -> Any:
        """Return the records of a kind as an Arrow table; None if there are none."""
        import pyarrow as pa
        import pyarrow.json as pj

        lines = self.lines.get(kind)
        if not lines:
            return None
        schema = pa.schema(arrow_columns(KINDS[kind]))
        options = pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
        for _ in range(2):
            try:
                return pj.read_json(io.BytesIO(b"".join(lines)), parse_options=options)
            except pa.ArrowInvalid:
                lines = [line for line in lines if from_line(line) is not None]
        return None

    def spans(self) -> pd.DataFrame:
        """Return the spans that name a round, with ``SPAN_COLUMNS``."""
        import pyarrow.compute as pc

        table = self.table("span")
        if table is None:
            return pd.DataFrame(columns=SPAN_COLUMNS)
        table = table.filter(pc.is_valid(table["round"]))
        clients = pc.fill_null(table["client"], _NO_CLIENT).to_numpy()
        frame = {
            "name": table["name"].to_pandas().astype("category"),
            "parent": table["parent"].to_pandas().astype("category"),
            "start": table["start"].to_numpy(),
            "seconds": pc.fill_null(table["seconds"], 0.0).to_numpy(),
            "until": table["until"].to_numpy(),
            "round": table["round"].to_numpy(),
            "client": clients.view("int64"),
        }
        return pd.DataFrame(frame).assign(attempt=self.attempt)


def _pieces(path: Path) -> Iterator[_Piece]:
    """Yield the lines of a file in pieces; each attempt at the run begins a new one."""
    try:
        file = path.open("rb")
    except OSError:
        return
    attempt, lines = 0, dict[str, list[bytes]]()
    with file:
        while block := file.readlines(PIECE_BYTES):
            for line in block:
                kind = _kind(line)
                if kind == "start":
                    yield _Piece(attempt, lines)
                    attempt, lines = attempt + 1, {}
                lines.setdefault(kind, []).append(line)
            yield _Piece(attempt, lines)
            lines = {}


def _kind(line: bytes) -> str:
    """Return the kind of a line, which is written first; an empty text if it is not there."""
    if not line.startswith(_KIND):
        return ""
    return line[len(_KIND) : line.find(b'"', len(_KIND))].decode(errors="replace")


def _add(sums: _Sums, piece: _Piece) -> None:
    spans = piece.spans()
    for number in spans["round"].unique():
        sums.last[int(number)] = max(sums.last.get(int(number), 0), piece.attempt)
    own, others = spans[spans["client"] == -1], spans[spans["client"] != -1]
    others = others.assign(client=others["client"].to_numpy().astype("int64").view("uint64"))
    sums.rounds.append(own.loc[own["name"] == "round", ["round", "start", "seconds", "attempt"]])
    sums.phases.append(_summed(own[own["parent"] == "round"], ["round", "attempt", "name"]))
    sums.clients.append(_summed(others, ["round", "attempt", "name", "client"]))
    train = others[others["name"] == "train"]
    one = np.ones(len(train), np.int32)
    sums.training.append((train["start"].to_numpy(), one))
    sums.training.append(((train["start"] + train["seconds"]).to_numpy(), -one))
    _note_times(sums, spans["start"], spans["start"] + spans["seconds"])
    _add_messages(sums, piece)
    for host in () if (hosts := piece.table("host")) is None else hosts.to_pylist():
        sums.hosts[host["host"]] = host
    if (samples := piece.table("sample")) is not None:
        sums.samples.append(samples.to_pandas().dropna(axis="columns", how="all"))
        _note_times(sums, sums.samples[-1]["time"])


def _add_messages(sums: _Sums, piece: _Piece) -> None:
    import pyarrow.compute as pc

    if (sent := piece.table("sent")) is not None:
        sent = sent.filter(pc.equal(sent["task"], "train"))
        counts = pc.list_value_length(sent["clients"]).to_numpy()
        sums.flying.append((sent["time"].to_numpy(), counts.astype(np.int32)))
    if (reply := piece.table("reply")) is not None:
        reply = reply.filter(pc.equal(reply["task"], "train"))
        sums.flying.append((reply["time"].to_numpy(), -np.ones(len(reply), np.int32)))


def _summed(spans: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Return the seconds of spans, summed over those that agree in ``keys``."""
    grouped = spans.groupby(keys, observed=True)["seconds"].sum().reset_index()
    return grouped.astype({"name": str})


def _note_times(sums: _Sums, *times: pd.Series) -> None:
    for series in times:
        if len(series):
            sums.begun = min(sums.begun, series.min())
            sums.ended = max(sums.ended, series.max())


def _of_last_attempt(sums: _Sums, frames: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    """Return the rows of several frames, each round's of the last attempt at it."""
    joined = _joined(frames, [*dict.fromkeys([*columns, "round", "attempt"])])
    last = joined["round"].map(sums.last)
    return joined.loc[last == joined["attempt"], columns]


def _joined(frames: list[pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    filled = [frame for frame in frames if len(frame)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=columns)


def _events(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    if not parts:
        return np.empty(0), np.empty(0, np.int32)
    times = np.concatenate([times for times, _ in parts])
    changes = np.concatenate([changes for _, changes in parts])
    order = np.argsort(times, kind="stable")
    return times[order], changes[order]
