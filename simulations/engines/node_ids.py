"""Node ids of simulated clients: the same in every run with the same seed."""

from __future__ import annotations

from hqde_fl.seeding import Seeds


def node_ids(seed: int, partitions: int) -> list[int]:
    """Return a distinct positive node id for each partition, in order.

    With the same seed, k partitions get the first k of the ids that more partitions get.
    """
    rng = Seeds(seed).numpy("nodes")
    ids: list[int] = list(dict.fromkeys(rng.integers(2, 2**62, size=partitions).tolist()))
    while len(ids) < partitions:  # a collision: one in 2^62 for each pair
        ids = list(dict.fromkeys([*ids, int(rng.integers(2, 2**62))]))
    return ids
