"""Faults of a network and of clocks around a run on real nodes.

Three nodes are on the SuperLink's machine, and node-3 is a site with clock, link and environment
of its own. ``make test-drills`` runs them; docs/drills.md has the table.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import pytest

from hqde_fl.errors import RunError
from hqde_fl.simulations.deploy import nodes
from hqde_fl.simulations.deploy.federation import FederationDirectory
from hqde_fl.simulations.deploy.registered_keys import ControlAddress, synchronise
from hqde_fl.simulations.deploy.units import NodeSettings, node_command
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.run import run_experiment
from tests.deployment.disturbed_run import (
    EXPERIMENT,
    Going,
    all_online,
    control_of,
    node_id,
    wait_for_round,
    wait_until,
)
from tests.simulations.test_machine_faults import HOUR, clock, proxies

pytestmark = pytest.mark.drills

ROUNDS = 6
CHANGES: dict[str, object] = {
    "rounds": ROUNDS,
    "clients": {"count": 4, "epochs": 2, "lr": 0.2},
    "faults": [],
    "strategy": {"rule": {"name": "geometric-median"}, "deadline": 60.0},
}
WHOEVER_IS_ONLINE = {**CHANGES, "clients": {"registered": True, "count": 4, "epochs": 2, "lr": 0.2}}
"""The same with rounds that do not wait for a site that is away."""
SITE = "node-3"


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the model of the simulated run."""
    out = tmp_path_factory.mktemp("simulated") / "run"
    run_experiment(Experiment.parse({**EXPERIMENT.to_table(), **CHANGES}), out, engine="inline")
    return (out / "model.safetensors").read_bytes()


@contextmanager
def federation_with_a_site(
    folder: Path, variables: Mapping[str, str] | None = None, port: int = 0
) -> Iterator[FederationDirectory]:
    """Start a SuperLink with three nodes, and a site with more variables and another port."""
    parts = {"partitions": tuple(range(4)), "total": 4}
    made = FederationDirectory.create(folder / "federation", 4, **parts)
    with nodes.federation_up(made, 3) as found:
        synchronise(made, ControlAddress(found.address, made.superlink / "ca.crt"), [SITE])
        host, own_port = found.address.rsplit(":", 1)
        with relay(int(own_port), port) if port else nullcontext():
            settings = NodeSettings(made.cache(SITE), 3, 4)
            words = node_command(made.path / SITE, f"{host}:{port or own_port}", 0, settings)
            again = ["sh", "-c", 'while :; do "$@"; sleep 1; done', "-"]  # as systemd does
            with (folder / "site.log").open("wb") as log:
                site = subprocess.Popen(
                    [*again, sys.executable, *words[1:]],
                    env=made.environment() | dict(variables or {}),
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            try:
                wait_until(lambda: all_online(made) and site_is_online(made), "the site")
                yield made
            finally:
                os.killpg(site.pid, signal.SIGKILL)
                site.wait()


def site_is_online(federation: FederationDirectory) -> bool:
    return control_of(federation).statuses()[node_id(federation, SITE)] == "online"


@contextmanager
def relay(to: int, port: int) -> Iterator[None]:
    """Relay each connection to a port, in pieces that are late, and cut it after some seconds."""
    rng, listening = random.Random(1), socket.create_server(("127.0.0.1", port))
    going, ended = list[socket.socket](), threading.Event()

    def pump(source: socket.socket, target: socket.socket, until: float) -> None:
        with suppress(OSError):
            while (piece := source.recv(65536)) and time.monotonic() < until:
                ended.wait(0.1)
                target.sendall(piece)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        with suppress(OSError):
            while True:
                near, _ = listening.accept()
                far = socket.create_connection(("127.0.0.1", to))
                going.extend((near, far))
                until = time.monotonic() + rng.uniform(5, 30)
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=pump, args=(*pair, until), daemon=True).start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield
    finally:
        ended.set()
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        for end in going:
            end.close()
        accepting.join()


