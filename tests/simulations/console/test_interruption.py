"""Ctrl-C, SIGTERM and SIGHUP end a run, whatever it is doing."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hqde_fl.simulations.console import interruption
from hqde_fl.simulations.console.interruption import (
    Terminated,
    interrupted,
    interruptible,
    uninterrupted,
)
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.manifest import (
    add_to_manifest,
    read_manifest,
    record_interruption,
)
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.run import run_experiment
from tests.simulations.command import await_that, environment, rounds_in, started

LONG = ["--set", "rounds=100000"]
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_run_in_a_program_ends_and_the_programs_handler_is_back(
    number: int, tmp_path: Path, tiny: Experiment
) -> None:
    own = []
    before = signal.signal(number, lambda *given: own.append(given))
    handler = signal.getsignal(number)
    try:
        with pytest.raises(SystemExit) as end:
            run_experiment(tiny, tmp_path / "run", on_round=lambda _: signal.raise_signal(number))
        assert end.value.code == STATUS[number]
        assert signal.getsignal(number) is handler
        assert own == []
    finally:
        signal.signal(number, before)
    assert Run.load(tmp_path / "run").manifest["status"] == "interrupted"


def test_handlers_are_left_alone_in_other_threads() -> None:
    handlers = []

    def look() -> None:
        with interruptible():
            handlers.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert handlers == [before]


def test_a_block_inside_another_one_is_a_part_of_it() -> None:
    @interruptible()
    def block() -> None:
        with pytest.raises(KeyboardInterrupt), interruptible():
            signal.raise_signal(signal.SIGTERM)
        assert interrupted()
        raise KeyboardInterrupt

    with pytest.raises(Terminated):
        block()
    assert not interrupted()


def test_a_second_signal_does_not_cut_a_clean_up_short() -> None:
    done = []

    @interruptible()
    def block() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)  # the same request
            with uninterrupted():
                signal.raise_signal(signal.SIGINT)
                done.append(1)
            signal.raise_signal(signal.SIGINT)
            done.append(2)

    with pytest.raises(Terminated):
        block()
    assert done == [1, 2]


def test_a_first_signal_in_a_clean_up_waits_for_its_end() -> None:
    done = []

    @interruptible()
    def block() -> None:
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            done.append(1)
        done.append(2)

    with pytest.raises(KeyboardInterrupt):
        block()
    assert done == [1]


def test_any_exception_after_the_signal_is_an_interruption() -> None:
    @interruptible()
    def block() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            raise ImportError("numpy failed to import") from None

    with pytest.raises(Terminated):
        block()


def test_an_exception_that_was_dropped_is_raised_again(capsys: pytest.CaptureFixture[str]) -> None:
    class Dropped:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)
            for _ in range(1000):  # the handler runs here
                pass

    @interruptible()
    def block() -> None:
        Dropped()
        await_that(lambda: False, "the signal comes again")

    with pytest.raises(Terminated):
        block()
    assert capsys.readouterr().err == ""


def test_a_failure_after_the_signal_is_the_interruption(tmp_path: Path, tiny: Experiment) -> None:
    out = tmp_path / "run"
    run_experiment(tiny, out, report=False)
    ended = time.time()
    add_to_manifest(out, {"status": "failed", "error": "RayError: gone"})
    record_interruption(out, since=ended + 100.0)  # it had failed before
    assert read_manifest(out)["status"] == "failed"
    record_interruption(out, since=ended - 5.0)
    assert (read_manifest(out)["status"], read_manifest(out)["error"]) == ("interrupted", None)


# --- processes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "delay"),
    zip(
        itertools.cycle([signal.SIGINT, signal.SIGTERM]),
        [0.0, 0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.2, 1.5, 2.0],
        strict=False,
    ),
)
def test_a_signal_in_the_first_seconds_leaves_no_traceback(
    number: int, delay: float, tiny_file: Path, tmp_path: Path
) -> None:
    """While modules are imported, the file is read, the run begins."""
    with started("run", tiny_file, "--out", tmp_path / "run", *LONG, cwd=tmp_path) as running:
        running.wait_for(running.catches_sigterm, "the handlers are in place")
        time.sleep(delay)  # what varies
        running.send(number)
        status, errors = running.end()
        assert status == STATUS[number]
        assert errors.startswith("interrupted")
        assert "Traceback" not in errors
        await_that(lambda: not running.left(), "nothing is left")
    if (tmp_path / "run" / "manifest.json").exists():
        assert Run.load(tmp_path / "run").manifest["status"] == "interrupted"


@pytest.mark.parametrize(
    "module", ["hqde_fl.simulations.console.entry", "hqde_fl.simulations.console.entry:main"]
)
def test_handlers_are_installed_before_slow_imports(module: str, tmp_path: Path) -> None:
    """However the command is called, nothing heavy has been imported by then."""
    name, _, function = module.partition(":")
    code = (
        "import signal, sys\n"
        "install = signal.signal\n"
        "def noted(number, handler):\n"
        "    heavy = {'torch', 'flwr', 'ray', 'numpy', 'typer', 'rich'} & {*sys.modules}\n"
        "    print('heavy:', *sorted(heavy))\n"
        "    raise SystemExit\n"
        "signal.signal = noted\n"
    )
    if function:
        code += f"from {name} import {function}; {function}()"
    else:
        code += f"import runpy; runpy.run_module({name!r}, run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "heavy:\n"


ON_RAY = (pytest.mark.slow, pytest.mark.xdist_group("ray"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "numbers"),
    [
        ("inline", [signal.SIGTERM]),
        ("inline", [signal.SIGTERM] * 3),
        pytest.param("ray", [signal.SIGTERM] * 3, marks=ON_RAY),
        pytest.param("flower", [signal.SIGTERM] * 3, marks=ON_RAY),
    ],
)
def test_sigterm_ends_a_run_and_all_it_has_started(
    engine: str, numbers: list[int], tiny_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    arguments = ["run", tiny_file, "--out", out, "--engine", engine, *LONG]
    with started(*arguments, cwd=tmp_path) as running:
        running.wait_for(lambda: rounds_in(out) >= 2, "the first round")
        running.send(*numbers)
        status, errors = running.end()
        assert status == 143
        assert "interrupted, kept in run\n" in errors
        assert "Traceback" not in errors
        await_that(lambda: not running.left(), f"left: {running.left()}", seconds=30)
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["status"], manifest["error"]) == ("interrupted", None)
    assert manifest["ended"]


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_sigterm_while_ray_starts_leaves_nothing(tiny_file: Path, tmp_path: Path) -> None:
    arguments = ["run", tiny_file, "--out", tmp_path / "run", "--engine", "ray"]
    with started(*arguments, cwd=tmp_path) as running:
        running.wait_for(running.left, "the first process of Ray")
        running.send(signal.SIGTERM)
        status, errors = running.end()
        assert (status, errors) == (143, "interrupted\n")
        await_that(lambda: not running.left(), "nothing of Ray is left", seconds=30)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_sigterm_while_flwr_run_builds_leaves_nothing(tiny_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with started("run", tiny_file, "--out", out, "--engine", "flower", cwd=tmp_path) as running:
        running.wait_for((out / "flower.log").exists, "flwr run")
        running.send(signal.SIGTERM, signal.SIGTERM)
        status, errors = running.end()
        assert (status, errors) == (143, "interrupted, kept in run\n")
        await_that(lambda: not running.left(), "nothing of Flower is left", seconds=30)


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_sigterm_ends_a_sweep_and_its_processes(jobs: int, tiny_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    tiny_file.write_text(tiny_file.read_text() + "[sweep]\nseeds = [1, 2, 3]\n")
    arguments = ["sweep", tiny_file, "--out", out, "--jobs", jobs, *LONG]
    with started(*arguments, cwd=tmp_path) as running:
        running.wait_for(
            lambda: sum(rounds_in(cell) >= 2 for cell in out.glob("cells/*")) == jobs, "the cells"
        )
        running.send(signal.SIGTERM, signal.SIGTERM)
        status, errors = running.end()
        assert (status, errors) == (143, "interrupted, kept in study\n")
        await_that(lambda: not running.left(), "no worker is left", seconds=30)
    states = [json.loads(path.read_text())["status"] for path in out.glob("cells/*/manifest.json")]
    assert states == ["interrupted"] * jobs
    assert (out / "results.csv").read_text().count("interrupted") == jobs


def test_the_handler_of_sigterm_is_restored_during_the_block() -> None:
    """Another handler, installed while the block lasts, stands for Ray's."""
    received = []
    before = signal.signal(signal.SIGTERM, lambda *_: received.append("own"))
    try:
        with interruption.sigterm_kept():
            signal.signal(signal.SIGTERM, lambda *_: received.append("other"))
        os.kill(os.getpid(), signal.SIGTERM)
        await_that(lambda: received, "a handler")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == ["own"]
