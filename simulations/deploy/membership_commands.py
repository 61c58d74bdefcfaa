"""The commands ``hqde-fl nodes ...`` for sites that join and leave, and for certificates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.console.interruption import interruptible

if TYPE_CHECKING:
    from hqde_fl.simulations.deploy.federation import FederationDirectory

app = typer.Typer()

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The federation's directory.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The name of the site.")]
SuperLinkName = Annotated[
    str,
    typer.Option(
        "--superlink",
        metavar="NAME",
        help="The SuperLink in Flower's configuration; default: the one on this machine.",
    ),
]


@app.command()
def add(
    directory: Directory,
    name: Name,
    host: Annotated[
        str | None,
        typer.Option(help="Name or address by which the site reaches the SuperLink."),
    ] = None,
    public_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The site's public key, made there.")
    ] = None,
    key_at_site: Annotated[
        bool, typer.Option("--key-at-site", help="Make no key: the site makes its own.")
    ] = False,
    here: Annotated[
        bool,
        typer.Option(
            "--here", help="It runs on this machine: `nodes up` starts it, at once if it is up."
        ),
    ] = False,
    superlink: SuperLinkName = "",
) -> None:
    """Add a site: its key, its folder, and its registration at the SuperLink."""
    from hqde_fl.simulations.deploy import membership

    federation = _load(directory)
    if here and (key_at_site or public_key is not None):
        raise ConfigError("--here starts the node with a key of this directory: found another")
    with interruptible():
        running = None if superlink else membership.control_of(federation)
        federation = membership.add(
            federation,
            name,
            host=host,
            key=public_key,
            key_at_site=key_at_site,
            here=here,
            port=0 if running is None else running.port,
        )
        if (federation.superlink / f"{name}.pub").exists():
            typer.echo(f"{name}: added{_synchronised(federation, superlink, [name])}")
        else:
            typer.echo(
                f"{name}: added without a key. The site makes one with the check.sh of its "
                f"bundle; then: hqde-fl nodes add {directory} {name} --public-key node.pub"
            )
    if not here and public_key is None:
        typer.echo(f"its files: hqde-fl nodes bundle {directory} {name}")


@app.command()
def revoke(directory: Directory, name: Name, superlink: SuperLinkName = "") -> None:
    """Remove a site; the SuperLink refuses its next message."""
    from hqde_fl.simulations.deploy import membership
    from hqde_fl.simulations.deploy.federation import REVOKED

    federation = _load(directory)
    with interruptible():
        before = name in membership.revoked_names(federation)
        if not before:
            federation = membership.revoke(federation, name)
        done = "was revoked before; up to date" if before else "revoked"
        typer.echo(f"{name}: {done}{_synchronised(federation, superlink)}")
    if not before:
        typer.echo(
            f"deleted: {federation.path / name}, with its private key if it was here; its public "
            f"key is in {federation.path / REVOKED}"
        )


@app.command()
def register(directory: Directory, superlink: SuperLinkName = "") -> None:
    """Register all keys at the SuperLink, and remove those of revoked sites."""
    federation = _load(directory)
    with interruptible():
        done = _synchronised(federation, superlink, federation.names, fails=True)
        typer.echo(f"{federation.path}{done}")


@app.command()
def bundle(
    directory: Directory,
    name: Name,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The archive; default DIR/NAME.tar.gz.")
    ] = None,
) -> None:
    """Pack what a site needs: key, certificate, unit, settings, a script that checks them."""
    from hqde_fl.simulations.deploy import membership

    federation = _load(directory)
    with interruptible():
        path = membership.bundle(federation, name, out)
    key = "with its private key: send it over a safe channel"
    if not (federation.path / name / "node.key").exists():
        key = "without a private key"
    typer.echo(f"{path}: {key}")


@app.command()
def start(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="An unpacked bundle, or DIR/superlink.")
    ],
    state: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="What it keeps; default FOLDER/state."),
    ] = None,
) -> None:
    """Run what the unit in a folder runs, where there is no systemd, until it is ended."""
    from hqde_fl.simulations.deploy.unit_process import become_unit

    become_unit(folder, folder / "state" if state is None else state)


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The site's own folder.")],
    unit: Annotated[
        bool, typer.Option(help="Whether the unit hides /home, /root and /tmp from the node.")
    ] = True,
) -> None:
    """Check a site's folder on its host; exit status 1 if something is wrong.

    A site that has no key yet makes one.
    """
    from hqde_fl.simulations.deploy.site_check import check_site, make_key

    findings = check_site(folder, unit=unit)
    if make_key(folder):
        typer.echo(f"made node.key; send {folder / 'node.pub'} to the federation's operator")
        findings = check_site(folder, unit=unit)
    for finding in findings:
        typer.echo(f"{'ok' if not finding.problem else 'WRONG':<6} {finding.what}", nl=False)
        typer.echo(f": {finding.problem}" if finding.problem else "")
    if any(finding.problem for finding in findings):
        raise typer.Exit(1)


@app.command()
def renew(
    directory: Directory,
    host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A further name or address; may be repeated."),
    ] = None,
) -> None:
    """Issue a new certificate for the SuperLink, valid from now; it is read while it runs."""
    from hqde_fl.simulations.deploy.authority import valid_until

    federation = _load(directory)
    with interruptible():
        federation = federation.renew(host or ())
    path = federation.superlink / "server.crt"
    typer.echo(
        f"renewed {path} and server.key: valid until {valid_until(path):%Y-%m-%d}, "
        f"{', '.join(federation.hosts)}"
    )
    typer.echo(
        "a SuperLink of `nodes up` has it; on another host copy server.key, then server.crt, into "
        "its folder"
    )


def _load(directory: Path) -> FederationDirectory:
    from hqde_fl.simulations.deploy.federation import FederationDirectory

    return FederationDirectory.load(directory)


def _synchronised(
    federation: FederationDirectory,
    superlink: str,
    names: Sequence[str] = (),
    *,
    fails: bool = False,
) -> str:
    """Bring the SuperLink's list of keys up to date; return what was done for the nodes ``names``.

    ``ConfigError`` is raised with ``fails`` if there is no SuperLink.
    """
    from hqde_fl.simulations.deploy.membership import control_of
    from hqde_fl.simulations.deploy.registered_keys import synchronise

    control = control_of(federation, superlink)
    if control is None:
        hint = "it is not up on this machine; for a SuperLink elsewhere: --superlink NAME"
        if fails:
            raise ConfigError(f"{federation.path}: {hint}")
        return f" in {federation.path}, but not at a SuperLink: {hint}"
    ids = synchronise(federation, control, names)
    registered = ", ".join(f"{name} is node {node}" for name, node in ids.items())
    return f" at the SuperLink {control.address}" + f": {registered}" * bool(registered)
