"""Which keys the SuperLink knows, by which ids: ``flwr supernode list`` says the ids only."""

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
    """The node ids of the public keys that are registered.

    Parameters
    ----------
    address : str
        The SuperLink's.
    root : Path
        The authority's certificate.

    Raises
    ------
    RunError
        If it does not say.
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
    """A node's public key as the SuperLink has it."""
    key = load_ssh_public_key(path.read_bytes())
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return public_key_to_bytes(key)
