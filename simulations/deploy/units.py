"""Command lines of the SuperLink and the SuperNodes, and systemd units that run them."""

from __future__ import annotations

from pathlib import Path

from hqde_fl.clients.cache_location import CACHE_DIR

INSTALLED = "/opt/hqde-fl"
"""Directory of a host in which the units expect the virtual environment ``venv``."""
SETTINGS = "/etc/hqde-fl"
"""Directory of a host in which the units expect the contents of the host's folder."""
STATE = "/var/lib/hqde-fl"
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
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=strict
ProtectHome=yes
ReadWritePaths={state}

[Install]
WantedBy=multi-user.target
"""


def superlink_command(folder: Path, database: Path, host: str, port: int) -> list[str]:
    """Return the command line of a SuperLink with TLS, authentication of nodes and a database."""
    return [
        "flower-superlink",
        *("--ssl-ca-certfile", str(folder / "ca.crt")),
        *("--ssl-certfile", str(folder / "server.crt")),
        *("--ssl-keyfile", str(folder / "server.key")),
        "--enable-supernode-auth",
        *("--isolation", "subprocess"),
        *("--database", str(database)),
        *("--host", host),
        *("--port", str(port)),
    ]


def node_command(
    folder: Path, superlink: str, port: int, partition: int, partitions: int, cache: Path
) -> list[str]:
    """Return the command line of a SuperNode, which uses ``port`` on loopback for its processes.

    ``folder`` holds its key, and ``cache`` becomes the folder of its cache of model entries.
    """
    config = f"partition-id={partition} num-partitions={partitions}{_cache_setting(cache)}"
    return [
        "flower-supernode",
        *("--superlink", superlink),
        *("--root-certificates", str(folder / "ca.crt")),
        *("--auth-supernode-private-key", str(folder / "node.key")),
        *("--host", "127.0.0.1"),
        *("--port", str(port)),
        *("--node-config", config),
    ]


def _cache_setting(cache: Path) -> str:
    """Return the setting of a node's cache; empty if Flower could not read the folder's name."""
    text = str(cache)
    if "\\" in text or not text.isprintable():
        return ""
    for quote in ("'", '"'):
        if quote not in text:
            return f" {CACHE_DIR}={quote}{text}{quote}"
    return ""


def superlink_unit(port: int, host: str = "127.0.0.1") -> str:
    """Return the text of the systemd unit of a SuperLink that listens on ``host`` and ``port``."""
    folder, database = Path(SETTINGS), Path(STATE) / "superlink.db"
    return _unit("SuperLink of hqde-fl", superlink_command(folder, database, host, port))


def node_unit(superlink: str, partition: int, partitions: int) -> str:
    """Return the text of the systemd unit of a partition's SuperNode.

    ``superlink`` is the address of the SuperLink, ``partitions`` the number of nodes.
    """
    cache = Path(STATE) / ENTRIES
    command = node_command(Path(SETTINGS), superlink, 9095, partition, partitions, cache)
    return _unit(f"SuperNode {partition} of hqde-fl", command)


def _unit(description: str, command: list[str]) -> str:
    words = [f'"{word}"' if " " in word else word for word in command]
    return _UNIT.format(
        description=description, installed=INSTALLED, state=STATE, command=" ".join(words)
    )
