"""A federation's directory, and the commands that need no process."""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.common.config import parse_config_args
from typer.testing import CliRunner

from hqde_fl.errors import ConfigError, RunError, UnknownNameError
from hqde_fl.simulations.console.command_line import app
from hqde_fl.simulations.deploy import federation as module
from hqde_fl.simulations.deploy import nodes
from hqde_fl.simulations.deploy.federation import FederationDirectory
from hqde_fl.simulations.deploy.named_superlink import find
from hqde_fl.simulations.deploy.registered_keys import ControlAddress
from hqde_fl.simulations.deploy.units import NodeSettings, node_command


@pytest.fixture
def federation(tmp_path: Path) -> FederationDirectory:
    return FederationDirectory.create(tmp_path / "fed", 2, ["fl.example.org"], port=9443)


def test_each_host_gets_what_it_needs_and_no_more(federation: FederationDirectory) -> None:
    found = {
        folder.name: {path.name for path in folder.iterdir()}
        for folder in federation.path.iterdir()
        if folder.is_dir()
    }
    node = {
        *("ca.crt", "node.key", "node.pub", "peers.pub"),
        *("hqde-fl-supernode.service", "site.env"),
    }
    assert found == {
        "superlink": {
            *("ca.crt", "server.crt", "server.key", "node-0.pub", "node-1.pub"),
            "hqde-fl-superlink.service",
        },
        "node-0": node,
        "node-1": node,
    }
    keys = {path.read_bytes() for path in federation.path.rglob("*.key")}
    assert len(keys) == 4
    for path in [federation.path, *(p for p in federation.path.iterdir() if p.is_dir())]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_it_is_read_as_it_was_written(federation: FederationDirectory) -> None:
    assert FederationDirectory.load(federation.path) == federation
    assert federation.hosts == ("fl.example.org", "localhost", "127.0.0.1")


def test_units_name_the_host_and_the_key_and_no_partition(federation: FederationDirectory) -> None:
    unit = (federation.path / "node-1" / "hqde-fl-supernode.service").read_text()
    assert "--superlink fl.example.org:9443 " in unit
    cache = "cache-dir='/var/lib/hqde-fl/entries'"
    data = "data-path='${HQDE_FL_DATA}' node-folder='/etc/hqde-fl'"
    assert f'--node-config "{cache} {data}"' in unit
    assert "EnvironmentFile=/etc/hqde-fl/site.env" in unit
    assert "SuperNode node-1 of hqde-fl" in unit
    assert "partition" not in unit
    assert "Restart=always" in unit
    unit = (federation.superlink / "hqde-fl-superlink.service").read_text()
    assert "--enable-supernode-auth" in unit
    assert "--host 0.0.0.0 --port 9443" in unit


@pytest.mark.parametrize(
    ("hosts", "listens"),
    [
        ((), "127.0.0.1"),
        (("localhost",), "127.0.0.1"),
        (("::1",), "::1"),
        (("127.0.0.1", "fl.example.org"), "0.0.0.0"),
    ],
)
def test_a_superlink_that_only_its_own_host_calls_listens_on_loopback(
    tmp_path: Path, hosts: tuple[str, ...], listens: str
) -> None:
    made = FederationDirectory.create(tmp_path / "fed", 1, hosts)
    unit = (made.superlink / "hqde-fl-superlink.service").read_text()
    assert f"--host {listens} --port 9092" in unit


def test_units_put_an_ipv6_address_in_brackets(tmp_path: Path) -> None:
    made = FederationDirectory.create(tmp_path / "fed", 1, ["2001:db8::7"])
    unit = (made.path / "node-0" / "hqde-fl-supernode.service").read_text()
    assert "--superlink [2001:db8::7]:9092 " in unit
    unit = (made.superlink / "hqde-fl-superlink.service").read_text()
    assert "--host :: --port 9092" in unit


@pytest.mark.parametrize(
    "host",
    [
        pytest.param("", id="empty"),
        pytest.param("https://x.org", id="scheme"),
        pytest.param("x.org:9092", id="port"),
        pytest.param("[::1]", id="brackets"),
        pytest.param("m\u00fcnchen.example", id="not-ascii"),
        pytest.param("a" * 64, id="label-too-long"),
        pytest.param(".".join(["a" * 60] * 5), id="name-too-long"),
        pytest.param("x..org", id="empty-label"),
        pytest.param("999.0.0.1", id="no-address"),
        pytest.param("fe80::1%eth0", id="scoped"),
        pytest.param("x.org\n", id="newline"),
    ],
)
def test_hosts_are_names_or_addresses(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigError, match=r"host must be a name .* found ") as caught:
        FederationDirectory.create(tmp_path / "fed", 1, [host])
    assert repr(host) in str(caught.value)
    assert not (tmp_path / "fed").exists()


