"""The buckets of a round of secure aggregation: as they are dealt, and what is learnt of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hqde_fl.privacy.secure_sums.bucket import Bucket
from hqde_fl.protocol.screening import Accepted
from hqde_fl.protocol.secure_vectors import ClientVector


@dataclass(eq=False)
class DealtBucket:
    """A bucket of a round.

    Parameters
    ----------
    place : int
        Its number among the round's buckets, from 0.
    nodes : Sequence[int]
        The nodes that were dealt into it; a client's number in it is its place here, from 1.
    members : tuple[int, ...]
        The members of the ensemble that they train.
    sums : Bucket
        What the server knows of the sum.
    vector : ClientVector
        The form of the clients' vectors.
    """

    place: int
    nodes: Sequence[int]
    members: tuple[int, ...]
    sums: Bucket
    vector: ClientVector

    def node(self, number: int) -> int:
        """Return the node of a client's number."""
        return self.nodes[number - 1]


@dataclass(frozen=True, eq=False)
class BucketMean:
    """The mean of a bucket, which is all that the server learns of it.

    Parameters
    ----------
    place : int
        Its number among the round's buckets.
    dealt : tuple[int, ...]
        The nodes that were dealt into it.
    members : tuple[int, ...]
        The members of the ensemble that they train.
    nodes : tuple[int, ...]
        The nodes in the sum; of a void bucket those whose masked update the server has.
    accepted : Mapping[int, Accepted]
        Member -> the mean update of these nodes; empty if the bucket is void.
    void : str or None
        Why there is no sum; None if there is one.
    is_broken : bool
        True if there is none although enough clients stayed: one of them has lied.
    clipped : int
        The number of updates that were clipped.
    """

    place: int
    dealt: tuple[int, ...]
    members: tuple[int, ...]
    nodes: tuple[int, ...]
    accepted: Mapping[int, Accepted]
    void: str | None = None
    is_broken: bool = False
    clipped: int = 0
