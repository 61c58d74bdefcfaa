"""Facts about the nodes of a tree of rules, for the run's records."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NodeReport:
    """Report of one node of a tree about one round.

    Parameters
    ----------
    path : str
        The node's place, for instance ``"0/2"`` for the root's third child.
    level : int
        Levels of nodes below it: 0 for a leaf node.
    children : int
        Number of updates or results that it merged.
    seconds : float
        How long its own rule ran.
    bytes : int
        Bytes of the updates or results that it read.
    started : float
        When it started, in Unix seconds.
    host : str
        Id of the cluster's node on which it ran as a task; empty in this process.
    """

    path: str
    level: int
    children: int
    seconds: float
    bytes: int
    started: float
    host: str = ""
