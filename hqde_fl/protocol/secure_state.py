"""A client's state between the server's questions about a secure sum, in its Flower context."""

from __future__ import annotations

from typing import Any

from flwr.app import ConfigRecord, Context

from hqde_fl.errors import SecureAggregationError
from hqde_fl.privacy.secure_sums.client import PublicKeys, SecureClient, Stage

KEPT = "hqde.secure-sum"
"""Name in the client's state of the record."""

_STAGES: dict[str, Stage] = {
    "advertised": "advertised",
    "shared": "shared",
    "masked": "masked",
}


def store(context: Context, client: SecureClient) -> None:
    """Keep a client's state in place of any other."""
    peers, encrypted = client.peers or {}, client.encrypted or {}
    context.state[KEPT] = ConfigRecord(
        {
            "session": client.session,
            "number": client.number,
            "cipher-key": client.cipher_key,
            "masking-key": client.masking_key,
            "seed": client.seed,
            "stage": client.stage,
            "threshold": client.threshold,
            "own-shares": client.own_shares,
            "peers": list(peers),
            "peers-cipher": [keys.cipher for keys in peers.values()],
            "peers-masking": [keys.masking for keys in peers.values()],
            "senders": list(encrypted),
            "encrypted": list(encrypted.values()),
        }
    )


def load(context: Context) -> SecureClient:
    """Return the client's state.

    Raises
    ------
    SecureAggregationError
        If there is none: the round has ended, or the node has lost it.
    """
    record = context.state.get(KEPT)
    if not isinstance(record, ConfigRecord):
        raise SecureAggregationError("this client keeps no keys of a round")
    kept: dict[str, Any] = dict(record)
    keys = map(PublicKeys, kept["peers-cipher"], kept["peers-masking"])
    stage = _STAGES[kept["stage"]]
    return SecureClient(
        kept["session"],
        kept["number"],
        kept["cipher-key"],
        kept["masking-key"],
        kept["seed"],
        stage,
        kept["threshold"],
        dict(zip(kept["peers"], keys, strict=True)) if stage != "advertised" else None,
        kept["own-shares"],
        dict(zip(kept["senders"], kept["encrypted"], strict=True)) if stage == "masked" else None,
    )


def forget(context: Context) -> None:
    """Erase a client's state."""
    if KEPT in context.state:
        del context.state[KEPT]
