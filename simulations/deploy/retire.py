"""Tell the SuperLink that a node is gone, as the node itself does when it ends in an orderly way.

A SuperNode that is killed says nothing: for a minute the SuperLink counts it as online, keeps its
round waiting and refuses its successor. Who supervises it knows better, and holds its key.
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
    """Have the SuperLink count a node as offline.

    Parameters
    ----------
    address : str
        The SuperLink's.
    folder : Path
        The node's: its key, and the authority's certificate.
    node_id : int
        The node's id.

    Returns
    -------
    bool
        Whether it did. If not, the node's successor is refused until its minute is over.
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
    except Exception:  # a courtesy: whatever keeps it from working, waiting does as well
        return False
    return True
