"""ClientApps are forked with what they were asked with, and end with those who asked."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.deploy import clientapp_shim
from hqde_fl.simulations.deploy.clientapp_forks import MOST_VARIABLE, most_clientapps

SERVER = """
import os, signal, sys, time
from hqde_fl.simulations.deploy import clientapp_forks
from hqde_fl.simulations.engines import flower_internals

def app():
    print(os.getpid(), os.getcwd(), os.environ["MARK"], sys.argv, flush=True)
    kind, *rest = sys.argv[1:]
    if kind == "exit":
        sys.exit(int(rest[0]))
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)

clientapp_forks.preload = lambda: None
clientapp_forks.PATIENCE_SECONDS = 2.0
flower_internals.flwr_clientapp = app
clientapp_forks.main()
"""

Ask = Callable[..., "subprocess.Popen[str]"]


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("f")  # paths of sockets are short


@pytest.fixture
def parent(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that starts the one that forks, as a SuperNode does."""
    words = [sys.executable, "-c", SERVER, str(folder / "flwr-clientapp")]
    code = f"import subprocess, sys; subprocess.Popen({words!r}); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, text=True)
    wait_until((folder / "socket").exists)
    yield process
    process.kill()
    process.communicate()
    wait_until(lambda: not (folder / "socket").exists())


@pytest.fixture
def most() -> int:
    return most_clientapps()


@pytest.fixture
def ask(folder: Path, tmp_path: Path, parent: object) -> Iterator[Ask]:
    """Return a function that asks for a ClientApp with arguments."""
    asked: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        shim = [clientapp_shim.__file__, str(folder / "socket"), "/bin/false"]
        words = [sys.executable, "-IS", *shim, *arguments]
        environment = {**os.environ, "MARK": arguments[0]}
        asked.append(
            subprocess.Popen(
                words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
            )
        )
        return asked[-1]

    yield start
    for process in asked:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def pid_of(asked: subprocess.Popen[str]) -> int:
    assert asked.stdout is not None
    return int(asked.stdout.readline().split()[0])


def test_a_fork_has_arguments_folder_environment_and_streams(ask: Ask, tmp_path: Path) -> None:
    said = [ask("exit", str(code), "--token", "a b").communicate()[0] for code in (0, 3)]
    for code, line in zip((0, 3), said, strict=True):
        arguments = ["flwr-clientapp", "exit", str(code), "--token", "a b"]
        assert line.split(maxsplit=3)[1:] == [str(tmp_path), "exit", f"{arguments}\n"]


def test_it_ends_with_the_status_of_its_app(ask: Ask) -> None:
    for code in (0, 3, 255):
        assert ask("exit", str(code)).wait() == code


def test_an_app_that_is_killed_was_killed(ask: Ask) -> None:
    assert ask("kill").wait() == -signal.SIGKILL
    assert ask("exit", "0").wait() == 0  # the others are not affected


def test_a_request_that_breaks_off_harms_nobody(ask: Ask, folder: Path) -> None:
    for sent in (b"", bytes(8), (9).to_bytes(8, "big") + b"{"):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(folder / "socket"))
            connection.sendall(sent)
        assert ask("exit", "0").wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_signals_reach_the_app(ask: Ask, number: int) -> None:
    asked, other = ask("sleep"), ask("sleep")
    pid, others = pid_of(asked), pid_of(other)
    asked.send_signal(number)
    assert asked.wait() == -number
    wait_until(lambda: not psutil.pid_exists(pid))
    assert psutil.pid_exists(others)


def test_more_than_so_many_wait_until_one_ends(ask: Ask, most: int) -> None:
    running = [ask("sleep") for _ in range(most)]
    pids = [pid_of(asked) for asked in running]
    waiting = ask("exit", "0")
    assert not select.select([waiting.stdout], [], [], 0.5)[0]
    assert all(psutil.pid_exists(pid) for pid in pids)
    running[1].terminate()
    assert waiting.wait() == 0
    assert psutil.pid_exists(pids[0])


def test_one_that_hangs_does_not_keep_others_waiting_for_ever(ask: Ask, most: int) -> None:
    hanging, pids = [], []
    for _ in range(most):  # one after the other: the first of them is the oldest
        hanging.append(ask("sleep"))
        pids.append(pid_of(hanging[-1]))
    assert ask("exit", "0").wait() == 0
    assert hanging[0].wait() == -signal.SIGKILL
    assert all(psutil.pid_exists(pid) for pid in pids[1:])


@pytest.mark.parametrize("text", ["0", "many", "-1"])
def test_an_impossible_number_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(MOST_VARIABLE, text)
    with pytest.raises(
        ConfigError, match=f"HQDE_FL_CLIENTAPPS needs a number >= 1, found '{text}'"
    ):
        most_clientapps()


def test_all_apps_end_with_the_supernode(
    ask: Ask, parent: subprocess.Popen[str], folder: Path
) -> None:
    pids = [pid_of(ask("sleep")) for _ in range(2)]
    parent.kill()
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in pids))
    wait_until(lambda: not folder.exists())


def test_without_an_answer_it_is_the_program_itself(tmp_path: Path) -> None:
    words = [sys.executable, "-IS", clientapp_shim.__file__, str(tmp_path / "none"), "/bin/echo"]
    done = subprocess.run([*words, "a", "b c"], capture_output=True, text=True, check=True)
    assert done.stdout == "a b c\n"