@pytest.mark.parametrize("existed", [False, True], ids=["new", "empty"])
def test_what_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existed: bool
) -> None:
    def full(*paths: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "make_node_key", full)
    path = tmp_path / "fed"
    if existed:
        path.mkdir()
    with pytest.raises(RunError, match=r"fed cannot be written: No space left on device"):
        FederationDirectory.create(path, 1)
    assert list(tmp_path.rglob("*")) == [path] * existed


def test_a_directory_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"fed cannot be written: Not a directory"):
        FederationDirectory.create(tmp_path / "file" / "fed", 1)


@pytest.mark.parametrize(
    ("count", "port", "message"),
    [(-1, 1, "count must be >= 0, found -1"), (1, 0, r"port must be in \[1, 65535\], found 0")],
)
def test_numbers_out_of_range(tmp_path: Path, count: int, port: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FederationDirectory.create(tmp_path / "fed", count, port=port)
    assert not (tmp_path / "fed").exists()


def test_a_directory_with_something_in_it_is_refused(federation: FederationDirectory) -> None:
    with pytest.raises(ConfigError, match="is not an empty directory"):
        FederationDirectory.create(federation.path, 1)


def test_a_directory_that_is_none_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is no federation: make one with `hqde-fl nodes init"):
        FederationDirectory.load(tmp_path)
    (tmp_path / "federation.toml").write_text("count = 'x'")
    with pytest.raises(ConfigError, match="is malformed"):
        FederationDirectory.load(tmp_path)
    (tmp_path / "federation.toml").write_text("count = 1\nhosts = ['x']\nport = 0")
    with pytest.raises(ConfigError, match=r"is malformed: port must be in \[1"):
        FederationDirectory.load(tmp_path)


def test_flower_finds_the_superlink_with_the_authoritys_certificate(
    federation: FederationDirectory,
) -> None:
    link = federation.connect("127.0.0.1:4242")
    config = (federation.home / "config.toml").read_text()
    assert 'address = "127.0.0.1:4242"' in config
    assert json.dumps(str(federation.superlink / "ca.crt")) in config
    assert link.environment["FLWR_HOME"] == str(federation.home)


def test_what_is_not_up_is_said_to_be(federation: FederationDirectory) -> None:
    assert nodes.status(federation) is None
    assert not nodes.down(federation)
    with pytest.raises(ConfigError, match="is not up: `hqde-fl nodes up"):
        find(str(federation.path), 2)
    assert CliRunner().invoke(app, ["nodes", "status", str(federation.path)]).exit_code == 1


@pytest.mark.parametrize("count", [0, 3])
def test_only_as_many_nodes_as_keys(federation: FederationDirectory, count: int) -> None:
    with pytest.raises(
        ConfigError, match=rf"count must be in \[1, 2\] \(the keys\), found {count}"
    ):
        nodes.up(federation, count)


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_out_of_range_changes_nothing(federation: FederationDirectory, port: int) -> None:
    with pytest.raises(ConfigError, match=rf"port must be in \[0, 65535\], .* found {port}"):
        nodes.up(federation, port=port)
    assert not federation.state.exists()


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param("", id="empty"),
        pytest.param("[4242", id="torn"),
        pytest.param("null", id="no-list"),
        pytest.param('["x", 1]', id="no-number"),
        pytest.param("[99999, -1]", id="out-of-range"),
    ],
)
def test_damaged_ports_are_chosen_anew(federation: FederationDirectory, stored: str) -> None:
    federation.state.mkdir()
    path = federation.state / "ports.json"
    path.write_text(stored)
    nodes._choose_ports(federation, 2, 0)
    ports = json.loads(path.read_text())
    assert len(set(ports)) == 3
    assert all(1 <= port <= 65535 for port in ports)


def test_a_state_that_cannot_be_written(federation: FederationDirectory) -> None:
    federation.state.touch()
    with pytest.raises(RunError, match="state cannot be written: File exists"):
        nodes.up(federation)


