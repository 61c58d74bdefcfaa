"""Names of the files in a run directory and in the directory of a sweep."""

from __future__ import annotations

MANIFEST, ROUNDS, CLIENTS = "manifest.json", "rounds.jsonl", "clients.jsonl"
EDGES = "edges.jsonl"
"""The file with a line for every round and edge; it is there only if there are edges."""
PRIVACY = "privacy.jsonl"
"""The file with a line for every noised sum that may have left the server; see ``FileLedger``."""
TREE = "tree.jsonl"
"""The file with a line for every round and node of a rule that is a tree."""
POOL = "pool.jsonl"
"""The file with a line for every round, host and kind of the tasks that ran on Ray."""
FURTHER_LINES = (EDGES, TREE, POOL)
"""Files with lines of rounds that not every run has."""
MODEL, REPORT = "model.safetensors", "report.html"
BEST_MODEL = "best.safetensors"
"""The best model by the metric of ``[stopping]``; it is there only if that is followed."""

NODES = "nodes.json"
"""On real nodes: partition id -> id and name of its node."""
RESERVE = ".reserve"
"""A file that keeps room on the disk, while a run goes on, for the record of how it ends."""

INDEX = "sweep.json"
"""The file that lists the axes and cells of a sweep."""
