"""A federation's directory, and the commands that need no process."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hqde_fl.errors import ConfigError, UnknownNameError
from simulations.cli import app
from simulations.deploy import nodes
from simulations.deploy.federation import Federation
from simulations.deploy.target import find


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return Federation.create(tmp_path / "fed", 2, ["fl.example.org"], port=9443)


def test_each_host_gets_what_it_needs_and_no_more(federation: Federation) -> None:
    found = {
        folder.name: {path.name for path in folder.iterdir()}
        for folder in federation.path.iterdir()
        if folder.is_dir()
    }
    node = {"ca.crt", "node.key", "node.pub", "hqde-fl-supernode.service"}
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


def test_it_is_read_as_it_was_written(federation: Federation) -> None:
    assert Federation.load(federation.path) == federation
    assert federation.hosts == ("fl.example.org", "localhost", "127.0.0.1")


def test_units_name_the_host_the_key_and_the_partition(federation: Federation) -> None:
    unit = (federation.path / "node-1" / "hqde-fl-supernode.service").read_text()
    assert "--superlink fl.example.org:9443 " in unit
    assert '--node-config "partition-id=1 num-partitions=2"' in unit
    assert "Restart=always" in unit
    unit = (federation.superlink / "hqde-fl-superlink.service").read_text()
    assert "--enable-supernode-auth" in unit
    assert "--port 9443" in unit


@pytest.mark.parametrize(
    ("count", "port", "message"),
    [(0, 1, "count must be >= 1, found 0"), (1, 0, r"port must be in \[1, 65535\], found 0")],
)
def test_numbers_out_of_range(tmp_path: Path, count: int, port: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Federation.create(tmp_path / "fed", count, port=port)
    assert not (tmp_path / "fed").exists()


def test_a_directory_with_something_in_it_is_refused(federation: Federation) -> None:
    with pytest.raises(ConfigError, match="is not an empty directory"):
        Federation.create(federation.path, 1)


def test_a_directory_that_is_none_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is no federation: make one with `hqde-fl nodes init"):
        Federation.load(tmp_path)
    (tmp_path / "federation.toml").write_text("count = 'x'")
    with pytest.raises(ConfigError, match="is malformed"):
        Federation.load(tmp_path)


def test_flower_finds_the_superlink_with_the_authoritys_certificate(federation: Federation) -> None:
    link = federation.connect("127.0.0.1:4242")
    config = (federation.home / "config.toml").read_text()
    assert 'address = "127.0.0.1:4242"' in config
    assert json.dumps(str(federation.superlink / "ca.crt")) in config
    assert link.environment["FLWR_HOME"] == str(federation.home)


def test_what_is_not_up_is_said_to_be(federation: Federation) -> None:
    assert nodes.status(federation) is None
    assert not nodes.down(federation)
    with pytest.raises(ConfigError, match="is not up: `hqde-fl nodes up"):
        find(str(federation.path), 2)
    assert CliRunner().invoke(app, ["nodes", "status", str(federation.path)]).exit_code == 1


@pytest.mark.parametrize("count", [0, 3])
def test_only_as_many_nodes_as_keys(federation: Federation, count: int) -> None:
    with pytest.raises(
        ConfigError, match=rf"count must be in \[1, 2\] \(the keys\), found {count}"
    ):
        nodes.up(federation, count)


def test_a_stale_supervisor_is_not_taken_for_a_running_one(federation: Federation) -> None:
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


def test_logs_are_found_by_name(federation: Federation) -> None:
    folder = federation.state / "logs"
    folder.mkdir(parents=True)
    (folder / "node-0.log").write_text("one\n\x1b[92mtwo\x1b[0m\n")
    assert nodes.tail(nodes.logs(federation)["node-0"], 1) == ["two"]
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
