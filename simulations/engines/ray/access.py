"""Describe who can use a Ray: does it listen on loopback only, and does it ask for a token."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from typing import Any

_METHOD = "/ray.rpc.NodeInfoGcsService/GetClusterId"
"""The first call of a driver; Ray has no name for it in Python."""
_SECONDS = 5.0


def access() -> str:
    """Return a sentence that says who can use the Ray that this process is connected to.

    The addresses are those on which the nodes listen. The GCS, to which a driver connects first, is
    called once without a token to see if it refuses.
    """
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    addresses = {str(node["NodeManagerAddress"]) for node in nodes if node["Alive"]}
    gcs = str(ray.get_runtime_context().gcs_address)
    return sentence(sorted(addresses), asks_for_token(gcs))


def answers(address: str) -> bool:
    """Return True if a server accepts a connection at ``host:port``."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS):
            return True
    except (OSError, ValueError, OverflowError):
        return False


def sentence(addresses: Sequence[str], asks: bool | None) -> str:
    """Return a sentence that says who can use a Ray with nodes at these addresses.

    Parameters
    ----------
    addresses : Sequence of str
        The nodes' IP addresses.
    asks : bool or None
        True if it asks for a token; None if that is not known.
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
    """Return True for an IP address that other hosts cannot reach."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False  # a name may mean any address
    mapped = getattr(parsed, "ipv4_mapped", None)
    return bool((mapped or parsed).is_loopback)


def asks_for_token(gcs: str) -> bool | None:
    """Return True if a GCS refuses a caller without a token, False if it accepts one.

    The result is None if the GCS gives no answer.

    Parameters
    ----------
    gcs : str
        Its address, ``host:port``. A GCS that uses TLS and a Ray client server give no answer.
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
