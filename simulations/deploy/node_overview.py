"""An overview of nodes by a SuperLink and a run's records: last seen, times, reasons."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

RECENT_ROUNDS = 10
"""Number of a node's last rounds over which its times are medians."""
_MISSED_HEARTBEATS = 2
"""Heartbeats that a node may miss until the SuperLink counts it as offline."""


@dataclass(frozen=True)
class NodeTimes:
    """The recent rounds of a node.

    Parameters
    ----------
    round : int
        The last round in which it was asked to train.
    train : float or None
        Median of the seconds of training that it reports; None if it reported none.
    turnaround : float or None
        Median of the seconds from the message to its reply, measured by the server; what exceeds
        ``train`` is transfer, decoding and waiting at the site.
    reason : str
        Why its last update that was not kept was not, with its round; empty if all were.
    """

    round: int
    train: float | None = None
    turnaround: float | None = None
    reason: str = ""


def node_times(lines: Iterable[Mapping[str, Any]]) -> dict[int, NodeTimes]:
    """Return the times of each node, by its id, from lines of ``clients.jsonl``."""
    by_node: dict[int, list[Mapping[str, Any]]] = {}
    for line in lines:
        by_node.setdefault(int(line["node"]), []).append(line)
    times = {}
    for node, rounds in by_node.items():
        recent = rounds[-RECENT_ROUNDS:]
        reasons = [f"round {n['round']}: {n['reason']}" for n in recent if n["reason"]]
        times[node] = NodeTimes(
            int(rounds[-1]["round"]),
            _median(recent, "seconds"),
            _median(recent, "turnaround-seconds"),
            reasons[-1] if reasons else "",
        )
    return times


def _median(lines: Sequence[Mapping[str, Any]], key: str) -> float | None:
    values = [line[key] for line in lines if line.get(key) is not None]
    return statistics.median(values) if values else None


def last_seen(node: Any) -> float | None:
    """Return when the SuperLink last heard of a node, in seconds since 1970; None if it never did.

    ``node`` is Flower's ``NodeInfo``. For a node that is offline without having signed off, it is
    the time from which it counted as offline.
    """
    if node.status == "online":
        return float(node.online_until) - _MISSED_HEARTBEATS * float(node.heartbeat_interval)
    if node.last_deactivated_at:
        return datetime.fromisoformat(node.last_deactivated_at).timestamp()
    return None


def ago(moment: float | None, now: Callable[[], float] = time.time) -> str:
    """Return how long ago a moment was, as text; ``never`` for None."""
    if moment is None:
        return "never"
    seconds = max(0.0, now() - moment)
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
