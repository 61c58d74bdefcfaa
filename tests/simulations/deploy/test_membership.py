"""Sites join and leave a federation's directory, and get what they need."""

from __future__ import annotations

import stat
import tarfile
from pathlib import Path

import pytest
from cryptography import x509
from typer.testing import CliRunner

from hqde_fl.errors import ConfigError, UnknownNameError
from hqde_fl.simulations.console.command_line import app
from hqde_fl.simulations.deploy import membership, nodes
from hqde_fl.simulations.deploy.authority import days_left, make_node_key
from hqde_fl.simulations.deploy.federation import FederationDirectory
from hqde_fl.simulations.deploy.registered_keys import ControlAddress
from hqde_fl.simulations.deploy.site_check import check_site, make_key


@pytest.fixture
def federation(tmp_path: Path) -> FederationDirectory:
    return FederationDirectory.create(tmp_path / "fed", 0, ["fl.example.org"])


def problems(folder: Path) -> dict[str, str]:
    return {f.what: f.problem for f in check_site(folder) if f.problem}


def test_sites_join_and_leave(federation: FederationDirectory) -> None:
    federation = membership.add(federation, "clinic")
    federation = membership.add(federation, "factory", here=True)
    assert FederationDirectory.load(federation.path) == federation
    assert (federation.names, federation.local) == (("clinic", "factory"), ["factory"])
    key = (federation.superlink / "clinic.pub").read_bytes()
    federation = membership.revoke(federation, "clinic")
    assert FederationDirectory.load(federation.path).names == ("factory",)
    assert not (federation.path / "clinic").exists()
    assert not (federation.superlink / "clinic.pub").exists()
    assert (federation.path / "revoked" / "clinic.0.pub").read_bytes() == key
    federation = membership.add(federation, "clinic")
    federation = membership.revoke(federation, "clinic")
    assert len([*(federation.path / "revoked").iterdir()]) == 2
    with pytest.raises(UnknownNameError, match="unknown node 'clinic'"):
        membership.revoke(federation, "clinic")


@pytest.mark.parametrize(
    "name", ["", "A", "a b", "../x", "-a", "a-", "superlink", "state", "edge-1", "ä", "a" * 64]
)
def test_a_name_that_is_none_is_refused(federation: FederationDirectory, name: str) -> None:
    with pytest.raises(ConfigError, match="a node's name must have 1 to 63 characters"):
        membership.add(federation, name)
    assert FederationDirectory.load(federation.path) == federation


def test_the_private_key_can_stay_at_the_site(
    federation: FederationDirectory, tmp_path: Path
) -> None:
    federation = membership.add(federation, "clinic", key_at_site=True)
    assert not list(federation.path.rglob("node.key"))
    site = tmp_path / "site"
    with tarfile.open(membership.bundle(federation, "clinic")) as archive:
        archive.extractall(site, filter="data")
    assert make_key(site / "clinic")
    assert not make_key(site / "clinic")
    assert "key" not in problems(site / "clinic")
    public = site / "clinic" / "node.pub"
    federation = membership.add(federation, "clinic", key=public)
    assert (federation.superlink / "clinic.pub").read_bytes() == public.read_bytes()
    with pytest.raises(ConfigError, match="has a node clinic already"):
        membership.add(federation, "clinic", key=None)
    with pytest.raises(ConfigError, match=r"is the key of clinic in superlink: make a new one"):
        membership.add(federation, "other", key=public)
    membership.revoke(federation, "clinic")
    with pytest.raises(ConfigError, match=r"is the key of clinic.0 in revoked"):
        membership.add(FederationDirectory.load(federation.path), "other", key=public)


def test_what_is_no_public_key_is_refused(federation: FederationDirectory, tmp_path: Path) -> None:
    file = tmp_path / "some.pub"
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        membership.add(federation, "clinic", key=file)
    file.write_text("ssh-rsa nothing")
    with pytest.raises(ConfigError, match="is no public key in OpenSSH's format"):
        membership.add(federation, "clinic", key=file)
    assert FederationDirectory.load(federation.path) == federation


def test_a_bundle_has_all_that_a_site_needs_and_only_this_user_reads_it(
    federation: FederationDirectory, tmp_path: Path
) -> None:
    federation = membership.add(federation, "clinic", host="fl2.example.org")
    path = membership.bundle(federation, "clinic", tmp_path / "b.tar.gz")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with tarfile.open(path) as archive:
        modes = {entry.name: entry.mode for entry in archive}
        unit = archive.extractfile("clinic/hqde-fl-supernode.service")
        assert unit is not None
        assert b"--superlink fl2.example.org:9092 " in unit.read()
    assert modes == {
        "clinic": 0o700,
        "clinic/node.key": 0o600,
        "clinic/check.sh": 0o755,
        **{
            f"clinic/{name}": 0o644
            for name in ("ca.crt", "node.pub", "peers.pub", "site.env", "hqde-fl-supernode.service")
        },
    }
    with pytest.raises(UnknownNameError, match="unknown node 'clinics': did you mean 'clinic'"):
        membership.bundle(federation, "clinics")


