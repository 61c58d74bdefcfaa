"""No other user can use a Ray that hqde-fl starts, on either engine; other Rays are unchanged.

Every Ray here is started by a process of its own, because a process has one at most.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

import grpc
import psutil
import pytest

from hqde_fl.errors import RunError
from hqde_fl.simulations.engines.flower import superlink
from hqde_fl.simulations.engines.ray import access as ray_access
from hqde_fl.simulations.engines.ray import private_ray
from hqde_fl.simulations.engines.ray.access import is_loopback, sentence
from hqde_fl.simulations.engines.ray.private_ray import is_private, private_environment

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("private ray")]

ROOT = Path(__file__).resolve().parents[4]
MARK = "HQDE_FL_TEST"
"""The variable that marks a test's processes."""

EXPERIMENT = """
name = "private"
seed = 3
rounds = 100000

[clients]
count = 2
lr = 0.1
"""

METHODS = (  # of the GCS, the raylet (two servers), and the driver and the workers
    "NodeInfoGcsService/GetClusterId",
    "NodeManagerService/RequestWorkerLease",
    "ObjectManagerService/Pull",
    "CoreWorkerService/PushTask",
)

INTRUDER = """
import sys
import ray
ray.init(address=sys.argv[1], logging_level="fatal")
print(ray.get(ray.remote(num_cpus=0)(lambda: "ran").remote()))
"""

OPEN = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"}
LOCAL = {  # so that a test's own clusters are on loopback, and are joined there
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_NUM_REDIS_GET_RETRIES": "1",  # a driver that does not get in gives up soon
    "RAY_USAGE_STATS_ENABLED": "0",
}
IMPATIENT = {  # where nobody listens, sooner still
    "RAY_gcs_rpc_server_connect_timeout_s": "1",
    "RAY_py_gcs_connect_timeout_s": "1",
}


@dataclass(frozen=True)
class Seen:
    """A run in the middle of its rounds.

    Parameters
    ----------
    folder : Path
        Where it runs and writes.
    names : Mapping of int to str
        What its processes are called, with their command lines.
    listeners : frozenset of (process id, address, port)
        What they listen on.
    token : str
        The one in their environments.
    """

    folder: Path
    names: Mapping[int, str]
    listeners: frozenset[tuple[int, str, int]]
    token: str

    @property
    def gcs(self) -> tuple[int, int]:
        """Return the process id and the port of Ray's GCS."""
        (found,) = ((p, port) for p, _, port in self.listeners if "gcs_server" in self.names[p])
        return found


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment without any credential for Ray."""
    kept = {name: value for name, value in os.environ.items() if name not in OPEN}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


def marked(mark: str) -> list[psutil.Process]:
    """Return the processes with a mark in their environment, and their descendants."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == mark:
                found |= {p.pid: p for p in [process, *process.children(recursive=True)]}
    return list(found.values())


@contextmanager
def ended(mark: str) -> Iterator[None]:
    """End all processes with this mark at the end of the context."""
    try:
        yield
    finally:
        for process in marked(mark):
            with suppress(psutil.Error):
                process.kill()


def look(mark: str, folder: Path) -> Seen:
    """A running Ray as it can be observed from outside."""
    names, listeners, tokens = {}, set(), set()
    for process in marked(mark):
        with suppress(psutil.Error):  # Ray ends idle workers at any time
            connections = process.net_connections(kind="inet")
            tokens.add(process.environ().get("RAY_AUTH_TOKEN"))
            names[process.pid] = f"{process.name()} {' '.join(process.cmdline())}"
            listeners |= {
                (process.pid, each.laddr.ip, each.laddr.port)
                for each in connections
                if each.status == psutil.CONN_LISTEN
            }
    (token,) = tokens - {None}
    return Seen(folder, names, frozenset(listeners), str(token))


