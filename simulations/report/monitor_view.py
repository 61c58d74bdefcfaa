"""Compute what the page of a run shows of its monitor; ``templates/monitor.html.md`` draws it.

What is drawn is bounded, whatever the number of rounds, clients and nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from hqde_fl.monitor.schema import CLIENT_PHASES, FILE, PHASES
from hqde_fl.simulations.report.monitor_data import MonitorData, read_monitor, spans_of_rounds
from hqde_fl.simulations.report.phase_drawings import (
    OTHER,
    Drawing,
    Timeline,
    phase_colour,
    round_bars,
    timeline,
)
from hqde_fl.simulations.report.resource_curves import (
    CurveChart,
    RunClock,
    over_gpus,
    resource_curves,
)

MAX_SLOW, MAX_NODES = 8, 24
"""Rows at most of the tables of the slowest clients and of the nodes."""


@dataclass(frozen=True)
class PhaseRow:
    """A phase in a table.

    Parameters
    ----------
    name : str
        Its name.
    total, mean, most : float
        Seconds in all rounds, the mean in a round, and the most in a round or of any client's mean.
    fraction : float
        Its part of the time of all phases.
    at : int
        The round, or the client, with the most.
    """

    name: str
    total: float
    mean: float
    most: float
    fraction: float
    at: int

    @property
    def colour(self) -> str:
        """The class of its colour in the style sheet."""
        return phase_colour(self.name)


@dataclass(frozen=True)
class SlowClient:
    """A client that took long: seconds in a round in which it trained, on average."""

    client: int
    rounds: int
    train: float
    wait: float
    rest: float


@dataclass(frozen=True)
class NodeRow:
    """Resources that a run used on a node."""

    host: str
    cores: int | None
    cpu_seconds: float
    cpu: float
    memory: float
    gpu: float | None
    gpu_memory: float | None
    read: float
    written: float
    received: float
    sent: float


@dataclass(frozen=True)
class MonitorView:
    """All that the page shows of a monitor."""

    rounds: int
    bars: Drawing | None
    bar_rounds: int
    phases: tuple[PhaseRow, ...]
    client_phases: tuple[PhaseRow, ...]
    slow: tuple[SlowClient, ...]
    timelines: tuple[Timeline, ...]
    curves: tuple[CurveChart, ...]
    nodes: tuple[NodeRow, ...]
    more_nodes: int
    paused: bool
    overhead: float | None

    @property
    def has_gpus(self) -> bool:
        """True if any node has a GPU."""
        return any(node.gpu is not None or node.gpu_memory is not None for node in self.nodes)


def monitor_view(path: Path) -> MonitorView | None:
    """Return what the page shows of the monitor of a run directory; None if it has none."""
    data = read_monitor(path / FILE)
    if data is None:
        return None
    rounds = _rounds(data)
    bars, per_bar = round_bars(rounds)
    shown = _shown_rounds(data)
    spans = spans_of_rounds(path / FILE, shown)
    clock = RunClock(data)
    nodes = _nodes(data)
    return MonitorView(
        rounds=len(rounds),
        bars=bars,
        bar_rounds=per_bar,
        phases=_phase_rows(rounds),
        client_phases=_client_rows(data),
        slow=_slow_clients(data),
        timelines=tuple(
            timeline(number, title, spans[number])
            for number, title in shown.items()
            if number in spans
        ),
        curves=tuple(resource_curves(data, clock)),
        nodes=tuple(nodes[:MAX_NODES]),
        more_nodes=max(0, len(nodes) - MAX_NODES),
        paused=clock.paused,
        overhead=_overhead(data),
    )


def _rounds(data: MonitorData) -> pd.DataFrame:
    """Return seconds of each phase (columns) in each completed round (rows), the rest as other."""
    rounds = data.phases.reindex(data.rounds.index, fill_value=0.0)
    order = [name for name in PHASES if name in rounds]
    rest = (data.rounds["seconds"] - rounds[order].sum(axis=1)).clip(lower=0.0)
    rounds = rounds[order].copy()
    if rest.sum() > 1e-3 * data.rounds["seconds"].sum():
        rounds[OTHER] = rest
    return rounds.astype(float)


def _phase_rows(rounds: pd.DataFrame) -> tuple[PhaseRow, ...]:
    total = float(rounds.to_numpy().sum()) if len(rounds) else 0.0
    if not total:
        return ()
    return tuple(
        PhaseRow(
            name=str(name),
            total=float(column.sum()),
            mean=float(column.mean()),
            most=float(column.max()),
            fraction=float(column.sum()) / total,
            at=int(column.idxmax()),
        )
        for name, column in rounds.items()
    )


def _client_rows(data: MonitorData) -> tuple[PhaseRow, ...]:
    total = float(data.clients.to_numpy().sum()) if len(data.clients) else 0.0
    if not total:
        return ()
    counts = data.trained.clip(lower=1)
    per_round = data.clients.div(counts, axis=0)
    names = [name for name in CLIENT_PHASES if name in data.clients]
    names += [name for name in data.clients if name not in CLIENT_PHASES]
    return tuple(
        PhaseRow(
            name=str(name),
            total=float(data.clients[name].sum()),
            mean=float(data.clients[name].sum() / counts.sum()),
            most=float(per_round[name].max()),
            fraction=float(data.clients[name].sum()) / total,
            at=int(per_round[name].idxmax()),
        )
        for name in names
    )


def _slow_clients(data: MonitorData) -> tuple[SlowClient, ...]:
    """Return the clients that take longest from the message to the reply, at least 3 of them."""
    if len(data.clients) < 3:
        return ()
    counts = data.trained.clip(lower=1)
    per_round = data.clients.div(counts, axis=0)
    busy = per_round.drop(columns=["wait"], errors="ignore").sum(axis=1)
    slowest = busy.sort_values(ascending=False, kind="stable").head(MAX_SLOW)
    zero = pd.Series(0.0, index=per_round.index)
    train, wait = per_round.get("train", zero), per_round.get("wait", zero)
    return tuple(
        SlowClient(
            client=int(client),
            rounds=int(counts[client]),
            train=float(train[client]),
            wait=float(wait[client]),
            rest=float(seconds - train[client]),
        )
        for client, seconds in slowest.items()
    )


def _shown_rounds(data: MonitorData) -> dict[int, str]:
    """Return the rounds that have a timeline, with their headings: a typical one, the longest."""
    seconds = data.rounds["seconds"]
    if not len(seconds):
        return {}
    middle = seconds.sort_values(kind="stable").index[len(seconds) // 2]
    longest = seconds.idxmax()
    titles = {int(middle): f"Round {middle}, a typical one"}
    if len(seconds) > 2 and seconds[longest] > 1.2 * seconds[middle]:
        titles[int(longest)] = f"Round {longest}, the longest"
    return titles


def _nodes(data: MonitorData) -> list[NodeRow]:
    samples, rows = data.samples, []
    if not len(samples):
        return []
    if "gpus" in samples:
        samples = samples.assign(gpu=over_gpus(samples, "utilisation", np.mean))
        samples = samples.assign(gpu_memory=over_gpus(samples, "memory", np.sum))
    for host, own in samples.groupby("host", sort=False):
        seconds = own["seconds"]

        def total(column: str, own: pd.DataFrame = own, seconds: pd.Series = seconds) -> float:
            return float((own[column] * seconds).sum()) if column in own else 0.0

        gpu = own["gpu"].mean() if "gpu" in own else np.nan
        gpu_memory = own["gpu_memory"].max() if "gpu_memory" in own else np.nan
        used = total("cpu")
        rows.append(
            NodeRow(
                host=str(host),
                cores=data.hosts.get(str(host), {}).get("cores"),
                cpu_seconds=used,
                cpu=used / max(1e-9, float(seconds.sum())),
                memory=float(own["memory"].max()),
                gpu=None if pd.isna(gpu) else float(gpu),
                gpu_memory=None if pd.isna(gpu_memory) else float(gpu_memory),
                read=total("read"),
                written=total("written"),
                received=total("received"),
                sent=total("sent"),
            )
        )
    return sorted(rows, key=lambda row: -row.cpu_seconds)


def _overhead(data: MonitorData) -> float | None:
    """Return the monitor's CPU time as a fraction of the time that it sampled."""
    samples = data.samples
    if "monitor-seconds" not in samples or not len(samples):
        return None
    # it counts from the start of an attempt on
    used = samples.groupby("host")["monitor-seconds"].max().sum()
    return float(used) / max(1e-9, float(samples["seconds"].sum()))
