"""Find the SuperLink that the option ``--superlink`` names."""

from __future__ import annotations

import os
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from hqde_fl.errors import ConfigError, UnknownNameError
from hqde_fl.simulations.deploy.federation import FederationDirectory
from hqde_fl.simulations.deploy.nodes import connected, status
from hqde_fl.simulations.engines.flower.superlink import SuperLink
from hqde_fl.simulations.engines.flower_internals import read_flower_config


@dataclass(frozen=True)
class Target:
    """The SuperLink that runs an experiment.

    Parameters
    ----------
    superlink : SuperLink
        The SuperLink.
    connection : str
        Its name in Flower's configuration; empty for the default one.
    """

    superlink: SuperLink
    connection: str = ""


def find(name: str, clients: int | None, edges: int = 0) -> Target:
    """Return the SuperLink of a federation's directory, or one of Flower's own configuration.

    Parameters
    ----------
    name : str
        The path of the directory, or the SuperLink's name in the configuration.
    clients : int, optional
        The experiment's number of clients; None for whoever is registered.
    edges : int, optional
        The number of its edges, if these are nodes; else 0.

    Raises
    ------
    ConfigError
        If the federation is not up or has another number of nodes, or the name is unknown.
    """
    path = Path(name)
    if path.is_dir():
        federation = FederationDirectory.load(path)
        superlink = connected(federation)
        current = status(federation)
        nodes = 0 if current is None else len(current.ids)
        if federation.edges != (edges > 0):
            what = "edges" if federation.edges else "no edges"
            raise ConfigError(
                f"{federation.path} has nodes that are {what}, found an experiment with "
                f"edges.nodes = {str(edges > 0).lower()}"
            )
        if edges and nodes != edges:
            raise ConfigError(
                f"edges.groups = {edges}: {federation.path} has {nodes} edges, one for each "
                f"group is needed (--set edges.groups={nodes})"
            )
        if not edges and clients is not None and nodes != clients:
            raise ConfigError(
                f"clients.count = {clients}: {federation.path} has {nodes} nodes, one for each "
                f"client is needed (--set clients.count={nodes}, or registered)"
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
