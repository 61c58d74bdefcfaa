"""Add sites to a federation, revoke them, and pack what a site needs.

A node's key decides whether it belongs to the federation. ``registered_keys.synchronise`` brings
a SuperLink's list of keys up to date with the directory, while runs go on.
"""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from hqde_fl.errors import ConfigError, RunError, UnknownNameError
from hqde_fl.simulations.deploy.federation import REVOKED, FederationDirectory, check_name
from hqde_fl.simulations.deploy.nodes import status
from hqde_fl.simulations.deploy.registered_keys import ControlAddress, public_key

LOCK_SECONDS = 60.0

CHECK_SCRIPT = """#!/bin/sh
# Checks the node's folder; makes its key if it has none. HQDE_FL names the program.
folder=$(cd "$(dirname "$0")" && pwd)
program=${HQDE_FL:-/opt/hqde-fl/venv/bin/hqde-fl}
if ! command -v "$program" >/dev/null; then
    echo "$program is missing. As root:" >&2
    echo "  python3 -m venv /opt/hqde-fl/venv" >&2
    echo "  /opt/hqde-fl/venv/bin/pip install hqde_fl-*.whl" >&2
    echo "If it is elsewhere: HQDE_FL=/path/to/hqde-fl sh check.sh" >&2
    exit 1
fi
exec "$program" nodes check "$folder" "$@"
"""


def control_of(federation: FederationDirectory, superlink: str = "") -> ControlAddress | None:
    """Return where the federation's SuperLink is controlled.

    It is the SuperLink that Flower's configuration calls ``superlink``, if that is given, or else
    the one on this machine; None if that is not up.
    """
    if superlink:
        return ControlAddress.named(superlink)
    current = status(federation)
    if current is None or not current.running:
        return None
    return ControlAddress(current.address, federation.superlink / "ca.crt")


def add(
    federation: FederationDirectory,
    name: str,
    *,
    host: str | None = None,
    key: Path | None = None,
    key_at_site: bool = False,
    here: bool = False,
    port: int = 0,
) -> FederationDirectory:
    """Add a node to a federation, or the public key of one whose key was made at the site.

    Parameters
    ----------
    federation : FederationDirectory
        The federation.
    name : str
        The node's name.
    host : str, optional
        The name or address by which the node reaches the SuperLink, if it is not the first of the
        federation's. One that is not in the SuperLink's certificate is added to it.
    key : Path, optional
        The node's public key, if it was made at the site.
    key_at_site : bool, default=False
        True to make no key here, as the site makes it.
    here : bool, default=False
        True for a node that ``nodes up`` starts on this machine.
    port : int, optional
        The port of a SuperLink that ``nodes up`` has started; that of the settings if it is 0.

    Returns
    -------
    FederationDirectory
        The federation with the node.

    Raises
    ------
    ConfigError
        If the name is taken or not valid, the host or the key is not valid, or the nodes are edges
        or are dealt among edges.
    RunError
        If the directory cannot be written.
    """
    check_name(name)
    _check_open(federation)
    if key is not None:
        public_key(key)  # refuses what is none
        _check_new(federation, key)
    with _writing(federation):
        if name in federation.names:
            _complete(federation, name, key)
            return federation
        remote = federation.remote if here else (*federation.remote, name)
        federation = replace(federation, names=(*federation.names, name), remote=remote)
        if host is not None and host not in federation.hosts:
            federation = replace(federation.renew([host]), names=federation.names, remote=remote)
        try:
            has_key = key is None and not key_at_site
            federation.add_folder(name, host=host, port=port, has_key=has_key)
            if key is not None:
                _complete(federation, name, key)
            federation.write()
        except BaseException:
            shutil.rmtree(federation.path / name, ignore_errors=True)
            (federation.superlink / f"{name}.pub").unlink(missing_ok=True)
            raise
    return federation