@pytest.fixture(scope="module", params=["ray", "flower"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """Start ``hqde-fl run`` and observe it between two rounds."""
    folder, mark = tmp_path_factory.mktemp(request.param), uuid.uuid4().hex
    (folder / "experiment.toml").write_text(EXPERIMENT)
    rounds = folder / "out" / "rounds.jsonl"
    command = [
        sys.executable,
        "-m",
        "hqde_fl.simulations.console.entry",
        "run",
        "experiment.toml",
    ]
    command += ["--engine", request.param, "--out", "out"]
    with (
        ended(mark),
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            command, cwd=folder, env=environment(**{MARK: mark}), stdout=log, stderr=log
        ) as process,
    ):
        try:
            until = monotonic() + 180.0
            while (
                not rounds.exists() or len(rounds.read_text().splitlines()) < 2
            ):  # round 0 needs no Ray
                assert process.poll() is None, (folder / "log").read_text()
                assert monotonic() < until, (folder / "log").read_text()
                sleep(0.05)
            yield look(mark, folder)
        finally:  # otherwise a failure here would wait for the end of all rounds
            process.send_signal(signal.SIGINT)


def other_addresses() -> list[str]:
    """Return the addresses of this host that other hosts may reach."""
    every = [each for addresses in psutil.net_if_addrs().values() for each in addresses]
    found = [a.address for a in every if a.family in (socket.AF_INET, socket.AF_INET6)]
    return [a for a in found if "%" not in a and not is_loopback(a)]


def refusal(port: int) -> str | None:
    """Return a Ray server's answer to a caller without a token; None if it has ended."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) != 0:
            return None
    codes = set()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        for method in METHODS:
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(f"/ray.rpc.{method}")(b"", timeout=20)
            codes.add(caught.value.code().name)
    codes.discard("UNIMPLEMENTED")  # a method of another server
    if codes == {"UNAVAILABLE"}:  # it speaks HTTP: the agent that prepares runtime environments
        url = f"http://127.0.0.1:{port}/get_runtime_envs_info"
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, b"", 20)
        return str(refused.value.code)
    return codes.pop() if len(codes) == 1 else f"answers: {codes}"


def files_with(token: str, folder: Path) -> list[Path]:
    found = []
    for path in folder.rglob("*"):
        with suppress(OSError):  # gone meanwhile
            if path.is_file() and token.encode() in path.read_bytes():
                found.append(path)
    return found


def test_all_that_listens_listens_on_loopback(run: Seen) -> None:
    names = " ".join(run.names[process] for process, _, _ in run.listeners)
    for expected in ("gcs_server", "raylet", "ray::"):
        assert expected in names
    found = [(run.names[process], ip, port) for process, ip, port in run.listeners]
    assert [each for each in found if not is_loopback(each[1])] == []
    for _, _, port in found:
        for address in other_addresses():
            with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
                probe.settimeout(20)
                assert probe.connect_ex((address, port)) != 0


def test_every_server_of_ray_asks_for_the_token(run: Seen) -> None:
    answers = {
        (run.names[process], port): refusal(port)
        for process, _, port in run.listeners
        if "flower-superlink" not in run.names[process]
    }
    assert {*answers.values()} <= {"UNAUTHENTICATED", "401", None}, answers
    refused = [name for (name, _), answer in answers.items() if answer is not None]
    assert len(refused) >= 5, answers  # the GCS, the raylet's two, the agent, the driver


def test_a_process_without_the_token_does_not_get_in(run: Seen) -> None:
    _, port = run.gcs
    credential = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": run.token}
    hosts = ["127.0.0.1", *[a for a in other_addresses() if ":" not in a][:1]]
    given = [*((host, IMPATIENT) for host in hosts), ("127.0.0.1", credential)]
    attempts = [
        subprocess.Popen(
            [sys.executable, "-c", INTRUDER, f"{host}:{port}"],
            env=environment(**LOCAL, **variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for host, variables in given
    ]
    outcomes = [(*attempt.communicate(timeout=300), attempt.returncode) for attempt in attempts]
    *refused, admitted = outcomes
    for said, wrong, status in refused:
        assert (said, status) == ("", 1), wrong
    assert "Unauthenticated" in refused[0][1]
    assert admitted[0].strip() == "ran", admitted[1]  # so nothing else kept the others out


def test_the_token_is_in_no_file_and_on_no_command_line(run: Seen) -> None:
    assert re.fullmatch("[0-9a-f]{64}", run.token)
    (logs,) = re.findall(r"--log_dir=(\S+)", run.names[run.gcs[0]])
    session = Path(logs).parent
    assert (session / "logs").is_dir()
    # Flower's own files are in its FLWR_HOME, as Ray's session is there.
    homes = [folder for folder in session.parents if folder.name.startswith("hqde-fl-")]
    for folder in (run.folder, session, *homes):
        assert files_with(run.token, folder) == []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            assert not any(run.token in word for word in process.cmdline())


LIFE = """
import json, os, sys
import ray
from hqde_fl.simulations.console.doctor import examine
from hqde_fl.simulations.engines.ray.access import access
from hqde_fl.simulations.engines.ray.pool import connect

NAMES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")
secured, unsecured = sys.argv[1:]
found = {}

def see(name, address=""):
    try:
        connect(address)
        task = ray.remote(lambda: [os.environ.get(each) for each in NAMES])
        theirs = ray.get(task.remote())
        found[name] = theirs, [os.environ.get(each) for each in NAMES], access()
    except Exception as error:
        found[name] = f"{type(error).__name__}: {error}"
    ray.shutdown()

see("ours")
see("theirs, without the token", secured)
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "the user's"}  # as in a notebook
see("theirs", secured)
see("ours again", "local")
for name in NAMES:
    del os.environ[name]
