"""A federation over hosts that share nothing but the wire, by the commands of ``docs/deploy.md``.

The operator's desk holds the authority and submits; the SuperLink and the sites are other hosts.
Each has its own root directory, user and network (see ``tests.deployment.hosts``).
"""

from __future__ import annotations

import io
import json
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.deployment.hosts import HOME, Host, can_make_hosts, network

pytestmark = [
    pytest.mark.deployment,
    pytest.mark.skipif(not can_make_hosts(), reason="needs root and namespaces"),
]

PATIENCE = 1800.0
"""Maximum time to wait for anything."""
SITES = ("clinic", "factory", "ward")
SUPERLINK = "10.77.0.1"
MODEL = '''
"""The operator's own model, and data that only the sites have."""

import numpy as np
import torch
from helper import loss
from torch import nn
from torch.utils.data import TensorDataset

from hqde_fl.clients.task import Task


def task(partitions, seed, partition):
    def data(name):
        def load(number, count, node_config):
            table = np.load(f"{node_config['data-path']}/{name}.npy").astype("float32")
            return TensorDataset(torch.from_numpy(table[:, :2]), torch.from_numpy(table[:, 2:]))

        return load

    return Task(
        model=lambda: nn.Linear(2, 1),
        partition=data("train"),
        evaluation=data("held-out"),
        loss=loss,
        metrics={},
        classifier=False,
    )
'''
HELPER = "from torch.nn.functional import mse_loss as loss\n"
EXPERIMENT = """
name = "own"
rounds = 2
task = {name = "model.py:task"}
[clients]
count = "registered"
epochs = 5
lr = 0.1
batch-size = 16
[strategy]
deadline = 300.0
[engine]
name = "flower"
"""


def wait_until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.2)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Host]]:
    """Hosts; the SuperLink is up, and no site has joined."""
    with network(tmp_path_factory.mktemp("hosts"), ["superlink", "desk", *SITES]) as made:
        desk, server = made["desk"], made["superlink"]
        desk.shell(f"hqde-fl nodes init fed --count 0 --host {SUPERLINK}")
        for file in ("ca.crt", "server.crt", "server.key", "hqde-fl-superlink.service"):
            server.write(f"/etc/hqde-fl/{file}", desk.read(f"{HOME}/fed/superlink/{file}"))
        server.start_unit("/etc/hqde-fl/hqde-fl-superlink.service")
        wait_until(lambda: "Uvicorn running" in server.log(), "the SuperLink is up")
        desk.write(
            f"{HOME}/.flwr/config.toml",
            f'[superlink.production]\naddress = "{SUPERLINK}:9092"\n'
            f'root-certificates = "{HOME}/fed/superlink/ca.crt"\n',
        )
        desk.write(f"{HOME}/study/own.toml", EXPERIMENT)
        desk.write(f"{HOME}/study/model.py", MODEL)
        desk.write(f"{HOME}/study/helper.py", HELPER)
        yield made


def give_data(site: Host, seed: int) -> None:
    """Write a site's own data, of y = 2 a - b + 1, to its disk."""
    rng = np.random.default_rng(seed)
    for name, size in (("train", 64), ("held-out", 32)):
        x = rng.normal(size=(size, 2))
        table = np.column_stack([x, x @ [2.0, -1.0] + 1.0])
        buffer = io.BytesIO()
        np.save(buffer, table)
        site.write(f"/srv/data/{name}.npy", buffer.getvalue())


