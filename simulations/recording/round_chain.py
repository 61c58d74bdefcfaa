"""The chain of hashes through ``rounds.jsonl``, by which later changes of a run are noticed.

Each round's line has two hashes. ``model-sha256`` is that of the model after the round.
``chain-sha256`` is that of the previous line's chain, of this line and of its clients' lines, so
whoever changes a round has to change the chain of every later one. It covers no durations, no node
ids and no bytes sent to clients, in which two runs of one experiment may differ. A hash is no
signature: who can write all files can make a new chain. ``hqde-fl verify`` therefore also computes
rounds again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flwr.app import ArrayRecord

from hqde_fl.protocol.held_entries import array_hash

MODEL_HASH, CHAIN_HASH = "model-sha256", "chain-sha256"
"""Keys of a line of ``rounds.jsonl``."""
UNSTEADY = ("node", "bytes-down", "bytes-down-by-role", "client-bytes-down")
"""Keys in which two runs of one experiment may differ, beside durations: a run that was resumed
sends again to nodes what they held."""
START = ""
"""The chain before the first line."""


def model_hash(arrays: ArrayRecord) -> str:
    """Return the SHA-256 of a model's entries: their names, dtypes, shapes and bits."""
    entries = sorted((name, array_hash(array)) for name, array in arrays.items())
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


def chain_hash(previous: str, line: Mapping[str, Any], clients: Iterable[Mapping[str, Any]]) -> str:
    """Return the ``chain-sha256`` of a round.

    Parameters
    ----------
    previous : str
        That of the line before; ``START`` for the first line.
    line : Mapping[str, Any]
        The round's line of ``rounds.jsonl``, with or without its chain.
    clients : Iterable[Mapping[str, Any]]
        Its clients' lines of ``clients.jsonl``, in order.
    """
    own = lasting(line)
    own.pop(CHAIN_HASH, None)
    content = [previous, own, list(map(lasting, clients))]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def chain_of(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return the chain after some lines of ``rounds.jsonl``; ``START`` without one."""
    return str(lines[-1].get(CHAIN_HASH, START)) if lines else START


def lasting(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a line without what another run of the same experiment may not have."""
    return {
        key: lasting(value) if isinstance(value, Mapping) else value
        for key, value in record.items()
        if not key.endswith("seconds") and key not in UNSTEADY
    }
