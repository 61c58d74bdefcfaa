"""What a client may use of a machine, and how many of them fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from hqde_fl.errors import ConfigError


@dataclass(frozen=True)
class Resources:
    """What each client of a group is given.

    Parameters
    ----------
    num_cpus : float
        CPUs, > 0; torch gets as many threads, at least one.
    num_gpus : float or "auto"
        GPUs, a fraction or a whole number; ``"auto"``: each GPU is divided by the clients that fit.
    memory_fraction : float or None
        Share of its GPU's memory that a client may take; a fraction of a GPU does not limit it.
    partitions : str
        The clients of the group, such as ``"0-9,12"``; empty for all that no other group names.
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
        """The partitions it names."""
        found: set[int] = set()
        for part in filter(None, self.partitions.replace(" ", "").split(",")):
            low, _, high = part.partition("-")
            if not low.isdigit() or not (high or low).isdigit() or int(high or low) < int(low):
                raise ConfigError(
                    f"engine.resources needs partitions such as '0-9,12', found {self.partitions!r}"
                )
            found.update(range(int(low), int(high or low) + 1))
        return frozenset(found)


@dataclass(frozen=True)
class Share:
    """What one client is given, all questions answered.

    Parameters
    ----------
    num_cpus, num_gpus : float
        As Ray is asked for them.
    memory_fraction : float or None
        Share of its GPU's memory that the client may take.
    """

    num_cpus: float
    num_gpus: float
    memory_fraction: float | None

    @property
    def threads(self) -> int:
        """Torch threads."""
        return max(1, int(self.num_cpus))

    def fits(self, node: Mapping[str, float]) -> int:
        """How many such clients fit on a node with these resources."""
        count = int(node.get("CPU", 0) / self.num_cpus + 1e-9)
        if self.num_gpus >= 1:
            return min(count, int(node.get("GPU", 0) / self.num_gpus))
        if self.num_gpus > 0:  # a fraction never spans two GPUs
            return min(count, int(node.get("GPU", 0)) * int(1 / self.num_gpus + 1e-9))
        return count


def settle(resources: Resources, nodes: Sequence[Mapping[str, float]]) -> Share:
    """What a group's clients get on a cluster.

    Parameters
    ----------
    resources : Resources
        What was asked for.
    nodes : Sequence[Mapping[str, float]]
        What each node of the cluster has, by Ray's names (``CPU``, ``GPU``).

    Raises
    ------
    ConfigError
        If not one such client fits on any node: it says what the cluster has.
    """
    gpus = resources.num_gpus
    if gpus == "auto":
        with_gpus = [node for node in nodes if node.get("GPU", 0) >= 1]
        fitting = [int(node.get("CPU", 0) / resources.num_cpus) for node in with_gpus]
        # as many clients on each GPU as the CPUs beside it can feed
        cards = [int(node["GPU"]) for node in with_gpus]
        each = [max(1, -(-n // m)) for n, m in zip(fitting, cards, strict=True)]
        gpus = 1 / max(each) if each else 0.0
    share = Share(resources.num_cpus, gpus, resources.memory_fraction)
    if not any(share.fits(node) for node in nodes):
        found = "; ".join(f"{n.get('CPU', 0):g} CPUs, {n.get('GPU', 0):g} GPUs" for n in nodes)
        raise ConfigError(
            f"a client with num-cpus = {share.num_cpus:g}, num-gpus = {share.num_gpus:g} "
            f"fits on no node of the cluster, which has {found}"
        )
    return share
