"""List the public keys registered at a SuperLink; ``flwr supernode list`` lists only node ids."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from hqde_fl.errors import RunError
from hqde_fl.simulations.engines.flower_internals import (
    ControlHttpClient,
    ListNodesRequest,
    RuntimeVersionHttpInterceptor,
    public_key_to_bytes,
)


def registered(address: str, root: Path) -> dict[bytes, int]:
    """Return the registered public keys with their node ids.

    Parameters
    ----------
    address : str
        Address of the SuperLink.
    root : Path
        File with the authority's certificate.

    Raises
    ------
    RunError
        If the SuperLink does not answer.
    """
    try:
        with ControlHttpClient.from_server_address(
            address,
            insecure=False,
            root_certificates=root.read_bytes(),
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
        ) as client:
            nodes = client.ListNodes(ListNodesRequest()).nodes_info
    except Exception as error:  # of Flower, of its HTTP library, of TLS
        raise RunError(f"the SuperLink does not list its nodes: {error}") from error
    return {node.public_key: node.node_id for node in nodes if node.status != "unregistered"}


def public_key(path: Path) -> bytes:
    """Read a node's public key and return it in the SuperLink's format."""
    key = load_ssh_public_key(path.read_bytes())
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return public_key_to_bytes(key)
