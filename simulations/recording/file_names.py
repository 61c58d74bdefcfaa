"""Names of the files in a run directory and in the directory of a sweep."""

from __future__ import annotations

MANIFEST, ROUNDS, CLIENTS = "manifest.json", "rounds.jsonl", "clients.jsonl"
EDGES = "edges.jsonl"
"""The file with a line for every round and edge; it is there only if there are edges."""
MODEL, REPORT = "model.safetensors", "report.html"

INDEX = "sweep.json"
"""The file that lists the axes and cells of a sweep."""
