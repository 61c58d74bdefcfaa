"""Make a client of a SuperLink's control API that asks no proxy for 127.0.0.1."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hqde_fl.simulations.engines.flower.superlink import no_proxy_on_loopback
from hqde_fl.simulations.engines.flower_internals import (
    ControlHttpClient,
    RuntimeVersionHttpInterceptor,
)

_ENVIRONMENT = threading.Lock()


def control_client(address: str, root: bytes | None, *, insecure: bool = False) -> Any:
    """Return Flower's client, a context manager, of the control API at an address.

    ``root`` is the authority's certificate; None for the system's authorities.
    """
    with _loopback_without_proxy():
        return ControlHttpClient.from_server_address(
            address,
            insecure=insecure,
            root_certificates=root,
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
        )


@contextmanager
def _loopback_without_proxy() -> Iterator[None]:
    """Let HTTP clients that are made in the context ask no proxy for 127.0.0.1."""
    with _ENVIRONMENT:
        own = no_proxy_on_loopback(os.environ)
        before = {name: os.environ.get(name) for name in own}
        os.environ.update(own)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
