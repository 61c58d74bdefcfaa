"""The entries of a model that nodes say they hold."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import final

from flwr.app import Array

from hqde_fl.protocol.held_entries import Manifest


@final
@dataclass(frozen=True)
class Holdings:
    """The entries of a model that nodes say they hold.

    Parameters
    ----------
    digests : Mapping[int, str]
        Node id -> digest of the manifest of the entries that the node holds.
    manifests : Mapping[str, Manifest]
        Digest -> manifest, for each digest in ``digests``.
    """

    digests: Mapping[int, str] = field(default_factory=dict)
    manifests: Mapping[str, Manifest] = field(default_factory=dict)

    def digest_of(self, node: int) -> str | None:
        """Return the digest of the entries that a node holds; None if it holds none."""
        return self.digests.get(node)

    def manifest(self, digest: str) -> Manifest:
        """Return the manifest with a digest that a node holds."""
        return self.manifests[digest]

    def with_replies(
        self, replies: Mapping[int, tuple[Collection[str], str | None]], sent: Mapping[str, Array]
    ) -> Holdings:
        """Return the holdings after replies: those that they claim, if the server finds the same.

        Parameters
        ----------
        replies : Mapping[int, tuple[Collection[str], str or None]]
            Node id -> names of the entries that it returned as they were sent, and the digest of
            the entries that it says it has stored. If it says nothing, or the digest is not that of
            the unchanged entries, the node holds nothing.
        sent : Mapping[str, Array]
            The whole model that the nodes were sent, in full or not.
        """
        digests, manifests = dict(self.digests), dict(self.manifests)
        found: dict[frozenset[str], Manifest] = {}
        for node, (unchanged, claimed) in replies.items():
            names = frozenset(unchanged)
            if claimed is not None and names and names not in found:
                found[names] = Manifest.of(sent, names)
            if claimed is None or not names or found[names].digest != claimed:
                digests.pop(node, None)
            else:
                digests[node], manifests[claimed] = claimed, found[names]
        return self if digests == self.digests else _of_nodes(digests, manifests)

    def without(self, *nodes: int) -> Holdings:
        """Return the holdings after nodes have lost what they held."""
        if self.digests.keys().isdisjoint(nodes):
            return self
        digests = {other: digest for other, digest in self.digests.items() if other not in nodes}
        return _of_nodes(digests, self.manifests)


def _of_nodes(digests: Mapping[int, str], manifests: Mapping[str, Manifest]) -> Holdings:
    """Return holdings without the manifests that no node holds."""
    held = set(digests.values())
    return Holdings(digests, {digest: m for digest, m in manifests.items() if digest in held})