@pytest.mark.parametrize("command", [nodes.up, nodes.down], ids=["up", "down"])
def test_one_at_a_time(
    federation: FederationDirectory, command: Callable[[FederationDirectory], object]
) -> None:
    with (
        federation.locked(),
        pytest.raises(RunError, match=r"another `nodes` command is at work in .*fed"),
    ):
        command(federation)
    assert not nodes.down(federation)


def test_a_stale_supervisor_is_not_taken_for_a_running_one(federation: FederationDirectory) -> None:
    federation.state.mkdir()
    stale = {"supervisor": 1, "address": "x", "processes": [], "ids": {}, "error": None}
    (federation.state / "status.json").write_text(json.dumps(stale))
    found = nodes.status(federation)
    assert found is not None
    assert not found.running


def test_a_name_that_is_no_directory_is_flowers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    connections = '[superlink]\ndefault = "production"\n[superlink.production]\n'
    (tmp_path / "config.toml").write_text(f'{connections}address = "host:9093"\n')
    target = find("production", 4)
    assert (target.connection, target.superlink.home) == ("production", tmp_path)
    for wrong in ("prodution", "default"):
        with pytest.raises(UnknownNameError, match=rf"unknown SuperLink in .*toml '{wrong}'"):
            find(wrong, 4)
    with pytest.raises(ConfigError, match="is no directory"):
        find(str(tmp_path / "nothing"), 4)


def test_logs_are_found_by_name(federation: FederationDirectory) -> None:
    folder = federation.state / "logs"
    for name in (None, "superlink"):
        with pytest.raises(ConfigError, match="no logs yet: `hqde-fl nodes up "):
            nodes.logs(federation, name)
    folder.mkdir(parents=True)
    (folder / "node-0.log").write_text("one\n\x1b[92mtwo\x1b[0m\n")
    assert nodes.tail(nodes.logs(federation)["node-0"], 1) == ["two"]
    with pytest.raises(ConfigError, match="lines must be >= 0, found -3"):
        nodes.tail(nodes.logs(federation)["node-0"], -3)
    with pytest.raises(UnknownNameError, match=r"unknown process 'node-1': did you mean 'node-0'"):
        nodes.logs(federation, "node-1")
    shown = CliRunner().invoke(app, ["nodes", "logs", str(federation.path)]).stdout
    assert "node-0.log\none\ntwo\n" in shown


def test_the_commands_say_what_they_did(tmp_path: Path) -> None:
    run, directory = CliRunner(), str(tmp_path / "made")
    made = run.invoke(app, ["nodes", "init", directory, "--count", "1", "--host", "a.example"])
    assert made.exit_code == 0
    assert "a certificate for a.example, localhost, 127.0.0.1 and 1 node keys" in made.stdout
    before = (tmp_path / "made" / "superlink" / "server.crt").read_bytes()
    assert "valid until 20" in run.invoke(app, ["nodes", "renew", directory]).stdout
    assert (tmp_path / "made" / "superlink" / "server.crt").read_bytes() != before
    again = run.invoke(app, ["nodes", "init", directory])
    assert again.exit_code == 2


@pytest.mark.parametrize("name", ["plain", "with a space", "it's", 'a "b"', "ünï"])
def test_flower_reads_the_folder_of_a_nodes_cache(name: str) -> None:
    folder = Path("/srv") / name
    command = node_command(folder, "host:1", 2, NodeSettings(folder, 3, 4))
    config = parse_config_args([command[-1]])
    assert config == {
        "partition-id": 3,
        "num-partitions": 4,
        "cache-dir": str(folder),
        "node-folder": str(folder),
    }


@pytest.mark.parametrize("name", ["both ' and \"", "back\\slash", "line\nbreak"])
def test_a_folder_that_flower_cannot_read_is_no_cache(name: str) -> None:
    folder = Path("/srv") / name
    command = node_command(folder, "host:1", 2, NodeSettings(folder, 3, 4))
    assert parse_config_args([command[-1]]) == {"partition-id": 3, "num-partitions": 4}


def test_an_edge_has_a_federation_of_its_own(tmp_path: Path) -> None:
    made = CliRunner().invoke(
        app, ["nodes", "init", str(tmp_path / "fed"), "--edges", "2", "--per-edge", "3"]
    )
    assert "and 2 keys of edges, with 3 node keys each" in made.stdout
    root = FederationDirectory.load(tmp_path / "fed")
    assert (root.count, root.edges) == (2, True)
    edges = [FederationDirectory.load(path) for path in root.edge_paths]
    assert [edge.partitions for edge in edges] == [(0, 2, 4), (1, 3, 5)]
    told = parse_config_args([root.settings("node-1", 2).config])
    assert told["edge-home"] == str(edges[1].home)
    assert (told["partition-id"], told["num-partitions"]) == (1, 2)
    told = parse_config_args([edges[1].settings("node-2", 3).config])
    assert (told["partition-id"], told["num-partitions"]) == (5, 6)
    assert "edge-home" not in told
    unit = (root.path / "node-0" / "hqde-fl-supernode.service").read_text()
    assert "edge-home='/var/lib/hqde-fl/edge'" in unit
    assert "/etc/hqde-fl-edge/node.key" in unit


