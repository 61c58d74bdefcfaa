"""The folder of a real node: where it is in the node's config, and the names of its files."""

from __future__ import annotations

NODE_FOLDER = "node-folder"
"""Key of a node's config: the folder with its private key and the public keys of all nodes."""

PRIVATE_KEY = "node.key"
"""The node's private key, by which the SuperLink knows it, and other sites its signatures."""

PEERS = "peers.pub"
"""The public keys of all nodes, a line in OpenSSH's format for each."""