def join(hosts: dict[str, Host], name: str, *, key_at_site: bool = False) -> str:
    """Add a site from nothing, by the documented commands, and start its unit; return its id."""
    desk, site = hosts["desk"], hosts[name]
    give_data(site, len(name))
    option = "--key-at-site" if key_at_site else "--superlink production"
    said = desk.shell(f"hqde-fl nodes add fed {name} {option}")
    desk.shell(f"hqde-fl nodes bundle fed {name} --out {name}.tar.gz")
    site.write(f"{HOME}/{name}.tar.gz", desk.read(f"{HOME}/{name}.tar.gz"))
    site.shell(f"tar xzf {name}.tar.gz --strip-components 1 -C /etc/hqde-fl")
    site.shell("sed -i s,^HQDE_FL_DATA=.*,HQDE_FL_DATA=/srv/data, /etc/hqde-fl/site.env")
    checked = site.shell("sh /etc/hqde-fl/check.sh")
    assert "WRONG" not in checked
    if key_at_site:
        assert "made node.key; send /etc/hqde-fl/node.pub" in checked
        assert not desk.outside(f"{HOME}/fed/{name}/node.key").exists()
        desk.write(f"{HOME}/node.pub", site.read("/etc/hqde-fl/node.pub"))
        said = desk.shell(
            f"hqde-fl nodes add fed {name} --public-key node.pub --superlink production"
        )
    site.start_unit("/etc/hqde-fl/hqde-fl-supernode.service")
    return said.partition(" is node ")[2].split()[0]


def has_signed_on(site: Host) -> bool:
    """Return True once the site's SuperNode says which node it is."""
    return "SuperNode ID" in site.log()


def status_of(hosts: dict[str, Host], node: str) -> str:
    listed = hosts["desk"].shell("flwr supernode list production --format json")
    nodes = json.loads(listed[listed.index("{") :])["nodes"]
    return next((str(n["status"]) for n in nodes if str(n["node-id"]) == node), "unknown")


def runs_of(server: Host) -> list[Path]:
    return sorted(server.outside("/var/lib/hqde-fl").glob("runs/[!.]*"))


def rounds_of(run: Path) -> list[dict[str, Any]]:
    path = run / "rounds.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def nodes(hosts: dict[str, Host]) -> dict[str, str]:
    """Two sites that have joined: one with a key from the desk, one with a key of its own."""
    ids = {"clinic": join(hosts, "clinic"), "factory": join(hosts, "factory", key_at_site=True)}
    for name, node in ids.items():
        wait_until(partial(has_signed_on, hosts[name]), f"{name} has signed on")
        assert status_of(hosts, node) == "online"
    return ids


def test_an_own_model_learns_from_data_that_only_the_sites_have(
    hosts: dict[str, Host], nodes: dict[str, str]
) -> None:
    """The module travels with the run; the SuperLink has no data and no PYTHONPATH."""
    desk, server = hosts["desk"], hosts["superlink"]
    desk.shell("cd study && hqde-fl run own.toml --superlink production")
    (run,) = runs_of(server)
    rounds = rounds_of(run)
    assert [line["kept"] for line in rounds[1:]] == [2, 2]
    losses = [line["clients-evaluate"]["eval-loss"] for line in rounds[1:]]
    assert losses[1] < losses[0] < 5.0
    assert all(line["server"] == {} for line in rounds)
    known = json.loads((run / "nodes.json").read_text())
    assert {n: (e["name"], e["node-id"]) for n, e in known.items()} == {
        "0": ("clinic", nodes["clinic"]),
        "1": ("factory", nodes["factory"]),
    }
    files = [p for name in ("superlink", "desk") for p in hosts[name].path.rglob("*.npy")]
    assert files == []


