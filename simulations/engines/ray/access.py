"""Who can reach a Ray: whether it listens on loopback alone, and whether it asks for a token."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

_METHOD = "/ray.rpc.NodeInfoGcsService/GetClusterId"
"""The first thing that a driver asks for; Ray has no name for the call in Python."""
_SECONDS = 5.0


def access() -> str:
    """Say who can use the Ray that this process is connected to.

    The addresses are those that the nodes have given themselves, which is where they listen; the
    GCS, where a driver begins, is called once without a token to see whether it minds.
    """
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    addresses = {str(node["NodeManagerAddress"]) for node in nodes if node["Alive"]}
    gcs = str(ray.get_runtime_context().gcs_address)
    return sentence(sorted(addresses), asks_for_token(gcs))


def sentence(addresses: Sequence[str], asks: bool | None) -> str:
    """Say who can use a Ray with nodes at these addresses.

    Parameters
    ----------
    addresses : Sequence of str
        The nodes' IP addresses.
    asks : bool or None
        Whether it asks for a token; None if that is not known.
    """
    away = [address for address in addresses if not is_loopback(address)]
    where = "listens on loopback: other hosts cannot reach it"
    if away:
        where = f"other hosts can reach it at {', '.join(away)}"
    if asks:
        return f"{where}; it asks for a token"
    if asks is None:
        return f"{where}; whether it asks for a token is not known"
    who = "whoever reaches it" if away else "every user of this host"
    return f"{where}; it asks for no token: {who} can run code on it (see docs/engines.md)"


def is_loopback(address: str) -> bool:
    """Whether an IP address is one that other hosts cannot reach."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False  # a name: better to warn than to be wrong
    mapped = getattr(found, "ipv4_mapped", None)
    return bool((mapped or found).is_loopback)


def asks_for_token(gcs: str) -> bool | None:
    """Whether a GCS refuses who has no token; None if there is no telling.

    Parameters
    ----------
    gcs : str
        Its address, ``host:port``. One that speaks TLS does not answer, nor does a Ray client's.
    """
    try:
        import grpc  # type: ignore[import-untyped]
    except ImportError:  # Flower brings it, at present
        return None
    # Ray uses no proxy either.
    with grpc.insecure_channel(gcs, options=(("grpc.enable_http_proxy", 0),)) as channel:
        try:
            channel.unary_unary(_METHOD)(b"", timeout=_SECONDS)
        except grpc.RpcError as error:
            code = error.code() if isinstance(error, grpc.Call) else None
            return True if code is grpc.StatusCode.UNAUTHENTICATED else None
    return False
