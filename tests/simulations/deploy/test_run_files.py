"""Files of runs are served beside the control API, and fetched over TLS."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI

from hqde_fl.errors import RunError
from hqde_fl.simulations.deploy.federation import FederationDirectory
from hqde_fl.simulations.deploy.registered_keys import ControlAddress
from hqde_fl.simulations.deploy.run_files import RUNS, RunFetcher, listing, serve_runs
from hqde_fl.simulations.deploy.status_tables import shown_certificate_line
from hqde_fl.simulations.recording.run_ids import directory_of, note_run_id


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SuperLink's working directory with one run."""
    folder = tmp_path_factory.mktemp("superlink")
    run = folder / "runs" / "demo-1"
    (run / "checkpoint").mkdir(parents=True)
    for name in ("rounds.jsonl", "model.safetensors", "checkpoint/00001", ".hidden"):
        (run / name).write_bytes(name.encode() * 1000)
    (folder / "secret").write_text("secret")
    (run / "link").symlink_to(folder / "secret")
    note_run_id(run, 17)
    return folder


@pytest.fixture(scope="module")
def control(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlAddress]:
    """The address of a server of that directory, with a certificate of a federation."""
    federation = FederationDirectory.create(tmp_path_factory.mktemp("fed"), 0)
    app = FastAPI()
    serve_runs(app, folder / "runs")
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        log_level="critical",
        ssl_certfile=federation.superlink / "server.crt",
        ssl_keyfile=str(federation.superlink / "server.key"),
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    listener.listen()
    thread.start()
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    yield ControlAddress(address, federation.superlink / "ca.crt")
    server.should_exit = True
    thread.join()


def test_a_run_is_fetched_without_checkpoints_hidden_files_and_links(
    control: ControlAddress, folder: Path, tmp_path: Path
) -> None:
    names = RunFetcher(control, "17").fetch(tmp_path / "got")
    assert names == ["model.safetensors", "rounds.jsonl"]
    assert sorted(path.name for path in (tmp_path / "got").iterdir()) == names
    for name in names:
        expected = (folder / "runs" / "demo-1" / name).read_bytes()
        assert (tmp_path / "got" / name).read_bytes() == expected


def test_records_of_a_run_that_goes_on_are_appended_to(
    control: ControlAddress, folder: Path, tmp_path: Path
) -> None:
    rounds = folder / "runs" / "demo-1" / "rounds.jsonl"
    before = rounds.read_bytes()
    fetcher = RunFetcher(control, "17")
    try:
        for added in (b"", b"", b"one\n", b"two\n"):
            with rounds.open("ab") as file:
                file.write(added)
            fetcher.update(tmp_path, only=("rounds.jsonl",))
            assert (tmp_path / "rounds.jsonl").read_bytes() == rounds.read_bytes()
        assert [path.name for path in tmp_path.iterdir()] == ["rounds.jsonl"]
        rounds.write_bytes(before)  # the run begins anew
        fetcher.update(tmp_path, only=("rounds.jsonl",))
        assert (tmp_path / "rounds.jsonl").read_bytes() == before
    finally:
        rounds.write_bytes(before)


@pytest.mark.parametrize("run", ["18", "..", "17/..", "demo-1", "", "\u0661\u0667"])
def test_an_unknown_run_is_named(control: ControlAddress, tmp_path: Path, run: str) -> None:
    with pytest.raises(RunError):
        RunFetcher(control, run).fetch(tmp_path / "got")
    assert not (tmp_path / "got").exists()


@pytest.mark.parametrize(
    "name", ["link", ".hidden", "checkpoint/00001", "../../secret", "%2e%2e/%2e%2e/secret"]
)
def test_other_files_are_not_served(control: ControlAddress, name: str) -> None:
    host, _, port = control.address.partition(":")
    context = ssl.create_default_context(cafile=str(control.root))
    connection = http.client.HTTPSConnection(host, int(port), context=context)
    connection.request("GET", f"{RUNS}/17/{name}")
    assert connection.getresponse().status == http.client.NOT_FOUND
    connection.close()


def test_a_server_of_another_authority_gets_no_request(
    control: ControlAddress, tmp_path: Path
) -> None:
    other = FederationDirectory.create(tmp_path / "other", 0)
    with pytest.raises(RunError, match="certificate verify failed"):
        RunFetcher(ControlAddress(control.address, other.path / "ca.crt"), "17").listing()


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", ".ssh/x", "a\nb", "a//b"])
def test_names_that_leave_the_directory_are_refused(
    control: ControlAddress, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setattr(
        "hqde_fl.simulations.deploy.run_files.json.loads", lambda text: {"files": {name: 1}}
    )
    with pytest.raises(RunError, match="cannot be written here"):
        RunFetcher(control, "17").fetch(tmp_path / "got")


def test_a_note_that_names_another_folder_is_ignored(folder: Path) -> None:
    runs = folder / "runs"
    assert directory_of(runs, "17") == runs / "demo-1"
    (runs / ".run-ids" / "19").write_text("../demo-1")
    assert directory_of(runs, "19") is None
    assert "link" not in listing(runs / "demo-1")


def test_a_certificate_that_was_renewed_and_not_copied_is_noticed(control: ControlAddress) -> None:
    federation = FederationDirectory.load(control.root.parents[1])
    assert shown_certificate_line(federation, control) == ""
    line = shown_certificate_line(federation.renew(), control)
    assert line.startswith(f"{control.address} shows another certificate than")
    nobody = ControlAddress("127.0.0.1:1", control.root)
    assert shown_certificate_line(federation, nobody) == ""
