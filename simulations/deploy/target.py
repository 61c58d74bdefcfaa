"""What ``--superlink`` may name."""

from __future__ import annotations

import os
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from hqde_fl.errors import ConfigError, UnknownNameError
from hqde_fl.simulations.deploy.federation import Federation
from hqde_fl.simulations.deploy.nodes import connected, status
from hqde_fl.simulations.engines.flower.superlink import SuperLink
from hqde_fl.simulations.engines.flower_internals import read_flower_config


@dataclass(frozen=True)
class Target:
    """Where a run goes.

    Parameters
    ----------
    superlink : SuperLink
        How ``flwr`` is called.
    connection : str
        The SuperLink's name in Flower's configuration; empty for the default one.
    """

    superlink: SuperLink
    connection: str = ""


def find(name: str, clients: int) -> Target:
    """A federation's directory, or a SuperLink that Flower's own configuration names.

    Parameters
    ----------
    name : str
        Of either.
    clients : int
        How many nodes the experiment counts on.

    Raises
    ------
    ConfigError
        If the federation is not up or has not as many nodes, or there is no such name.
    """
    path = Path(name)
    if path.is_dir():
        federation = Federation.load(path)
        superlink = connected(federation)
        found = status(federation)
        nodes = 0 if found is None else len(found.ids)
        if nodes != clients:
            raise ConfigError(
                f"clients.count = {clients}: {federation.path} has {nodes} nodes, one for each "
                f"client is needed (--set clients.count={nodes})"
            )
        return Target(superlink)
    if os.sep in name or name in (".", ".."):
        raise ConfigError(f"{name} is no directory")
    programs = sysconfig.get_path("scripts")
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([programs, os.environ.get("PATH", os.defpath)]),
        "PYTHONUNBUFFERED": "1",
    }
    known, file = read_flower_config()
    if name not in (connections := known.get("superlink", {})) or name == "default":
        raise UnknownNameError(f"SuperLink in {file}", name, {*connections} - {"default"})
    return Target(SuperLink(file.parent, environment), name)
