import io
import os
import pty
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from rich.console import Console

from hqde_fl.errors import ConfigError, RunError
from hqde_fl.monitor.schema import (
    FILE,
    Gpu,
    Host,
    ResourceSample,
    Sent,
    Span,
    Start,
    append_records,
)
from hqde_fl.simulations.console import top_view
from hqde_fl.simulations.console.top import follow, show_once, top
from hqde_fl.simulations.console.top_view import Room, sparkline, view
from hqde_fl.simulations.deploy.registered_keys import ControlAddress
from hqde_fl.simulations.deploy.run_files import RunFetcher
from hqde_fl.simulations.recording.live_run import LiveRun
from hqde_fl.simulations.recording.manifest import read_manifest, write_manifest
from hqde_fl.strategies.callbacks import ClientRecord, RoundRecord
from tests.simulations.command import command, environment

HERE = socket.gethostname()


def records(rounds=2):
    yield RoundRecord(round=0, server={"accuracy": 0.1})
    for number in range(1, rounds + 1):
        reason = "failed: RuntimeError: \x1b[31mred\n" + 80 * "x"
        failed = ClientRecord(number, 9, 3, False, 0.0, reason, 1, 0, 0.0)
        yield RoundRecord(
            round=number,
            server={"accuracy": 0.25 * number, "loss": 1.0 / number},
            asked=4,
            kept=3,
            failed=1,
            bytes_up=1000,
            bytes_down=2000,
            seconds=2.0,
            clients=(failed,),
        )


@pytest.fixture
def begun(tmp_path, tiny, record):
    """Return the directory of a run that goes on."""
    path = tmp_path / "run"
    record(path, tiny, records())
    set_status(path, "running")
    return path


def set_status(path, status):
    write_manifest(path, read_manifest(path) | {"status": status})


def monitored(path, *, pid=None, age=0.0, clients=range(3), hosts=(HERE,)):
    now = time.time() - age
    append_records(
        path / FILE,
        [
            Start(now, HERE, pid or os.getpid(), 1.0),
            *(Host(now, host, 8, 16 << 30) for host in hosts),
            *(
                ResourceSample(now, h, 1.0, 3, 1.5, 9.0, 10**9, gpus=(Gpu(0.5, 10**9),))
                for h in hosts
            ),
            Span(now, "wait", 1.5, 2, parent="round"),
            Span(now, "evaluate", 0.5, 2, parent="round"),
            Sent(now, "train", 3, tuple(clients)),
        ],
    )


def drawn(path, width=120, height=None, **room):
    run = LiveRun(path)
    run.refresh()
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(view(run, time.time(), Room(width, height, **room)))
    return console.file.getvalue()


def once(path, width=None):
    console = Console(file=io.StringIO(), width=width)
    show_once(path, console)
    return console.file.getvalue()


def test_one_view_as_plain_text(begun):
    monitored(begun)
    text = once(begun)
    for part in (
        "tiny  running",
        "round 2 of 2",
        "accuracy 0.5000",
        "best 0.5000",
        "loss 0.5000",
        "round 2: kept 3 of 4, failed 1; 2.0 kB to the clients, 1.0 kB from them",
        "time of a round: wait 75 %, evaluate 25 %",
        "round 3: 3 clients in flight",
        "of 8 updates 6 kept, failed 2",
        "1 node",
        "1.0 GB",
        "50 %",
    ):
        assert part in text
    assert "\x1b" not in text
    assert r"\x1b[31mred" in text
    assert not [line for line in text.splitlines() if line != line.rstrip()]


def test_a_run_on_a_superlink_that_has_a_name(begun, monkeypatch, capsys):
    updates = []

    def update(fetcher, out, only):
        updates.append(sorted(only))
        for name in [name for name in only if (begun / name).exists()]:
            shutil.copy(begun / name, out)

    monkeypatch.setattr(ControlAddress, "named", lambda name: ControlAddress(name, begun))
    monkeypatch.setattr(RunFetcher, "update", update)
    top(Path("17"), once=True, superlink="production")
    assert capsys.readouterr().out.startswith("tiny  running")
    assert len(updates) == 1

    def silent(fetcher, out, only):
        raise RunError("production does not answer")

    monkeypatch.setattr(RunFetcher, "update", silent)
    with pytest.raises(RunError, match="does not answer"):
        top(Path("17"), once=True, superlink="production")


def test_where_metrics_are_published_and_why_a_run_failed_is_shown(begun):
    manifest = read_manifest(begun)
    write_manifest(begun, manifest | {"published-at": {"prometheus": "http://127.0.0.1:1/"}})
    assert "prometheus at http://127.0.0.1:1/" in once(begun, width=120)
    write_manifest(begun, manifest | {"status": "failed", "error": "RunError: the\nreason"})
    lines = once(begun).splitlines()
    assert lines[0].startswith("tiny  failed")
    assert lines[1] == r"RunError: the\nreason"