found["doctor"] = dict(examine(address=unsecured))["Ray access"]
ray.init("local", include_dashboard=False, log_to_driver=False, logging_level="error")
before = ray.get_runtime_context().gcs_address
connect(secured)
found["the host's own"] = ray.get_runtime_context().gcs_address == before
found["its mode"] = ray.get(ray.remote(lambda: os.environ.get("RAY_AUTH_MODE")).remote())
print(json.dumps(found))
"""

CLUSTER = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@contextmanager
def cluster_of_a_user(mark: str, settings: Mapping[str, str]) -> Iterator[str]:
    """Start a cluster on loopback as another user would; yield its address."""
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        env=environment(**LOCAL, **settings, **{MARK: mark}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address
        yield address
        process.kill()


def test_one_ray_after_the_other_and_clusters_of_the_users() -> None:
    mark, theirs = uuid.uuid4().hex, ["token", "the user's"]
    credential = dict(zip(("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"), theirs, strict=True))
    with (
        ended(mark),
        cluster_of_a_user(mark, credential) as secured,
        cluster_of_a_user(mark, {}) as unsecured,
    ):
        done = subprocess.run(
            [sys.executable, "-c", LIFE, secured, unsecured],
            env=environment(**LOCAL, **{MARK: mark}),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    on_loopback = "listens on loopback: other hosts cannot reach it; it asks for "
    tokens = []
    for name, outside in (("ours", [None, None]), ("ours again", theirs)):
        (mode, token), environment_after, said = found[name]
        assert (mode, environment_after, said) == ("token", outside, f"{on_loopback}a token")
        tokens.append(token)
    assert len({*tokens, "the user's"}) == 3
    refused = found["theirs, without the token"]
    assert refused.startswith(f"RunError: no Ray at {secured}: ")
    assert "it asks for a token: set RAY_AUTH_MODE=token" in refused
    assert found["theirs"] == [theirs, theirs, f"{on_loopback}a token"]
    assert found["doctor"].startswith(f"{on_loopback}no token: every user of this host can run")
    assert found["the host's own"] is True
    assert found["its mode"] is None


def test_what_is_private_of_ray_and_used_is_still_there(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray import _raylet
    from ray._private import ray_constants, services, worker
    from ray._private.node import Node
    from ray.core.generated import gcs_service_pb2

    assert ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR == "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
    assert isinstance(ray_constants.ENABLE_RAY_CLUSTER, bool)
    monkeypatch.setattr(worker, "_global_node", None)
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", False)
    assert services.get_node_ip_address() == private_ray._localhost() == "127.0.0.1"
    for name in ("kill_all_processes", "node_ip_address"):
        assert hasattr(Node, name)
    assert callable(_raylet.Config.initialize)
    assert callable(_raylet.AuthenticationTokenLoader.instance().reset_cache)
    service, method = ray_access._METHOD.removeprefix("/ray.rpc.").split("/")
    assert method in gcs_service_pb2.DESCRIPTOR.services_by_name[service].methods_by_name


def test_each_ray_gets_another_token() -> None:
    first, second = private_environment(), private_environment()
    assert first.keys() == second.keys()
    assert first["RAY_AUTH_TOKEN"] != second["RAY_AUTH_TOKEN"]


def test_a_localhost_that_is_not_loopback_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_ray, "_localhost", lambda: "192.0.2.1")
    with pytest.raises(
        RunError, match=r"localhost must be 127\.0\.0\.1 or ::1, found 192\.0\.2\.1"
    ):
        private_environment()


@pytest.mark.parametrize(
    ("address", "private"),
    [("", True), ("local", True), ("auto", False), ("10.0.0.1:6379", False), ("ray://a:1", False)],
)
def test_a_cluster_that_the_user_names_is_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, private: bool
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "the user's")
    assert is_private(address) is private
    for_flower = superlink._simulating(tmp_path, tmp_path / "states")
    assert (for_flower["RAY_AUTH_TOKEN"] != "the user's") is private
    assert ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" in for_flower) is private


@pytest.mark.parametrize(
    ("addresses", "asks", "said"),
    [
        (["127.0.0.1", "::1"], True, "listens on loopback: other hosts cannot reach it; it asks"),
        (["::ffff:127.0.0.1"], False, "it asks for no token: every user of this host can run"),
        (["10.0.0.5"], True, "other hosts can reach it at 10.0.0.5; it asks for a token"),
        (["10.0.0.5", "127.0.0.1"], False, "it asks for no token: whoever reaches it can run code"),
        (["a.example"], None, "other hosts can reach it at a.example; whether it asks"),
        ([], None, "whether it asks for a token is not known"),
    ],
)
def test_who_can_reach_a_ray_is_said_plainly(
    addresses: list[str], asks: bool | None, said: str
) -> None:
    assert said in sentence(addresses, asks)


def test_a_checkout_without_links_is_not_sent_to_a_cluster(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import ray

    import hqde_fl
    from hqde_fl.simulations.engines.ray.pool import connect

    monkeypatch.setattr(hqde_fl, "__path__", [str(tmp_path / "hqde_fl"), str(tmp_path)])
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(RunError, match="cannot be sent to a Ray cluster: its links to") as caught:
        connect("192.0.2.1:6379")
    assert "\n" not in str(caught.value)
