"""Node ids of simulated clients: the same in every run with the same seed."""

from __future__ import annotations

from hqde_fl.seeding import Seeds


def node_partitions(seed: int, partitions: int) -> dict[int, int]:
    """Return distinct positive node ids -> partition id, in the order of the partitions.

    With the same seed, k partitions get the first k of the ids that more partitions get.
    """
    rng = Seeds(seed).numpy("nodes")
    ids: dict[int, int] = dict.fromkeys(rng.integers(2, 2**62, size=partitions).tolist(), 0)
    while len(ids) < partitions:  # a collision: one in 2^62 for each pair
        ids[int(rng.integers(2, 2**62))] = 0
    for partition, node in enumerate(ids):  # a second dict would cost memory for each client
        ids[node] = partition
    return ids