def test_a_run_survives_a_site_that_joins_and_one_that_is_revoked(
    hosts: dict[str, Host], nodes: dict[str, str]
) -> None:
    """A site from nothing is in a later round; a live one is refused with its next message."""
    desk, server = hosts["desk"], hosts["superlink"]
    earlier = runs_of(server)
    line = "cd study && exec hqde-fl run own.toml --superlink production --set rounds=500"
    running = desk.start(["sh", "-c", line])
    wait_until(lambda: len(runs_of(server)) > len(earlier), "the run begins")
    (run,) = [path for path in runs_of(server) if path not in earlier]

    def kept(number: int) -> bool:
        return any(line["kept"] == number for line in rounds_of(run)[-1:])

    wait_until(lambda: kept(2), "two sites train")
    ward = join(hosts, "ward")
    wait_until(lambda: kept(3), "the new site trains")
    desk.shell("hqde-fl nodes revoke fed factory --superlink production")
    assert status_of(hosts, nodes["factory"]) == "unregistered"
    seen = len(rounds_of(run))
    wait_until(lambda: kept(2) and len(rounds_of(run)) > seen + 1, "the others go on")
    last = max(entry["round"] for entry in rounds_of(run))
    clients = [json.loads(text) for text in (run / "clients.jsonl").read_text().splitlines()]
    assert {c["partition"] for c in clients if c["round"] == last} == {0, 2}
    assert (status_of(hosts, ward), status_of(hosts, nodes["clinic"])) == ("online", "online")
    factory = hosts["factory"]
    wait_until(lambda: refusals(server, factory), "its next message is refused")
    assert running.poll() is None
    factory.end()
    factory.start_unit("/etc/hqde-fl/hqde-fl-supernode.service")
    wait_until(lambda: "Failed to activate SuperNode" in factory.log(), "it cannot come back")
    assert status_of(hosts, nodes["factory"]) == "unregistered"
    factory.end()
    desk.write(f"{HOME}/old.pub", factory.read("/etc/hqde-fl/node.pub"))
    refused = desk.shell("hqde-fl nodes add fed again --public-key old.pub", fails=True)
    assert "factory" in refused
    number = desk.shell("flwr ls production --format json")
    runs = json.loads(number[number.index("{") :])["runs"]
    (going,) = [r["run-id"] for r in runs if r["status"] == "running"]
    desk.shell(f"flwr stop {going} production")
    assert running.wait(PATIENCE) == 1


def refusals(server: Host, site: Host) -> list[str]:
    """Return the requests of a site that the SuperLink refused."""
    lines = [line for line in server.log().splitlines() if f"{site.address}:" in line]
    return [line for line in lines if "/v1/fleet/" in line and re.search(r" 40[0-9]$", line)]


def certificate(server: Host) -> bytes:
    """Return the certificate that the SuperLink shows on a new connection."""
    code = f"import ssl; print(ssl.get_server_certificate(('{SUPERLINK}', 9092)))"
    return server.shell(f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}").encode()


def test_a_renewed_certificate_is_shown_without_a_restart(
    hosts: dict[str, Host], nodes: dict[str, str]
) -> None:
    desk, server = hosts["desk"], hosts["superlink"]
    assert certificate(server).strip() == server.read("/etc/hqde-fl/server.crt").strip()
    assert "fl.example.org" in desk.shell("hqde-fl nodes renew fed --host fl.example.org")
    for file in ("server.key", "server.crt"):
        server.write(f"/etc/hqde-fl/{file}", desk.read(f"{HOME}/fed/superlink/{file}"))
    renewed = server.read("/etc/hqde-fl/server.crt").strip()
    wait_until(lambda: certificate(server).strip() == renewed, "the new certificate is shown")
    assert status_of(hosts, nodes["clinic"]) == "online"


def test_what_is_wrong_at_a_site_is_said(hosts: dict[str, Host], nodes: dict[str, str]) -> None:
    site = hosts["clinic"]
    site.shell("cp -r /etc/hqde-fl wrong && cd wrong && chmod 644 node.key")
    site.shell("cd wrong && sed -i s,:9092,:9093, hqde-fl-supernode.service")
    site.shell("cd wrong && sed -i s,/srv/data,/srv/nothing, site.env")
    said = site.shell("sh wrong/check.sh", fails=True)
    assert "other users can read node.key" in said
    assert "10.77.0.1:9093 cannot be reached" in said
    assert "HQDE_FL_DATA=/srv/nothing in site.env cannot be read" in said
