"""Examine the machine and its Ray, and what an experiment would get of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hqde_fl.simulations.recording.environment import hardware, versions

if TYPE_CHECKING:
    from hqde_fl.simulations.experiment.experiment import Experiment


def examine(experiment: Experiment | None = None, address: str = "") -> Iterator[tuple[str, str]]:
    """Yield facts about this machine and its Ray, as (subject, finding).

    Parameters
    ----------
    experiment : Experiment, optional
        Experiment whose clients' resources are examined, too.
    address : str
        The Ray cluster to examine; the experiment's own, or a local one, if empty.

    Raises
    ------
    ConfigError
        If the experiment's clients fit on no node; the message has the cluster's resources.
    RunError
        If the cluster cannot be joined.
    """
    import ray
    import torch

    from hqde_fl.simulations.engines.ray.access import access
    from hqde_fl.simulations.engines.ray.pool import cluster, connect
    from hqde_fl.simulations.engines.ray.resources import Resources, allocate

    yield "versions", ", ".join(f"{name} {found}" for name, found in versions().items() if found)
    machine = hardware()
    yield "machine", f"{machine['threads']} CPUs, {machine['memory-gib']} GiB, {machine['system']}"
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    yield "GPUs", ", ".join(gpus) or "none that torch can use"
    mine = not ray.is_initialized()
    engine = experiment.engine if experiment else None
    dashboard = connect(
        address or (engine.address if engine else ""), dict(engine.runtime_env) if engine else None
    )
    nodes = cluster()
    for number, node in enumerate(nodes, start=1):
        store = node.get("object_store_memory", 0) / 2**30
        cpus, cards = node.get("CPU", 0), node.get("GPU", 0)
        yield (
            f"Ray node {number}",
            f"{cpus:g} CPUs, {cards:g} GPUs, {store:.1f} GiB of object store",
        )
    yield "Ray access", access()
    yield "Ray dashboard", dashboard or "none (pip install 'ray[default]' brings one)"
    yield "Python", sys.executable
    groups = experiment.parts.resources if experiment else [Resources()]
    for group in groups:
        allocation = allocate(group, nodes)
        at_once = sum(allocation.fits(node) for node in nodes)
        yield (
            f"clients {group.partitions or '(all others)' if len(groups) > 1 else ''}".strip(),
            f"{allocation.num_cpus:g} CPUs ({allocation.threads} torch threads) and "
            f"{allocation.num_gpus:g} GPUs each, {at_once} at once",
        )
    if mine:
        ray.shutdown()
    if stale := stale_cluster_file():
        yield "warning", stale


def stale_cluster_file() -> str:
    """Return a warning if a file names a Ray cluster that does not answer; "" if there is none.

    A ``ray.init`` without an address, as that of `flwr run .`, waits for the cluster in this file.
    Engine ``flower`` does not look at it.
    """
    from ray._common.utils import get_ray_address_file

    from hqde_fl.simulations.engines.ray.access import answers

    file = Path(get_ray_address_file(None))
    try:
        address = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
    if not address or answers(address):
        return ""
    return (
        f"{file} names a Ray at {address} that does not answer: `flwr run .` would wait for it; "
        "delete the file"
    )
