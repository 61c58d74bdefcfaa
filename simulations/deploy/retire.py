"""Sign off a node that was killed, as the node itself does when it ends normally.

A SuperNode that is killed does not sign off. So for a minute the SuperLink counts it as online,
keeps the round waiting and refuses a new process of the node. The supervisor knows that it has
ended, and has its key.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from hqde_fl.simulations.engines.flower_internals import (
    DeactivateNodeRequest,
    FleetHttpClient,
    NodeAuthHttpInterceptor,
    RuntimeVersionHttpInterceptor,
)


def retire(address: str, folder: Path, node_id: int) -> bool:
    """Tell the SuperLink that a node is offline.

    Parameters
    ----------
    address : str
        Address of the SuperLink.
    folder : Path
        The node's folder, with its key and the authority's certificate.
    node_id : int
        The node's id.

    Returns
    -------
    bool
        True if the SuperLink accepted it. Otherwise it refuses the node for up to a minute.
    """
    try:
        key = load_ssh_private_key((folder / "node.key").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        with FleetHttpClient.from_server_address(
            address,
            insecure=False,
            root_certificates=(folder / "ca.crt").read_bytes(),
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                NodeAuthHttpInterceptor(key, key.public_key()),
            ],
        ) as client:
            client.DeactivateNode(DeactivateNodeRequest(node_id=node_id))
    except Exception:  # not needed: after a minute the SuperLink notices by itself
        return False
    return True
