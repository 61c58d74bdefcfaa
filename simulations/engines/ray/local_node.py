"""Compare what clients ask for with this machine, before a Ray is started on it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from hqde_fl.simulations.engines.ray.private_ray import is_private
from hqde_fl.simulations.engines.ray.resources import Resources, allocate


def require_fit(groups: Sequence[Resources], address: str = "") -> None:
    """Raise ``ConfigError`` if a client of a group does not fit on a Ray of this machine.

    Nothing is checked if a cluster is to be joined or this process is connected to a Ray: the
    resources are asked for there. Groups that fit on every machine do not import Ray.

    Parameters
    ----------
    groups : Sequence[Resources]
        Resources of a client, by groups of clients.
    address : str
        Address of the cluster to join; that of ``RAY_ADDRESS`` or a local Ray if empty.
    """
    demanding = [one for one in groups if one.num_gpus not in (0, "auto") or one.num_cpus > 1]
    if not demanding or not is_private(address or os.environ.get("RAY_ADDRESS", "")):
        return
    import ray

    if not ray.is_initialized():
        node = local_node()
        for group in demanding:
            allocate(group, [node])


def local_node() -> dict[str, float]:
    """Return the CPUs and GPUs that a Ray started by this process would have, by Ray's names."""
    from ray._private.resource_and_label_spec import ResourceAndLabelSpec

    node = ResourceAndLabelSpec().resolve(is_head=True, node_ip_address="127.0.0.1")
    return {"CPU": float(node.num_cpus or 0), "GPU": float(node.num_gpus or 0)}
