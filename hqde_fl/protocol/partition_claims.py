"""The partition id, and the edge, that a node claims when it is asked for its identity."""

from __future__ import annotations

from collections.abc import Collection

from flwr.app import ConfigRecord, Message

IDENTITY = "query.identity"
"""Type of the message that asks a node for its partition id."""
EDGE_ID = "edge-id"
"""Key of a node's config, and of its reply, with the edge that the node belongs to."""


def claimed_partition(reply: Message, taken: Collection[int]) -> int | None:
    """Return the partition id that a node claims in its reply to ``query.identity``.

    Parameters
    ----------
    reply : Message
        The reply; an error is no claim.
    taken : Collection[int]
        The ids that other nodes have claimed before; the first claim counts.

    Returns
    -------
    int or None
        The id; None if the reply is an error, claims none, or claims one that is taken.
    """
    if not reply.has_content():
        return None
    identity = reply.content.config_records.get("identity", ConfigRecord())
    claimed = identity.get("partition-id")
    if isinstance(claimed, bool) or not isinstance(claimed, int) or claimed in taken:
        return None
    return claimed


def claimed_edge(reply: Message, edges: int) -> int | str:
    """Return the edge that a node claims in its reply to ``query.identity``.

    Parameters
    ----------
    reply : Message
        The reply; an error is no claim.
    edges : int
        The number of edges.

    Returns
    -------
    int or str
        The edge, in [0, ``edges`` - 1]; or why the reply names none.
    """
    if not reply.has_content():
        return "it replied with an error"
    claimed = reply.content.config_records.get("identity", ConfigRecord()).get(EDGE_ID)
    if claimed is None:
        return f"its node config needs {EDGE_ID}, found none"
    if isinstance(claimed, bool) or not isinstance(claimed, int) or not 0 <= claimed < edges:
        return f"its {EDGE_ID} must be an integer in [0, {edges - 1}], found {claimed!r:.40}"
    return claimed