def ended(going: Going, resumed: int = 0) -> tuple[Going, int]:
    """Wait for the end of a run, and resume it if it failed; return its last part and how often."""
    try:
        going.end()
    except RunError as error:
        before = going.rounds
        print(f"resumed after: {error}")
        assert resumed < 3
        wait_until(lambda: all_online(going.federation), "the nodes are online")
        last, resumed = ended(
            Going(going.federation, going.out, going.changes, resume=True), resumed + 1
        )
        assert last.rounds[: len(before)] == before
        return last, resumed
    return going, resumed


def lost(going: Going, site: int) -> dict[object, object]:
    """Return why the site was not kept, by round; the other clients are always kept."""
    others = [line for line in going.clients() if line["node"] != site and not line["kept"]]
    assert others == []
    assert [line["round"] for line in going.rounds] == list(range(ROUNDS + 1))
    return {line["round"]: line["reason"] for line in going.clients(site) if not line["kept"]}


def test_proxies_that_nobody_serves_are_not_asked(
    expected: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in proxies(tmp_path).items():
        monkeypatch.setenv(name, value)
    with federation_with_a_site(tmp_path) as federation:
        Going(federation, tmp_path / "run", CHANGES).end()
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == expected


def test_two_runs_at_once_and_a_database_that_is_locked(expected: bytes, tmp_path: Path) -> None:
    """The database is locked for 20 seconds by another program, as by one that copies it."""
    with federation_with_a_site(tmp_path) as federation:
        going = [Going(federation, tmp_path / name, CHANGES) for name in ("one", "two")]
        wait_for_round(going[0], 2)
        database = sqlite3.connect(federation.state / "superlink.db", timeout=60)
        database.execute("BEGIN EXCLUSIVE")
        time.sleep(20)
        database.rollback()
        database.close()
        last, resumed = zip(*map(ended, going), strict=True)
    print(f"resumed: {resumed}")
    for each in last:
        print({line["round"]: line["reason"] for line in each.clients() if not line["kept"]})
        assert (each.out / "model.safetensors").read_bytes() == expected


def test_a_slow_link_that_breaks_again_and_again(expected: bytes, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with federation_with_a_site(tmp_path, port=port) as federation:
        going, resumed = ended(Going(federation, tmp_path / "run", CHANGES))
        missed = lost(going, node_id(federation, SITE))
    print(f"resumed {resumed} times, site lost: {missed}")
    assert len(missed) < ROUNDS
    if not missed:
        assert (tmp_path / "run" / "model.safetensors").read_bytes() == expected


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
def test_the_clock_of_a_site_jumps_and_is_put_right(seconds: int, tmp_path: Path) -> None:
    """The reasons why the site was not kept are recorded, and the others are always kept."""
    with federation_with_a_site(tmp_path, clock(tmp_path)) as federation:
        going = Going(federation, tmp_path / "run", WHOEVER_IS_ONLINE)
        wait_for_round(going, 2)
        (tmp_path / "clock").write_text(f"{seconds:+d}")
        wait_for_round(going, 4)
        (tmp_path / "clock").write_text("+0")
        last, resumed = ended(going)
        missed = lost(last, node_id(federation, SITE))
        wait_until(lambda: site_is_online(federation), "the site is back")
    print(f"resumed {resumed} times, site lost: {missed}")
    assert all(missed.values())
    assert resumed == 0


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
def test_the_clock_of_the_superlinks_machine_jumps_and_is_put_right(
    seconds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as changed:
        for name, value in clock(tmp_path).items():
            changed.setenv(name, value)
        plain = dict.fromkeys(clock(tmp_path), "")
        with federation_with_a_site(tmp_path, plain) as federation:
            going = Going(federation, tmp_path / "run", CHANGES)
            wait_for_round(going, 2)
            (tmp_path / "clock").write_text(f"{seconds:+d}")
            time.sleep(20)
            (tmp_path / "clock").write_text("+0")
            last, resumed = ended(going)
            rounds = [line["round"] for line in last.rounds]
            reasons = {(c["round"], c["reason"]) for c in last.clients() if not c["kept"]}
    print(f"resumed {resumed} times, lost: {sorted(reasons)}")
    assert rounds == list(range(ROUNDS + 1))
    assert all(reason for _, reason in reasons)