def test_nodes_are_told_the_edge_to_which_they_belong(tmp_path: Path) -> None:
    run = CliRunner()
    made = run.invoke(
        app, ["nodes", "init", str(tmp_path / "fed"), "--count", "3", "--groups", "2"]
    )
    assert made.exit_code == 0, made.output
    federation = FederationDirectory.load(tmp_path / "fed")
    told = [parse_config_args([federation.settings(n, 3).config]) for n in federation.names]
    assert [config["edge-id"] for config in told] == [0, 1, 0]
    unit = (federation.path / "node-1" / "hqde-fl-supernode.service").read_text()
    assert "num-partitions=3 edge-id=1 " in unit
    for wrong in (["--groups", "5"], ["--groups", "-1"], ["--groups", "1", "--edges", "2"]):
        refused = run.invoke(app, ["nodes", "init", str(tmp_path / "other"), *wrong])
        assert refused.exit_code == 2
        assert "groups" in refused.output
        assert not (tmp_path / "other").exists()


def test_an_edge_without_nodes_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="per-edge must be >= 1, found 0"):
        FederationDirectory.create_with_edges(tmp_path / "fed", 2, 0)
    assert not (tmp_path / "fed").exists()


def test_an_edges_home_that_flower_cannot_read_is_refused() -> None:
    with pytest.raises(ConfigError, match="Flower cannot read"):
        _ = NodeSettings(Path("/srv"), 0, 1, Path("/srv/back\\slash")).config


@pytest.mark.parametrize(("edges", "message"), [(0, "that are edges"), (3, "edges.groups = 3")])
def test_an_experiment_and_its_federation_agree_on_edges(
    tmp_path: Path, edges: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = FederationDirectory.create_with_edges(tmp_path / "fed", 2, 1)
    report = nodes.Status(True, 1, "", (), {"node-0": 1, "node-1": 2})
    monkeypatch.setattr("hqde_fl.simulations.deploy.named_superlink.status", lambda _: report)
    monkeypatch.setattr("hqde_fl.simulations.deploy.named_superlink.connected", lambda _: None)
    with pytest.raises(ConfigError, match=message):
        find(str(root.path), 2, edges)


def test_a_port_that_is_taken_is_named_before_anything_starts(
    federation: FederationDirectory,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RunError, match=f"port {port} is in use on 127.0.0.1: choose another"):
            nodes.up(federation, port=port)
    assert not federation.state.exists()


def test_no_proxy_is_asked_for_a_superlink_on_loopback(
    federation: FederationDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "example.org")
    with socket.create_server(("127.0.0.1", 0)) as proxy, socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # it listens to nobody
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        before = dict(os.environ)
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(RunError, match=r"the SuperLink does not list its nodes: .*refused"):
            ControlAddress(address, federation.superlink / "ca.crt").nodes()
        proxy.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody has connected
            proxy.accept()
    assert dict(os.environ) == before


def test_every_node_has_the_public_keys_of_all(tmp_path: Path) -> None:
    """They are those of the members: an added node is among them, a revoked one is not."""
    made = FederationDirectory.create(tmp_path / "fed", 3)
    peers = [(made.path / name / "peers.pub").read_bytes() for name in made.names]
    keys = [file.read_bytes().strip() for file in sorted(made.superlink.glob("*.pub"))]
    assert set(peers) == {b"".join(key + b"\n" for key in keys)}
    run, directory = CliRunner(), str(made.path)
    assert run.invoke(app, ["nodes", "add", directory, "fourth"]).exit_code == 0
    for name in (*made.names, "fourth"):
        lines = (made.path / name / "peers.pub").read_bytes().splitlines()
        assert len(lines) == 4
    assert run.invoke(app, ["nodes", "revoke", directory, "node-1"]).exit_code == 0
    assert len((made.path / "node-0" / "peers.pub").read_bytes().splitlines()) == 3
