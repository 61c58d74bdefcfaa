"""Check the folder of a node on its own host: key, certificate, connection and data."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import ssl
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_private_key,
)

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.deploy.authority import days_left, make_node_key
from hqde_fl.simulations.deploy.supervisor import healthy
from hqde_fl.simulations.deploy.units import DATA_VARIABLE, ENVIRONMENT_FILE

UNIT = "hqde-fl-supernode.service"
_HIDDEN = {
    "ProtectHome=yes": ("/home", "/root", "/run/user"),
    "PrivateTmp=yes": ("/tmp", "/var/tmp"),
}
"""Settings of the unit -> folders of the host that its processes then do not see."""
_SUPERLINK = re.compile(r"--superlink (\S+)")


@dataclass(frozen=True)
class SiteFinding:
    """The result of one check.

    Parameters
    ----------
    what : str
        The thing that was checked.
    problem : str
        What is wrong and what to do about it; empty if nothing is.
    """

    what: str
    problem: str = ""


def check_site(folder: Path, *, unit: bool = True) -> list[SiteFinding]:
    """Check the folder of a node; without ``unit`` not whether the unit hides its data.

    Raises
    ------
    ConfigError
        If it is not the folder of a node.
    """
    if not (folder / "ca.crt").is_file() or not (folder / UNIT).is_file():
        raise ConfigError(f"{folder} is no folder of a node: it needs ca.crt and {UNIT}")
    checks: dict[str, Callable[[Path], str]] = {
        "programs": _programs,
        "authority": _authority,
        "key": _key,
        "SuperLink": _superlink,
        "data": _data,
    }
    if unit:
        checks["data"] = lambda folder: _data(folder) or _hidden_data(folder)
    return [SiteFinding(what, check(folder)) for what, check in checks.items()]


def make_key(folder: Path) -> bool:
    """Make the key of a node that has none; return True if one was made.

    The private key never leaves the folder; ``node.pub`` is for the federation's operator.
    """
    if (folder / "node.key").exists():
        return False
    make_node_key(folder / "node.key", folder / "node.pub")
    return True


def superlink_of(folder: Path) -> str:
    """Return the address of the SuperLink that the unit in a node's folder names, or ""."""
    match = _SUPERLINK.search((folder / UNIT).read_text(encoding="utf-8"))
    return match[1] if match else ""


def site_settings(folder: Path) -> dict[str, str]:
    """Return the variables that the environment file of a node's folder sets."""
    settings = {}
    path = folder / ENVIRONMENT_FILE
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        name, equals, value = line.strip().partition("=")
        if equals and not name.startswith(("#", ";")):
            settings[name] = " ".join(shlex.split(value))
    return settings


def _programs(folder: Path) -> str:
    scripts = sysconfig.get_path("scripts")
    path = os.pathsep.join([scripts, os.environ.get("PATH", os.defpath)])
    missing = [n for n in ("flower-supernode", "flwr-clientapp") if not shutil.which(n, path=path)]
    return f"{', '.join(missing)} not found: install hqde-fl with its packages" * bool(missing)


def _authority(folder: Path) -> str:
    try:
        left = days_left(folder / "ca.crt")
    except ValueError:
        return "ca.crt is damaged: unpack the bundle again"
    return "" if left >= 0 else f"ca.crt expired {-left} days ago: ask for a new bundle"


def _key(folder: Path) -> str:
    path = folder / "node.key"
    try:
        private = load_ssh_private_key(path.read_bytes(), None)
    except OSError as error:
        return f"node.key cannot be read: {error.strerror}"
    except (ValueError, UnsupportedAlgorithm):
        return "node.key is damaged: unpack the bundle again"
    if path.stat().st_mode & 0o077:
        return f"other users can read node.key: chmod 600 {path}"
    public = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    known = (folder / "node.pub").read_bytes().split()[:2] if (folder / "node.pub").exists() else []
    return "" if known == public.split()[:2] else "node.pub is not the public half of node.key"


def _superlink(folder: Path) -> str:
    address = superlink_of(folder)
    if not address:
        return f"{UNIT} names none"
    if healthy(address, folder / "ca.crt"):
        return ""
    try:
        host, _, port = address.rpartition(":")
        ssl.get_server_certificate((host.strip("[]"), int(port)), timeout=5.0)
    except (OSError, ValueError) as error:
        return f"{address} cannot be reached: {error}"
    return f"{address} answers, but its certificate is not for this name or not of ca.crt"


def _data(folder: Path) -> str:
    path = site_settings(folder).get(DATA_VARIABLE, "")
    if path and not os.access(path, os.R_OK):
        return f"{DATA_VARIABLE}={path} in {ENVIRONMENT_FILE} cannot be read by this user"
    return ""


def _hidden_data(folder: Path) -> str:
    path = site_settings(folder).get(DATA_VARIABLE, "")
    unit = (folder / UNIT).read_text(encoding="utf-8").splitlines()
    for setting, hidden in _HIDDEN.items():
        for top in hidden if path and setting in unit else ():
            if Path(path).resolve().is_relative_to(top):
                return (
                    f"{DATA_VARIABLE}={path} is in {top}, which the unit hides ({setting}): "
                    "put the data elsewhere, for instance in /srv"
                )
    return ""
