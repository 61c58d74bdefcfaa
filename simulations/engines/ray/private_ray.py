"""Start a Ray that only this process can use: it listens on loopback and asks for a token.

By default Ray listens on every interface and asks for no token: anyone who reaches one of its ports
can run code with the rights of the user who started it. Two of Ray's settings prevent that. Both
are environment variables, so they also apply to the Ray of engine ``flower``, which Flower starts
in a process of its own:

- ``RAY_AUTH_MODE=token`` and ``RAY_AUTH_TOKEN``: every server of Ray asks for the token. Each Ray
  gets a new one, which is in the environment and the memory of its processes and nowhere else.
- ``RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0``: no cluster of several hosts, as on macOS. The node's
  address is then that of ``localhost``, and Ray's processes listen on the address of their node.
  ``ray.init(_node_ip_address="127.0.0.1")`` does not help: Ray replaces it by the host's address.

Its files are in a folder of its own (``session_folder.py``), which is removed when it ends.

Nothing here changes a cluster that the user names, or a Ray that the host program has started.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from hqde_fl.errors import RunError
from hqde_fl.simulations.engines.locked_folder import LockedFolder
from hqde_fl.simulations.engines.ray.session_folder import new_session_folder

LOOPBACK = ("127.0.0.1", "::1")
"""Addresses that Ray accepts as loopback; with any other it listens on every interface."""

_folders: list[LockedFolder] = []
"""The folder of the Ray that this process has started last, if it has not been removed."""


def is_private(address: str) -> bool:
    """Return True if ``ray.init`` starts a local Ray for this address and joins no cluster.

    Parameters
    ----------
    address : str
        The address that the user gave, or the value of ``RAY_ADDRESS``; may be empty.
    """
    return address in ("", "local")


def private_environment() -> dict[str, str]:
    """Return the environment variables, with a new token, that make a Ray private when it starts.

    Raises
    ------
    RunError
        If ``localhost`` is not loopback on this host: Ray would listen on every interface.
    """
    if (address := _localhost()) not in LOOPBACK:
        raise RunError(
            f"localhost must be {' or '.join(LOOPBACK)}, found {address}: Ray would listen on "
            "every interface (correct /etc/hosts)"
        )
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),  # Ray prefers it to a RAY_AUTH_TOKEN_PATH
        "RAY_ENABLE_K8S_TOKEN_AUTH": "0",  # otherwise Kubernetes would judge the token
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # Its Prometheus server asks for no token; with an impossible port there is none.
        "AUTOSCALER_METRIC_PORT": "-1",
    }


@contextmanager
def private_ray() -> Iterator[None]:
    """Make a Ray private that is started in this context, by ``ray.init`` or as a test cluster.

    The environment is changed only while Ray's processes start, which inherit it. So other programs
    that the host program starts get no token, and the user's own ``RAY_`` variables are restored.
    The token stays in this process's memory until ``ray.shutdown()``, which also removes the
    folder of Ray's files. If Ray does not start, they stay as long as this process lives.

    Raises
    ------
    RunError
        If the Ray does not listen on loopback, in which case it is ended, or if there is no folder
        for its files.
    """
    from ray._private import ray_constants, worker

    changed = private_environment()
    remove_files()  # of a Ray that was killed
    folder = new_session_folder()
    _folders.append(folder)
    changed["RAY_TMPDIR"] = folder.path
    before = {name: os.environ.get(name) for name in changed}
    clusters = ray_constants.ENABLE_RAY_CLUSTER
    try:
        os.environ.update(changed)
        ray_constants.ENABLE_RAY_CLUSTER = False  # Ray read the variable when it was imported
        read_environment()
        yield
        if worker._global_node is not None:
            _require_loopback(worker._global_node)
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = clusters
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if worker._global_node is None:
            read_environment()
            folder.keep()
        else:
            _clean_up_with(worker._global_node)


def files_folder() -> str:
    """Return the folder of the files of the Ray that this process has started last; "" if none."""
    return _folders[-1].path if _folders else ""


def remove_files() -> None:
    """Remove the folder of a Ray that this process has started and that has ended."""
    while _folders:
        _folders.pop().close()


def read_environment() -> None:
    """Make Ray read the ``RAY_AUTH_...`` variables again, which it caches for the whole process.

    Call it only while this process is connected to no Ray.
    """
    raylet: Any = import_module("ray._raylet")  # an extension module, without types
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


def _require_loopback(node: Any) -> None:
    """End the Ray and raise ``RunError`` unless its node listens on loopback."""
    import ray

    address = node.node_ip_address
    if address not in LOOPBACK:
        ray.shutdown()
        raise RunError(
            f"Ray {ray.__version__} listens on {address}, not on loopback: install the version of "
            "Ray that hqde-fl is tested with"
        )


def _clean_up_with(node: Any) -> None:
    """Remove Ray's files and forget the token when the node ends, which ``ray.shutdown`` sees to.

    Otherwise the next Ray of the process, such as the user's own cluster, would be sent this token.
    """
    end = node.kill_all_processes

    def end_and_clean_up(*arguments: Any, **options: Any) -> None:
        try:
            end(*arguments, **options)
        finally:
            read_environment()
            remove_files()

    node.kill_all_processes = end_and_clean_up


def _localhost() -> str:
    """Return the first address of ``localhost``, as Ray finds it; 127.0.0.1 if it has none."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            return str(socket.getaddrinfo("localhost", None, family, socket.SOCK_STREAM)[0][4][0])
        except OSError:
            continue
    return LOOPBACK[0]