def revoke(federation: FederationDirectory, name: str) -> FederationDirectory:
    """Remove a node from a federation; return the federation without it.

    Its private key is deleted, if it is here. ``synchronise`` then makes the SuperLink refuse it.

    Raises
    ------
    UnknownNameError
        If there is no such node.
    ConfigError
        If the nodes are edges or are dealt among edges.
    """
    _check_open(federation)
    if name not in federation.names:
        raise UnknownNameError("node", name, federation.names)
    with _writing(federation):
        public = federation.superlink / f"{name}.pub"
        if public.exists():
            folder = federation.path / REVOKED
            folder.mkdir(mode=0o700, exist_ok=True)
            earlier = sum(1 for _ in folder.glob(f"{name}.*.pub"))
            public.rename(folder / f"{name}.{earlier}.pub")
        federation = replace(
            federation,
            names=tuple(other for other in federation.names if other != name),
            remote=tuple(other for other in federation.remote if other != name),
        )
        federation.write()
        shutil.rmtree(federation.path / name, ignore_errors=True)
    return federation


def revoked_names(federation: FederationDirectory) -> list[str]:
    """Return the names of nodes that were revoked and not added again, sorted."""
    keys = (federation.path / REVOKED).glob("*.*.pub")
    return sorted({path.name.rsplit(".", 2)[0] for path in keys} - {*federation.names})


def bundle(federation: FederationDirectory, name: str, out: Path | None = None) -> Path:
    """Pack the folder for a node's host, with a script that checks it, and return the archive.

    Parameters
    ----------
    federation : FederationDirectory
        The federation.
    name : str
        The node's name.
    out : Path, optional
        The archive, which only this user can read; ``NAME.tar.gz`` in the federation's directory if
        not given.

    Raises
    ------
    UnknownNameError
        If there is no such node.
    RunError
        If the archive cannot be written.
    """
    if name not in federation.names:
        raise UnknownNameError("node", name, federation.names)
    out = federation.path / f"{name}.tar.gz" if out is None else out
    folder = federation.path / name
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
    files["check.sh"] = CHECK_SCRIPT.encode()
    try:
        out.unlink(missing_ok=True)
        out.touch(mode=0o600)
        with tarfile.open(out, "w:gz") as archive:
            for file, content in {"": b"", **files}.items():
                entry = tarfile.TarInfo(f"{name}/{file}".rstrip("/"))
                entry.mtime = int(folder.stat().st_mtime)
                entry.type = tarfile.REGTYPE if file else tarfile.DIRTYPE
                entry.mode = {"": 0o700, "node.key": 0o600, "check.sh": 0o755}.get(file, 0o644)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    except OSError as error:
        raise RunError(f"{out} cannot be written: {error.strerror}") from error
    return out


def _check_open(federation: FederationDirectory) -> None:
    """Raise ``ConfigError`` if the federation's nodes were numbered when it was made."""
    if federation.edges or federation.groups or federation.partitions:
        raise ConfigError(
            f"{federation.path} has edges, to which its nodes were dealt by `nodes init`: nodes "
            "can join and leave only a federation without edges"
        )


def _check_new(federation: FederationDirectory, key: Path) -> None:
    """Raise ``ConfigError`` if a public key is that of another node, or of a revoked one."""
    known = public_key(key)
    folders: Sequence[Path] = (federation.superlink, federation.path / REVOKED)
    for path in (path for folder in folders for path in sorted(folder.glob("*.pub"))):
        if public_key(path) == known:
            owner = path.name.removesuffix(".pub")
            raise ConfigError(f"{key} is the key of {owner} in {path.parent.name}: make a new one")


def _complete(federation: FederationDirectory, name: str, key: Path | None) -> None:
    """Store the public key of a node that has none yet, or raise ``ConfigError``."""
    public = federation.superlink / f"{name}.pub"
    if key is None or public.exists():
        raise ConfigError(f"{federation.path} has a node {name} already")
    shutil.copyfile(key, federation.path / name / "node.pub")
    shutil.copyfile(key, public)


@contextmanager
def _writing(federation: FederationDirectory) -> Iterator[None]:
    """Hold the lock of a federation's directory, and raise ``RunError`` if it cannot be written."""
    try:
        with federation.locked(LOCK_SECONDS):
            yield
    except OSError as error:
        raise RunError(f"{federation.path} cannot be written: {error.strerror}") from error
