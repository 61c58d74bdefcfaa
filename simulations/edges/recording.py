"""Record the edges of a run: their clients, their rounds, and the bytes of each link level."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final

from flwr.app import ArrayRecord

from hqde_fl.simulations.experiment.edges import Edges
from hqde_fl.simulations.recording.file_names import EDGES
from hqde_fl.simulations.recording.run_directory import append_lines, round_line
from hqde_fl.simulations.recording.strict_json import to_json_value, to_kebab_case
from hqde_fl.strategies.callbacks import ClientRecord, RoundRecord
from hqde_fl.strategies.edges.edge_grid import EdgeGrid

ROUND_KEYS = (
    "round",
    "asked",
    "kept",
    "filtered",
    "rejected",
    "failed",
    "late",
    "missing",
    "skipped",
    "void",
    "bytes-down",
    "bytes-up",
    "note",
)
"""The keys of ``rounds.jsonl`` that a line of ``edges.jsonl`` has of each of an edge's rounds."""

CLIENT_BYTES = ("client-bytes-down", "client-bytes-up")
"""Metrics of a real edge's reply: the bytes to and from its clients."""

OF_CLIENTS = ("filtered-from", "members", "partition", "seconds", "work")
"""The keys of ``clients.jsonl`` that mean nothing for an edge."""


@final
class EdgeRecording:
    """Writes ``edges.jsonl``, and tells the run directory of the edges' clients.

    Parameters
    ----------
    path : Path
        The run directory.
    grid : EdgeGrid or None
        The edges; None if they are real nodes, whose clients are recorded nowhere.
    edges : Edges
        Their settings.
    """

    def __init__(self, path: Path, grid: EdgeGrid | None, edges: Edges) -> None:
        self._path, self._grid, self._edges = path / EDGES, grid, edges

    @property
    def _records(self) -> list[list[RoundRecord]]:
        return [[] for _ in range(self._edges.count)] if self._grid is None else self._grid.records

    def clients_of(self, record: RoundRecord) -> Iterator[tuple[ClientRecord, Mapping[str, Any]]]:
        """Yield the clients of all edges' rounds that answered a round of the server.

        Their influence is that on the server's model, if the other rounds of their edge had none;
        a client is kept if its edge is as well. Their round is that of the edge.
        """
        shares = {client.partition: client.influence for client in record.clients if client.kept}
        rounds = [(part, edge) for edge, own in enumerate(self._records) for part in own]
        for part, edge in sorted(rounds, key=lambda pair: pair[0].round):
            for client in part.clients:
                kept = client.kept and edge in shares
                influence = client.influence * shares.get(edge, 0.0)
                counted = dataclasses.replace(client, kept=kept, influence=influence)
                yield counted, {"edge": edge, "server_round": record.round}

    def measure(self, record: RoundRecord, arrays: ArrayRecord) -> dict[str, Any]:
        """Append the edges' lines of a round; return the bytes of each level of its links."""
        faulty = self._edges.faults.in_round(record.round)
        lines = []
        levels = {
            "client-edge": {"bytes-down": 0, "bytes-up": 0},
            "edge-cloud": {"bytes-down": record.bytes_down, "bytes-up": record.bytes_up},
        }
        for client in record.clients:
            edge = client.partition
            rounds = [] if edge is None else self._records[edge]
            line = to_kebab_case(
                {
                    **dataclasses.asdict(client),
                    "edge": edge,
                    "fault": None if edge is None else faulty.get(edge),
                }
            )
            for key in ("bytes-down", "bytes-up"):
                size = sum(round_line(part)[key] for part in rounds)
                levels["client-edge"][key] += size
                line[f"client-{key}"] = None if self._grid is None else size
            line["rounds"] = [
                to_json_value({key: round_line(part)[key] for key in ROUND_KEYS}) for part in rounds
            ]
            line = {key: line[key] for key in line if key not in OF_CLIENTS}
            lines.append(line | self._seconds(edge, rounds))
        append_lines(self._path, lines)
        if self._grid is None:  # the mean of what the edges report
            for key, name in zip(("bytes-down", "bytes-up"), CLIENT_BYTES, strict=True):
                mean = record.clients_train.get(name, 0.0)
                levels["client-edge"][key] = round(mean * (record.kept + record.filtered))
        without_edge = 0 if self._grid is None else len(self._grid.without_edge)
        return {**levels, "rounds": sum(map(len, self._records)), "without-edge": without_edge}

    def _seconds(self, edge: int | None, rounds: Sequence[RoundRecord]) -> dict[str, Any]:
        """Return the seconds of an edge itself, and those that its slowest clients report."""
        if self._grid is None or edge is None:
            return {"seconds": None, "client-seconds": None}
        slowest = [max((c.seconds or 0.0 for c in part.clients), default=0.0) for part in rounds]
        own = self._grid.own_seconds.get(edge, 0.0)
        times: dict[str, Any] = to_json_value({"seconds": own, "client-seconds": sum(slowest)})
        return times