def test_a_further_host_is_in_the_certificate(federation: FederationDirectory) -> None:
    membership.add(federation, "clinic", host="10.1.2.3")
    loaded = FederationDirectory.load(federation.path)
    assert (loaded.hosts[-1], loaded.names) == ("10.1.2.3", ("clinic",))
    loaded = loaded.renew(["fl3.example.org"])
    server = x509.load_pem_x509_certificate((loaded.superlink / "server.crt").read_bytes())
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == [*loaded.hosts]
    assert days_left(loaded.superlink / "server.crt") == 396
    with pytest.raises(ConfigError, match="host must be a name"):
        loaded.renew(["https://x"])


def test_edges_have_the_nodes_that_they_were_made_with(tmp_path: Path) -> None:
    made = FederationDirectory.create(tmp_path / "groups", 2, groups=2)
    with pytest.raises(ConfigError, match="nodes can join and leave only a federation without"):
        membership.add(made, "clinic")
    with pytest.raises(ConfigError, match="nodes can join and leave only a federation without"):
        membership.revoke(made, "node-0")


def test_a_site_is_told_what_is_wrong(federation: FederationDirectory) -> None:
    federation = membership.add(federation, "clinic", host="127.0.0.1")
    folder = federation.path / "clinic"
    unit = folder / "hqde-fl-supernode.service"
    unit.write_text(unit.read_text().replace(":9092", ":1"))
    (folder / "site.env").write_text("HQDE_FL_DATA=/nothing/there\n")
    found = problems(folder)
    assert found["SuperLink"].startswith("127.0.0.1:1 cannot be reached")
    assert "HQDE_FL_DATA=/nothing/there in site.env" in found["data"]
    for hidden, setting in {"/tmp": "PrivateTmp=yes", "/home": "ProtectHome=yes"}.items():
        (folder / "site.env").write_text(f"HQDE_FL_DATA={hidden}\n")
        assert f"is in {hidden}, which the unit hides ({setting})" in problems(folder)["data"]
        assert next(f.problem for f in check_site(folder, unit=False) if f.what == "data") == ""
    assert not {"key", "authority", "programs"} & found.keys()
    (folder / "node.key").chmod(0o640)
    assert "other users can read node.key" in problems(folder)["key"]
    (folder / "node.key").unlink()
    make_node_key(folder / "node.key", folder / "other.pub")
    assert "not the public half" in problems(folder)["key"]
    (folder / "node.key").write_text("x")
    assert "node.key is damaged" in problems(folder)["key"]
    with pytest.raises(ConfigError, match="is no folder of a node"):
        check_site(federation.path)


def test_names_of_revoked_nodes_that_are_not_back(federation: FederationDirectory) -> None:
    for name in ("clinic", "factory"):
        federation = membership.add(federation, name)
        federation = membership.revoke(federation, name)
    assert membership.revoked_names(federation) == ["clinic", "factory"]
    federation = membership.add(federation, "clinic")
    assert membership.revoked_names(federation) == ["factory"]


def test_a_directory_is_no_name_of_a_superlink(federation: FederationDirectory) -> None:
    with pytest.raises(ConfigError, match="found a directory"):
        ControlAddress.named(str(federation.path))


def test_the_commands_say_what_to_do_next(federation: FederationDirectory) -> None:
    run, directory = CliRunner(), str(federation.path)
    said = run.invoke(app, ["nodes", "add", directory, "clinic"]).stdout
    assert "not at a SuperLink: it is not up on this machine" in said
    assert f"hqde-fl nodes bundle {directory} clinic" in said
    said = run.invoke(app, ["nodes", "add", directory, "ward", "--key-at-site"]).stdout
    assert "--public-key node.pub" in said
    assert (
        "with its private key" in run.invoke(app, ["nodes", "bundle", directory, "clinic"]).stdout
    )
    assert "without a private" in run.invoke(app, ["nodes", "bundle", directory, "ward"]).stdout
    said = run.invoke(app, ["nodes", "revoke", directory, "clinic"]).stdout
    assert "clinic: revoked" in said
    assert f"its public key is in {Path(directory).resolve() / 'revoked'}" in said
    again = run.invoke(app, ["nodes", "revoke", directory, "clinic"])
    assert again.exit_code == 0
    refused = run.invoke(app, ["nodes", "register", directory])
    assert refused.exit_code == 2
    refused = run.invoke(app, ["nodes", "add", directory, "x", "--here", "--key-at-site"])
    assert refused.exit_code == 2
    assert nodes.status(federation) is None
