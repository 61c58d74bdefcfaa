"""The directory of a federation, with one folder of keys and certificates for each host.

::

    DIR/federation.toml     names of the nodes, names and port of the SuperLink
    DIR/ca.crt, ca.key      the authority; its key is needed only to renew certificates
    DIR/superlink/          for the SuperLink's host: certificate, key, the nodes' public keys
    DIR/node-0/ ...         for a node's host: its key, the authority's certificate
    DIR/revoked/            public keys of nodes that were revoked
    DIR/edge-0/ ...         the federation of an edge, if nodes are edges; a directory like this one
    DIR/state/              written by ``nodes up`` on this host: database, logs, FLWR_HOME, ports,
                            the nodes' caches of model entries
"""

from __future__ import annotations

import os
import re
import shutil
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tomli_w

from hqde_fl.clients.node_folder import PEERS
from hqde_fl.errors import ConfigError, RunError
from hqde_fl.simulations.deploy.authority import (
    address_of,
    check_host,
    issue_server,
    make_authority,
    make_node_key,
)
from hqde_fl.simulations.deploy.units import (
    ENTRIES,
    ENVIRONMENT_FILE,
    NodeSettings,
    node_unit,
    site_environment,
    superlink_unit,
)
from hqde_fl.simulations.engines.flower.superlink import SuperLink, environment_for
from hqde_fl.simulations.recording.atomic_files import replace_file
from hqde_fl.simulations.recording.directory_lock import directory_lock

PORT = 9092
LOOPBACK = ("localhost", "127.0.0.1")
CONNECTION = "deployment"
"""Name of the SuperLink in the ``config.toml`` of the federation's ``FLWR_HOME``."""

SETTINGS_FILE = "federation.toml"
REVOKED = "revoked"
"""Name of the folder with the public keys of revoked nodes."""
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_RESERVED = ("superlink", "state", REVOKED, "supervisor")


def check_name(name: str) -> None:
    """Raise ``ConfigError`` if a text cannot be the name of a node."""
    if not _NAME.fullmatch(name) or name in _RESERVED or name.startswith("edge-"):
        raise ConfigError(
            "a node's name must have 1 to 63 characters of a-z, 0-9 and '-' (not at its ends), "
            f"must not begin with edge- and not be {', '.join(_RESERVED)}, found {name!r}"
        )