def test_a_run_without_a_monitor_has_its_rounds_shown(begun):
    text = once(begun)
    assert "accuracy 0.5000" in text
    assert "the run has no monitor" in text
    assert "node" not in text


def test_a_run_of_which_nothing_is_recorded_yet(tmp_path, tiny, record):
    record(tmp_path / "run", tiny, [])
    assert "round 0 of 2" in once(tmp_path / "run")


def test_before_its_first_round_has_ended_a_run_says_so(tmp_path, tiny, record):
    path = record(tmp_path / "run", tiny, [RoundRecord(round=0)]).path
    assert "no round has ended yet" not in once(path)
    write_manifest(path, {**read_manifest(path), "status": "running"})
    assert "no round has ended yet" in once(path)


def test_what_is_printed_once_is_not_cut(tmp_path, tiny, record):
    server = {f"metric-{number}": 0.5 for number in range(20)}
    text = once(record(tmp_path / "run", tiny, [RoundRecord(round=0, server=server)]).path)
    assert all(name in text for name in server)


@pytest.mark.parametrize("width", [20, 40, 79, 200])
@pytest.mark.parametrize("height", [5, 24, 50])
def test_a_view_fits_the_terminal(begun, width, height):
    monitored(begun, clients=range(100), hosts=[f"node-{number}" for number in range(30)])
    lines = drawn(begun, width, height).splitlines()
    assert max(map(len, lines)) <= width
    assert "tiny" in lines[0]
    if height >= 24:
        assert len(lines) <= height
        assert any(line.startswith("and ") for line in lines)


def test_a_terminal_without_block_characters_gets_none(begun):
    monitored(begun)
    assert drawn(begun, ascii_only=True).isascii()


def test_a_process_that_is_gone_is_told(begun, monkeypatch):
    monitored(begun, pid=123456, age=60.0)
    monkeypatch.setattr(top_view.psutil, "pid_exists", lambda pid: False)
    text = drawn(begun, 200)
    assert "tiny  lost" in text
    assert "hqde-fl run --resume DIR" in text
    assert "silent" in text
    monkeypatch.setattr(top_view.psutil, "pid_exists", lambda pid: True)
    assert "lost" not in drawn(begun, 200)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "no run has begun there"),
        (".", r"name one of those in it, the latest first: .*run"),
    ],
)
def test_what_is_no_run_is_an_error(begun, tmp_path, name, message):
    with pytest.raises(ConfigError, match=message):
        once(tmp_path / name)


def test_the_directory_of_a_sweep_is_an_error_that_names_its_runs(begun, tmp_path):
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"is a sweep: name one of its runs.*run$"):
        once(tmp_path)


def test_a_run_is_followed_from_before_it_begins_until_it_finishes(tmp_path, tiny, record):
    path = tmp_path / "later" / "run"
    console = Console(
        file=io.StringIO(), force_terminal=True, width=100, height=30, color_system=None
    )

    def finish():
        set_status(path, "finished")

    def resume():
        assert "interrupted" in console.file.getvalue()
        set_status(path, "running")

    steps = [
        lambda: record(path, tiny, records()),
        lambda: set_status(path, "interrupted"),
        resume,
        finish,
    ]
    set_running = [lambda: set_status(path, "running")]

    def pause():
        step = steps.pop(0)
        step()
        if set_running and path.exists():
            set_running.pop()()

    follow(path, console, pause)
    text = console.file.getvalue()
    assert steps == []
    assert "waiting for a run in" in text
    assert "tiny  finished" in text.rpartition("\x1b[?1049l")[2]  # left on the terminal


def test_ctrl_c_leaves_the_last_view(begun):
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)

    def pause():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        follow(begun, console, pause)
    assert "tiny  running" in console.file.getvalue().rpartition("\x1b[?1049l")[2]


def test_the_command_on_a_terminal_ends_well_at_ctrl_c(begun, tmp_path):
    driver, terminal = pty.openpty()
    arguments = command("top", begun, "--interval", "0.1")
    with subprocess.Popen(
        arguments,
        stdin=terminal,
        stdout=terminal,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=environment(TERM="xterm"),
        start_new_session=True,
    ) as process:
        os.close(terminal)
        shown = b""
        while b"accuracy" not in shown:
            shown += os.read(driver, 4096)
        process.send_signal(signal.SIGINT)
        with suppress(OSError):  # the terminal is closed
            while more := os.read(driver, 4096):
                shown += more
        assert process.stderr.read() == b""
        assert process.wait() == 0
    os.close(driver)
    assert b"accuracy" in shown.rpartition(b"\x1b[?1049l")[2]


def test_sparklines():
    assert sparkline([0.0, 1.0, 2.0, 7.0]) == "▁▂▃█"
    assert sparkline([3.0, 3.0]) == "▁▁"
