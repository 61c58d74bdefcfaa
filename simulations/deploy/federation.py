"""A federation's directory: what each host needs, one folder for each, and what runs from it.

::

    DIR/federation.toml     how many nodes, by which names the SuperLink is reached
    DIR/ca.crt, ca.key      the authority; its key is needed to renew certificates, and nowhere else
    DIR/superlink/          for the SuperLink's host: certificate, key, the nodes' public keys
    DIR/node-0/ ...         for a node's host: its key, the authority's certificate
    DIR/state/              of ``nodes up`` on this machine: database, logs, FLWR_HOME, ports
"""

from __future__ import annotations

import json
import os
import shutil
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hqde_fl.errors import ConfigError, RunError
from hqde_fl.simulations.deploy.authority import (
    address_of,
    check_host,
    issue_server,
    make_authority,
    make_node_key,
)
from hqde_fl.simulations.deploy.units import node_unit, superlink_unit
from hqde_fl.simulations.engines.flower.superlink import SuperLink, environment_for
from hqde_fl.simulations.recording.atomic_files import replace_file

PORT = 9092
LOOPBACK = ("localhost", "127.0.0.1")
CONNECTION = "deployment"
"""The name of the SuperLink in the private ``config.toml``."""

_DESCRIPTION = "federation.toml"
_CONFIG = """[superlink]
default = "{name}"

[superlink.{name}]
address = {address}
root-certificates = {root}
"""


@dataclass(frozen=True)
class Federation:
    """A federation's directory.

    Parameters
    ----------
    path : Path
        The directory, absolute.
    count : int
        How many nodes it has keys for.
    hosts : tuple of str
        Names and addresses in the SuperLink's certificate.
    port : int
        Of the SuperLink, on other hosts; ``nodes up`` takes free ports unless told otherwise.
    """

    path: Path
    count: int
    hosts: tuple[str, ...]
    port: int = PORT

    @classmethod
    def create(
        cls, path: Path, count: int, hosts: Sequence[str] = (), port: int = PORT
    ) -> Federation:
        """Make an authority, a server certificate and the nodes' keys in a new directory.

        Raises
        ------
        ConfigError
            If the directory is not empty, a number is out of range, or a host is none.
        RunError
            If it cannot be written; nothing is left of it then.
        """
        names = tuple(dict.fromkeys([*hosts, *LOOPBACK]))
        for name in names:
            check_host(name)
        federation = cls(path.resolve(), count, names, port)
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
    def load(cls, path: Path) -> Federation:
        """Read a federation's directory.

        Raises
        ------
        ConfigError
            If it is none.
        """
        path = path.resolve()
        try:
            found = tomllib.loads((path / _DESCRIPTION).read_text(encoding="utf-8"))
            federation = cls(
                path, int(found["count"]), tuple(map(str, found["hosts"])), int(found["port"])
            )
            federation._check()
        except OSError:
            raise ConfigError(
                f"{path} is no federation: make one with `hqde-fl nodes init {path}`"
            ) from None
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{path / _DESCRIPTION} is malformed: {error}") from error
        return federation

    def _check(self) -> None:
        if self.count < 1:
            raise ConfigError(f"count must be >= 1, found {self.count}")
        if not 1 <= self.port <= 65535:
            raise ConfigError(f"port must be in [1, 65535], found {self.port}")

    @property
    def authority(self) -> tuple[Path, Path]:
        """The authority's certificate and private key."""
        return self.path / "ca.crt", self.path / "ca.key"

    @property
    def superlink(self) -> Path:
        """What the SuperLink's host needs."""
        return self.path / "superlink"

    @property
    def state(self) -> Path:
        """What ``nodes up`` writes."""
        return self.path / "state"

    @property
    def home(self) -> Path:
        """``FLWR_HOME`` of everything that runs from here, and the mark of its processes."""
        return self.state / "flwr"

    @property
    def nodes(self) -> list[str]:
        """The nodes' names."""
        return [f"node-{number}" for number in range(self.count)]

    def renew(self) -> None:
        """Issue a new server certificate. The SuperLink reads it when it starts."""
        issue_server(
            self.authority,
            self.superlink / "server.crt",
            self.superlink / "server.key",
            self.hosts,
        )

    def environment(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment of everything that runs from here."""
        return environment_for(self.home, os.environ if base is None else base)

    def connect(self, address: str) -> SuperLink:
        """The SuperLink at an address, for ``flwr``."""
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        root = json.dumps(str(self.superlink / "ca.crt"))
        text = _CONFIG.format(name=CONNECTION, address=json.dumps(address), root=root)
        replace_file(self.home / "config.toml", text.encode())
        return SuperLink(self.home, self.environment())

    def _fill(self) -> None:
        """The authority, one folder for each host, and last what makes it a federation."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.chmod(0o700)
        make_authority(self.authority[0], self.authority[1])
        self.superlink.mkdir(mode=0o700)
        shutil.copyfile(self.authority[0], self.superlink / "ca.crt")
        self.renew()
        address = address_of(self.hosts[0])
        sixth = address is not None and address.version == 6
        host = f"[{address}]" if sixth else self.hosts[0]
        listens = "::" if sixth else "0.0.0.0"
        if {*self.hosts} <= {*LOOPBACK, "::1"}:  # all nodes are on this host
            listens = "::1" if sixth else "127.0.0.1"
        unit = superlink_unit(self.port, listens)
        (self.superlink / "hqde-fl-superlink.service").write_text(unit, encoding="utf-8")
        for number, name in enumerate(self.nodes):
            folder = self.path / name
            folder.mkdir(mode=0o700)
            make_node_key(folder / "node.key", folder / "node.pub")
            shutil.copyfile(folder / "node.pub", self.superlink / f"{name}.pub")
            shutil.copyfile(self.authority[0], folder / "ca.crt")
            unit = node_unit(f"{host}:{self.port}", number, self.count)
            (folder / "hqde-fl-supernode.service").write_text(unit, encoding="utf-8")
        text = f"count = {self.count}\nhosts = {json.dumps(self.hosts)}\nport = {self.port}\n"
        (self.path / _DESCRIPTION).write_text(text, encoding="utf-8")


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)  # which a file is not
        with suppress(OSError):
            path.unlink()
