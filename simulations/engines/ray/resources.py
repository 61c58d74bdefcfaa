"""Resources of a client, and the number of clients that fit on a cluster with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from hqde_fl.errors import ConfigError


@dataclass(frozen=True)
class Resources:
    """The resources that are configured for each client of a group.

    Parameters
    ----------
    num_cpus : float
        Number of CPUs, > 0; torch uses as many threads, at least one.
    num_gpus : float or "auto"
        Number of GPUs, in [0, 1] or whole; ``"auto"`` divides each GPU by the clients that fit.
    memory_fraction : float or None
        Fraction of its GPU's memory, in (0, 1], that a client may use; None for no limit, whatever
        fraction of a GPU it has.
    partitions : str
        Partition ids of the group, such as ``"0-9,12"``; empty for all that no other group names.
    """

    num_cpus: float = 1.0
    num_gpus: float | Literal["auto"] = "auto"
    memory_fraction: float | None = None
    partitions: str = ""

    def __post_init__(self) -> None:
        if not self.num_cpus > 0:
            raise ConfigError(f"engine.resources needs num-cpus > 0, found {self.num_cpus}")
        gpus = self.num_gpus
        if gpus != "auto" and (gpus < 0 or (gpus > 1 and gpus != int(gpus))):
            raise ConfigError(
                f"engine.resources needs num-gpus in [0, 1], a whole number or 'auto', found {gpus}"
            )
        if self.memory_fraction is not None and not 0 < self.memory_fraction <= 1:
            raise ConfigError(
                f"engine.resources needs memory-fraction in (0, 1], found {self.memory_fraction}"
            )
        self.members()

    def members(self) -> frozenset[int]:
        """Return the partition ids in ``partitions``; none if that is empty.

        ``ConfigError`` is raised if ``partitions`` is malformed.
        """
        members: set[int] = set()
        for part in filter(None, self.partitions.replace(" ", "").split(",")):
            low, _, high = part.partition("-")
            if not low.isdigit() or not (high or low).isdigit() or int(high or low) < int(low):
                raise ConfigError(
                    f"engine.resources needs partitions such as '0-9,12', found {self.partitions!r}"
                )
            members.update(range(int(low), int(high or low) + 1))
        return frozenset(members)


@dataclass(frozen=True)
class Allocation:
    """The resources of one client, with a number in place of ``"auto"``.

    Parameters
    ----------
    num_cpus, num_gpus : float
        Numbers of CPUs and GPUs, as Ray takes them.
    memory_fraction : float or None
        Fraction of its GPU's memory, in (0, 1], that the client may use; None for no limit.
    """

    num_cpus: float
    num_gpus: float
    memory_fraction: float | None

    @property
    def threads(self) -> int:
        """Number of torch threads: ``num_cpus`` rounded down, at least 1."""
        return max(1, int(self.num_cpus))

    def fits(self, node: Mapping[str, float]) -> int:
        """Return the number of clients with this allocation that fit on a node.

        ``node`` holds the node's resources by Ray's names (``CPU``, ``GPU``).
        """
        count = int(node.get("CPU", 0) / self.num_cpus + 1e-9)
        if self.num_gpus >= 1:
            return min(count, int(node.get("GPU", 0) / self.num_gpus))
        if self.num_gpus > 0:  # a fraction never spans two GPUs
            return min(count, int(node.get("GPU", 0)) * int(1 / self.num_gpus + 1e-9))
        return count


def allocate(resources: Resources, nodes: Sequence[Mapping[str, float]]) -> Allocation:
    """Return the resources that a client of a group gets on a cluster.

    Parameters
    ----------
    resources : Resources
        The configured resources of the group.
    nodes : Sequence[Mapping[str, float]]
        The resources of each node of the cluster, by Ray's names (``CPU``, ``GPU``).

    Raises
    ------
    ConfigError
        If no such client fits on any node; the message lists the nodes' resources.
    """
    gpus = resources.num_gpus
    if gpus == "auto":
        with_gpus = [node for node in nodes if node.get("GPU", 0) >= 1]
        # as many clients on each GPU as fit on the CPUs of its node
        clients = [int(node.get("CPU", 0) / resources.num_cpus) for node in with_gpus]
        cards = [int(node["GPU"]) for node in with_gpus]
        clients_per_gpu = [max(1, -(-n // m)) for n, m in zip(clients, cards, strict=True)]
        gpus = 1 / max(clients_per_gpu) if clients_per_gpu else 0.0
    allocation = Allocation(resources.num_cpus, gpus, resources.memory_fraction)
    if not any(allocation.fits(node) for node in nodes):
        of = f" of partitions {resources.partitions}" if resources.partitions else ""
        raise ConfigError(
            f"engine.resources{of}: a client with num-cpus = {allocation.num_cpus:g}, num-gpus = "
            f"{allocation.num_gpus:g} fits on no node of the cluster, which has {listed(nodes)}"
        )
    return allocation


def listed(nodes: Sequence[Mapping[str, float]]) -> str:
    """Return the CPUs and GPUs of each node as text."""
    texts = (f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs" for node in nodes)
    return "; ".join(texts) or "no nodes"
