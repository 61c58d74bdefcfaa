"""List, add and remove the public keys that are registered at a SuperLink.

The SuperLink looks up the key of every request of a node. So a key that is removed is refused with
the node's next message, and can never be registered again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from hqde_fl.errors import ConfigError, RunError, UnknownNameError
from hqde_fl.simulations.deploy.federation import REVOKED, FederationDirectory
from hqde_fl.simulations.engines.flower.control_client import control_client
from hqde_fl.simulations.engines.flower_internals import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    UnregisterNodeRequest,
    public_key_to_bytes,
    read_flower_config,
)

UNREGISTERED = "unregistered"
"""Status of a node whose key was removed."""


@dataclass(frozen=True)
class ControlAddress:
    """The address at which a SuperLink is controlled.

    Parameters
    ----------
    address : str
        Host and port.
    root : Path
        File with the authority's certificate.
    """

    address: str
    root: Path

    @property
    def port(self) -> int:
        """The port in the address."""
        return int(self.address.rpartition(":")[2])

    @classmethod
    def named(cls, name: str) -> ControlAddress:
        """Return the address of a SuperLink that Flower's configuration names.

        Raises
        ------
        UnknownNameError
            If no SuperLink has that name.
        ConfigError
            If its entry has no address or no ``root-certificates``.
        """
        known, file = read_flower_config()
        connections = {k: v for k, v in known.get("superlink", {}).items() if k != "default"}
        if name not in connections and Path(name).is_dir():
            raise ConfigError(
                f"--superlink {name}: needs the name of a SuperLink in {file}, found a directory. "
                "A run on a federation on this machine has its files where `hqde-fl run` was begun"
            )
        if name not in connections:
            raise UnknownNameError(f"SuperLink in {file}", name, connections)
        entry = connections[name]
        if not isinstance(entry, dict) or not {"address", "root-certificates"} <= entry.keys():
            raise ConfigError(f"{file}: {name} needs an address and root-certificates")
        return cls(str(entry["address"]), file.parent / str(entry["root-certificates"]))

    def registered(self) -> dict[bytes, int]:
        """Return the registered public keys with their node ids, or raise ``RunError``."""
        with self._client("does not list its nodes") as client:
            nodes = client.ListNodes(ListNodesRequest()).nodes_info
        return {node.public_key: node.node_id for node in nodes if node.status != UNREGISTERED}

    def nodes(self) -> list[Any]:
        """Return Flower's ``NodeInfo`` of each node that was ever registered.

        ``RunError`` is raised if the SuperLink does not answer.
        """
        with self._client("does not list its nodes") as client:
            return list(client.ListNodes(ListNodesRequest()).nodes_info)

    def statuses(self) -> dict[int, str]:
        """Return the status of each node that was ever registered, or raise ``RunError``."""
        return {int(node.node_id): str(node.status) for node in self.nodes()}

    def runs(self) -> list[str]:
        """Return the ids of the SuperLink's runs, the latest first, or raise ``RunError``."""
        with self._client("does not list its runs") as client:
            runs = client.ListRuns(ListRunsRequest()).run_dict
        latest_first = sorted(runs, key=lambda run: str(runs[run].pending_at), reverse=True)
        return [str(run) for run in latest_first]

    def register(self, public_key: bytes, name: str) -> int:
        """Register a node's key under a name and return the node's id, or raise ``RunError``."""
        with self._client(f"did not register {name}") as client:
            answer = client.RegisterNode(RegisterNodeRequest(public_key=public_key, name=name))
        return int(answer.node_id)

    def unregister(self, node_id: int) -> None:
        """Remove a node's key: its next message is refused. Raise ``RunError`` if that fails."""
        with self._client(f"did not unregister node {node_id}") as client:
            client.UnregisterNode(UnregisterNodeRequest(node_id=node_id))

    @contextmanager
    def _client(self, failure: str) -> Iterator[Any]:
        """Yield a client of the SuperLink's control API.

        Any error is raised as ``RunError`` with the words of ``failure``.
        """
        try:
            with control_client(self.address, self.root.read_bytes()) as client:
                yield client
        except Exception as error:  # of Flower, of its HTTP library, of TLS
            raise RunError(f"the SuperLink {failure}: {error}") from error


def synchronise(
    federation: FederationDirectory, control: ControlAddress, names: Collection[str]
) -> dict[str, int]:
    """Register nodes of a federation at a SuperLink, and remove the keys of revoked nodes.

    Keys are registered one after the other: their order numbers the nodes.

    Parameters
    ----------
    federation : FederationDirectory
        The federation.
    control : ControlAddress
        The SuperLink.
    names : Collection[str]
        The names of the nodes to register. One whose key is made at its site may have none yet.

    Returns
    -------
    dict of str to int
        The ids of these nodes, by name.

    Raises
    ------
    RunError
        If the SuperLink does not answer, or refuses a key.
    """
    ids = control.registered()
    for path in sorted((federation.path / REVOKED).glob("*.pub")):
        if (node := ids.pop(key := public_key(path), None)) is not None:
            try:
                control.unregister(node)
            except RunError:
                if key in control.registered():  # else another process was faster
                    raise
    known = {}
    for name in (name for name in federation.names if name in names):
        path = federation.superlink / f"{name}.pub"
        if not path.exists():
            continue
        key = public_key(path)
        try:
            known[name] = ids[key] if key in ids else control.register(key, name)
        except RunError:
            if key not in (ids := control.registered()):  # else another process was faster
                raise
            known[name] = ids[key]
    return known


def public_key(path: Path) -> bytes:
    """Read a node's public key and return it in the SuperLink's format.

    Raises
    ------
    ConfigError
        If the file cannot be read, or holds no public key on a NIST curve in OpenSSH's format.
    """
    try:
        key = load_ssh_public_key(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path} is no public key in OpenSSH's format: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ConfigError(
            f"{path} must be a key on a NIST curve (ssh-keygen -t ecdsa -b 384), "
            f"found a {type(key).__name__}"
        )
    return public_key_to_bytes(key)
