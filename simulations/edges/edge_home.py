"""The key of a node's config by which it is an edge."""

from __future__ import annotations

EDGE_HOME = "edge-home"
"""The ``FLWR_HOME`` whose default SuperLink is the node's own: the node is an edge then."""