@dataclass(frozen=True)
class FederationDirectory:
    """The directory of a federation and its settings.

    Parameters
    ----------
    path : Path
        The absolute path of the directory.
    names : tuple of str
        The names of the nodes, in the order in which they joined.
    hosts : tuple of str
        Names and addresses in the SuperLink's certificate.
    port : int
        Port of the SuperLink when it is deployed on another host; ``nodes up`` uses others.
    edges : bool
        True if each node is an edge, with a federation of its own in ``edge-N``.
    partitions : tuple[int, ...]
        The partition ids of the nodes; empty for 0, 1 and so on.
    total : int
        Number of all partitions, where the nodes do not have them all; else 0.
    groups : int
        Number of edges among which the nodes are dealt by their configs; 0 for none.
    remote : tuple[str, ...]
        The names of nodes that run on hosts of their own: ``nodes up`` does not start them here.
    """

    path: Path
    names: tuple[str, ...]
    hosts: tuple[str, ...]
    port: int = PORT
    edges: bool = False
    partitions: tuple[int, ...] = ()
    total: int = 0
    groups: int = 0
    remote: tuple[str, ...] = ()

    @classmethod
    def create(
        cls, path: Path, count: int, hosts: Sequence[str] = (), port: int = PORT, **more: Any
    ) -> FederationDirectory:
        """Create an authority, a server certificate and the nodes' keys in a new directory.

        ``more`` are further fields.

        Raises
        ------
        ConfigError
            If the directory is not empty, a number is out of range, or a host is not valid.
        RunError
            If the directory cannot be written; it is removed again.
        """
        known = tuple(dict.fromkeys([*hosts, *LOOPBACK]))
        for host in known:
            check_host(host)
        if count < 0:
            raise ConfigError(f"count must be >= 0, found {count}")
        federation = cls(path.resolve(), _numbered(count), known, port, **more)
        federation._check()
        path = federation.path
        try:
            existed = path.exists()
            if existed and (not path.is_dir() or any(path.iterdir())):
                raise ConfigError(f"{path} exists and is not an empty directory")
            try:
                federation._fill()
            except BaseException:
                _remove(list(path.iterdir()) if existed else [path])
                raise
        except OSError as error:
            raise RunError(f"{path} cannot be written: {error.strerror}") from error
        return federation

    @classmethod
    def create_with_edges(
        cls, path: Path, edges: int, per_edge: int, hosts: Sequence[str] = (), port: int = PORT
    ) -> FederationDirectory:
        """Create a federation whose nodes are edges, and the federation of each edge.

        Edge e has the clients e, e + ``edges``, e + 2 ``edges`` and so on, as ``edges.groups`` =
        ``edges`` deals them.

        Raises
        ------
        ConfigError, RunError
            As ``create``.
        """
        if per_edge < 1:
            raise ConfigError(f"per-edge must be >= 1, found {per_edge}")
        if edges < 1:
            raise ConfigError(f"edges must be >= 1, found {edges}")
        root = cls.create(path, edges, hosts, port, edges=True)
        try:
            for edge, folder in enumerate(root.edge_paths):
                clients = tuple(range(edge, edges * per_edge, edges))
                parts = {"partitions": clients, "total": edges * per_edge}
                cls.create(folder, per_edge, (), port, **parts)
        except BaseException:
            _remove(list(root.path.iterdir()))
            raise
        return root

    @classmethod
    def load(cls, path: Path) -> FederationDirectory:
        """Read the settings of a federation's directory.

        Raises
        ------
        ConfigError
            If it is not the directory of a federation, or its settings are malformed.
        """
        path = path.resolve()
        try:
            table = tomllib.loads((path / SETTINGS_FILE).read_text(encoding="utf-8"))
            federation = cls(
                path,
                tuple(map(str, table["names"])) if "names" in table else _numbered(table["count"]),
                tuple(map(str, table["hosts"])),
                int(table["port"]),
                bool(table.get("edges", False)),
                tuple(map(int, table.get("partitions", ()))),
                int(table.get("total", 0)),
                int(table.get("groups", 0)),
                tuple(map(str, table.get("remote", ()))),
            )
            federation._check()
        except OSError:
            raise ConfigError(
                f"{path} is no federation: make one with `hqde-fl nodes init {path}`"
            ) from None
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{path / SETTINGS_FILE} is malformed: {error}") from error
        return federation

    def _check(self) -> None:
        for name in self.names:
            check_name(name)
        if len({*self.names}) < self.count or {*self.remote} - {*self.names}:
            raise ConfigError(f"names must differ and hold remote, found {self.names}")
        if not 1 <= self.port <= 65535:
            raise ConfigError(f"port must be in [1, 65535], found {self.port}")
        if not 0 <= self.groups <= self.count:
            raise ConfigError(f"groups must be in [0, {self.count}], found {self.groups}")
        if self.groups and self.edges:
            raise ConfigError(f"groups must be 0 where nodes are edges, found {self.groups}")
        if self.partitions and len(self.partitions) != self.count:
            raise ConfigError(
                f"partitions must be those of {self.count} nodes, found {len(self.partitions)}"
            )

    @property
    def count(self) -> int:
        """The number of nodes."""
        return len(self.names)

    @property
    def authority(self) -> tuple[Path, Path]:
        """The files with the authority's certificate and private key."""
        return self.path / "ca.crt", self.path / "ca.key"

    @property
    def superlink(self) -> Path:
        """The folder for the SuperLink's host."""
        return self.path / "superlink"

    @property
    def state(self) -> Path:
        """The folder that ``nodes up`` writes."""
        return self.path / "state"

    @property
    def home(self) -> Path:
        """``FLWR_HOME`` of the federation's processes on this machine, by which they are found."""
        return self.state / "flwr"

    def cache(self, node: str) -> Path:
        """Return the folder of the cache of model entries of a node on this machine."""
        return self.state / ENTRIES / node

    @property
    def local(self) -> list[str]:
        """The names of the nodes that ``nodes up`` starts on this machine."""
        return [name for name in self.names if name not in self.remote]

    @property
    def edge_paths(self) -> list[Path]:
        """The directories of the edges' federations; none if the nodes are no edges."""
        return [self.path / f"edge-{number}" for number in range(self.count * self.edges)]

    def settings(self, name: str, count: int) -> NodeSettings:
        """Return the settings of a node on this machine, one of ``count`` that are started."""
        number = self.names.index(name)
        edge = FederationDirectory.load(self.edge_paths[number]) if self.edges else None
        return NodeSettings(
            self.cache(name),
            self._partition(number),
            self.total or count,
            None if edge is None else edge.home,
            self._edge_id(number),
        )

    def _partition(self, number: int) -> int | None:
        """Return the partition that a node's own config names; None if the server numbers it."""
        if self.partitions:
            return self.partitions[number]
        return number if self.edges or self.groups else None

    def _edge_id(self, number: int) -> int | None:
        """Return the edge to which a node belongs by its config; None if it names none."""
        return number % self.groups if self.groups else None

    def renew(self, hosts: Sequence[str] = ()) -> FederationDirectory:
        """Replace the SuperLink's private key and certificate; return the federation as it is now.

        The certificate is for further ``hosts``, too.

        Raises
        ------
        ConfigError
            If a host is not valid, or the authority's key is missing or damaged.
        RunError
            If the files cannot be written.
        """
        for host in hosts:
            check_host(host)
        changed = replace(self, hosts=tuple(dict.fromkeys([*self.hosts, *hosts])))
        issue_server(
            self.authority,
            self.superlink / "server.crt",
            self.superlink / "server.key",
            changed.hosts,
        )
        if changed != self:
            changed.write()
        return changed

    @contextmanager
    def locked(self, wait: float = 0.0) -> Iterator[None]:
        """Hold the lock of the directory, so that one command at a time changes it.

        ``RunError`` is raised if another process holds it for ``wait`` seconds.
        """
        busy = RunError(f"another `nodes` command is at work in {self.path}")
        with directory_lock(self.path, busy, wait):  # not in ``state``, which ``down`` deletes
            yield

    def environment(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the environment of the federation's processes on this machine.

        It is made from ``base``, or from this process's environment if that is None.
        """
        return environment_for(self.home, os.environ if base is None else base)

    def connect(self, address: str) -> SuperLink:
        """Write Flower's configuration for the SuperLink at an address; return that SuperLink.

        Nothing is sent to the address.
        """
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        connection = {"address": address, "root-certificates": str(self.superlink / "ca.crt")}
        config = {"superlink": {"default": CONNECTION, CONNECTION: connection}}
        replace_file(self.home / "config.toml", tomli_w.dumps(config).encode())
        return SuperLink(self.home, self.environment())

    def _fill(self) -> None:
        """Write the authority, one folder for each host, and last the settings."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.chmod(0o700)
        make_authority(self.authority[0], self.authority[1])
        self.superlink.mkdir(mode=0o700)
        shutil.copyfile(self.authority[0], self.superlink / "ca.crt")
        self.renew()
        address = address_of(self.hosts[0])
        sixth = address is not None and address.version == 6
        listens = "::" if sixth else "0.0.0.0"
        if {*self.hosts} <= {*LOOPBACK, "::1"}:  # all nodes are on this host
            listens = "::1" if sixth else "127.0.0.1"
        unit = superlink_unit(self.port, listens)
        (self.superlink / "hqde-fl-superlink.service").write_text(unit, encoding="utf-8")
        for name in self.names:
            self.add_folder(name)
        self.write()

    def add_folder(
        self, name: str, *, host: str | None = None, port: int = 0, has_key: bool = True
    ) -> None:
        """Write the folder for the host of a node, and its public key for the SuperLink's host.

        Parameters
        ----------
        name : str
            The name of the node.
        host : str, optional
            The name or address by which this node reaches the SuperLink; the first of ``hosts`` if
            not given.
        port : int, optional
            The SuperLink's port; that of the settings if it is 0.
        has_key : bool, default=True
            False to make no key: it is made at the site.
        """
        folder, number = self.path / name, self.names.index(name)
        folder.mkdir(mode=0o700)
        if has_key:
            make_node_key(folder / "node.key", folder / "node.pub")
            shutil.copyfile(folder / "node.pub", self.superlink / f"{name}.pub")
        shutil.copyfile(self.authority[0], folder / "ca.crt")
        host = self.hosts[0] if host is None else host
        address = address_of(host)
        host = f"[{address}]" if address is not None and address.version == 6 else host
        unit = node_unit(
            f"{host}:{port or self.port}",
            name,
            self._partition(number),
            self.total or self.count,
            edge=self.edges,
            edge_id=self._edge_id(number),
        )
        (folder / "hqde-fl-supernode.service").write_text(unit, encoding="utf-8")
        (folder / ENVIRONMENT_FILE).write_text(site_environment(), encoding="utf-8")

    def write(self) -> None:
        """Write the settings, atomically."""
        table: dict[str, Any] = {"names": self.names, "hosts": self.hosts, "port": self.port}
        if self.remote:
            table["remote"] = self.remote
        if self.edges:
            table["edges"] = True
        if self.groups:
            table["groups"] = self.groups
        if self.partitions:
            table |= {"partitions": self.partitions, "total": self.total}
        replace_file(self.path / SETTINGS_FILE, tomli_w.dumps(table).encode())
        self.write_peers()

    def write_peers(self) -> None:
        """Write the public keys of all nodes into the folder of each, for secure aggregation."""
        keys = [file.read_bytes().strip() for file in sorted(self.superlink.glob("*.pub"))]
        for name in self.names:
            if (folder := self.path / name).is_dir():
                replace_file(folder / PEERS, b"".join(key + b"\n" for key in keys))


def _numbered(count: int) -> tuple[str, ...]:
    """Return the names of nodes that have none of their own."""
    return tuple(f"node-{number}" for number in range(int(count)))


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)  # fails for a file
        with suppress(OSError):
            path.unlink()
