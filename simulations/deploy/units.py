"""Command lines of the SuperLink and the SuperNodes, and systemd units that run them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hqde_fl.clients.cache_location import CACHE_DIR
from hqde_fl.clients.node_folder import NODE_FOLDER, PRIVATE_KEY
from hqde_fl.errors import ConfigError
from hqde_fl.protocol.partition_claims import EDGE_ID
from hqde_fl.simulations.edges.edge_home import EDGE_HOME

INSTALLED = "/opt/hqde-fl"
"""Directory of a host in which the units expect the virtual environment ``venv``."""
SETTINGS = "/etc/hqde-fl"
"""Directory of a host in which the units expect the contents of the host's folder."""
EDGE_SETTINGS = "/etc/hqde-fl-edge"
"""The same for an edge, whose host also has the SuperLink of its own nodes in ``SETTINGS``."""
STATE = "/var/lib/hqde-fl"
ENVIRONMENT_FILE = "site.env"
"""Name of the file with a site's own settings, which its unit reads."""
DATA_VARIABLE = "HQDE_FL_DATA"
DATA_PATH = "data-path"
"""Key of a node's config with the path of its data."""
ENTRIES = "entries"
"""Name of the folder with a node's cache of model entries, in its folder of state."""

_UNIT = """[Unit]
Description={description}
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
User=hqde-fl
StateDirectory=hqde-fl
WorkingDirectory={state}
Environment=PATH={installed}/venv/bin:/usr/bin:/bin
Environment=FLWR_HOME={state}/flwr
Environment=FLWR_TELEMETRY_ENABLED=0
Environment=FLWR_DISABLE_UPDATE_CHECK=1
Environment=FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1
ExecStart={installed}/venv/bin/{command}
Restart=always
RestartSec=5
RestartSteps=4
RestartMaxDelaySec=30
KillSignal=SIGTERM
TimeoutStopSec=30
UMask=0077
StateDirectoryMode=0700
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
PrivateTmp=yes
ProtectSystem=strict
ProtectHome=yes
ReadWritePaths={state}
ProtectProc=invisible
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
LockPersonality=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RemoveIPC=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True)
class NodeSettings:
    """The settings of a node.

    Parameters
    ----------
    cache : Path
        The folder of its cache of model entries.
    partition : int, optional
        The id of its partition; the number of the edge, if it is one. If not given, the server
        numbers the node.
    partitions : int, optional
        Number of all partitions, or of all edges; needed with ``partition``.
    edge_home : Path, optional
        The ``FLWR_HOME`` whose default SuperLink is the node's own, if it is an edge.
    edge_id : int, optional
        The edge to which the node belongs.
    data : str, optional
        The path of its data, or the variable that holds it.
    """

    cache: Path
    partition: int | None = None
    partitions: int | None = None
    edge_home: Path | None = None
    edge_id: int | None = None
    data: str = ""

    @property
    def config(self) -> str:
        """The node's config, as ``flower-supernode`` reads it.

        ``ConfigError`` is raised if Flower could not read the name of ``edge_home``.
        """
        text = ""
        if self.partition is not None:
            text += f"partition-id={self.partition} num-partitions={self.partitions}"
        if self.edge_id is not None:
            text += f" {EDGE_ID}={self.edge_id}"
        text += _setting(CACHE_DIR, self.cache)
        if self.data:
            text += _setting(DATA_PATH, Path(self.data))
        if self.edge_home is None:
            return text.strip()
        if not (setting := _setting(EDGE_HOME, self.edge_home)):
            raise ConfigError(
                "Flower cannot read a folder's name with a backslash, both kinds of quotes or "
                f"unprintable characters, found {str(self.edge_home)!r}"
            )
        return text + setting


def superlink_command(folder: Path, database: Path, host: str, port: int) -> list[str]:
    """Return the command line of a SuperLink with TLS, authentication of nodes and a database.

    It reads a renewed certificate without a restart.
    """
    return [
        *("python", "-P", "-m", "hqde_fl.simulations.deploy.superlink_program"),
        *("--ssl-ca-certfile", str(folder / "ca.crt")),
        *("--ssl-certfile", str(folder / "server.crt")),
        *("--ssl-keyfile", str(folder / "server.key")),
        "--enable-supernode-auth",
        *("--isolation", "subprocess"),
        *("--database", str(database)),
        *("--host", host),
        *("--port", str(port)),
    ]


def node_command(folder: Path, superlink: str, port: int, settings: NodeSettings) -> list[str]:
    """Return the command line of a SuperNode, which uses ``port`` on loopback for its processes.

    ``folder`` holds its key. Port 0 stands for a free one.
    """
    config = (settings.config + _setting(NODE_FOLDER, folder)).strip()
    return [
        *("python", "-P", "-m", "hqde_fl.simulations.deploy.supernode_program"),
        *("--superlink", superlink),
        *("--root-certificates", str(folder / "ca.crt")),
        *("--auth-supernode-private-key", str(folder / PRIVATE_KEY)),
        *("--host", "127.0.0.1"),
        *("--port", str(port)),
        *(["--node-config", config] if config else []),
    ]


def _setting(key: str, folder: Path) -> str:
    """Return the setting of a folder; empty if Flower could not read the folder's name."""
    text = str(folder)
    if "\\" in text or not text.isprintable():
        return ""
    for quote in ("'", '"'):
        if quote not in text:
            return f" {key}={quote}{text}{quote}"
    return ""


def superlink_unit(port: int, host: str = "127.0.0.1") -> str:
    """Return the text of the systemd unit of a SuperLink that listens on ``host`` and ``port``."""
    folder, database = Path(SETTINGS), Path(STATE) / "superlink.db"
    return _unit("SuperLink of hqde-fl", superlink_command(folder, database, host, port))


def node_unit(
    superlink: str,
    name: str,
    partition: int | None = None,
    partitions: int | None = None,
    *,
    edge: bool = False,
    edge_id: int | None = None,
) -> str:
    """Return the text of the systemd unit of a node's SuperNode.

    ``superlink`` is the address of the SuperLink. A node whose unit names no partition is numbered
    by the server. An ``edge`` runs beside the SuperLink of its own nodes; ``edge_id`` is that to
    which the node belongs.
    """
    home = Path(STATE) / "edge" if edge else None
    data = f"${{{DATA_VARIABLE}}}"
    settings = NodeSettings(Path(STATE) / ENTRIES, partition, partitions, home, edge_id, data)
    folder = Path(EDGE_SETTINGS if edge else SETTINGS)
    command = node_command(folder, superlink, 0, settings)
    return _unit(f"SuperNode {name} of hqde-fl", command, f"{folder}/{ENVIRONMENT_FILE}")


def site_environment() -> str:
    """Return the text of the file with a site's own settings, which the site changes."""
    return (
        "# The folder with this site's data, which the node's user can read. Tasks find it as\n"
        f'# node_config["{DATA_PATH}"]; restart hqde-fl-supernode after a change.\n'
        f"{DATA_VARIABLE}={STATE}/data\n"
    )


def _unit(description: str, command: list[str], environment_file: str = "") -> str:
    words = [f'"{word}"' if " " in word else word for word in command]
    unit = _UNIT.format(
        description=description, installed=INSTALLED, state=STATE, command=" ".join(words)
    )
    if not environment_file:
        return unit
    return unit.replace("ExecStart=", f"EnvironmentFile={environment_file}\nExecStart=")
