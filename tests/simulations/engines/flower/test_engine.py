"""The ``flower`` engine: real runs of ``flwr run``, and the parts they are made of."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from flwr.cli.config_utils import load_and_validate

from hqde_fl.errors import ConfigError, RunError
from hqde_fl.simulations.engines.flower import superlink
from hqde_fl.simulations.engines.flower.app_writer import write_app
from hqde_fl.simulations.engines.flower.engine import run_flower
from hqde_fl.simulations.engines.flower.flower_run import LOG_FILE
from hqde_fl.simulations.engines.flower.superlink import environment_for, private_superlink
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.run import run_experiment

CLIENTS = 3
EXPERIMENT = Experiment.parse(
    {
        "name": "tiny",
        "seed": 3,
        "rounds": 2,
        "clients": {
            "count": CLIENTS,
            "lr": 0.1,
            "members": 2,
            "assignment": "round-robin",
            "speed": "log-uniform",
            "bandwidth": "log-uniform",
            "drop-out": 0.5,
        },
    }
)


def curve(directory: Path) -> list[float]:
    lines = (directory / "rounds.jsonl").read_text().splitlines()
    return [json.loads(line)["server"]["accuracy"] for line in lines]


def virtual_times(directory: Path) -> list[tuple[int, float]]:
    """The partition ids and virtual times of all replies, by round."""
    lines = map(json.loads, (directory / "clients.jsonl").read_text().splitlines())
    return [(line["partition"], line["virtual-turnaround"]) for line in lines]


def home_of(log: Path) -> Path:
    """The temporary ``FLWR_HOME`` of a run, from its log."""
    found = re.search(r"Successfully installed \S+ to (\S+)/apps/", log.read_text())
    assert found is not None
    return Path(found[1])


def left_running(home: Path) -> list[str]:
    """Processes that belong to a run: by their environment, or by a path on their command line."""
    found = []
    for process in psutil.process_iter():
        try:
            words = " ".join(process.cmdline())
            if process.environ().get("FLWR_HOME") == str(home) or str(home) in words:
                found.append(words)
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
def test_two_runs_at_once_a_good_one_and_a_failing_one(tmp_path: Path) -> None:
    good, bad, lines = tmp_path / "good", tmp_path / "bad", list[str]()
    with ThreadPoolExecutor(2) as pool:
        runs = pool.submit(run_flower, EXPERIMENT.to_json(), CLIENTS, good, on_line=lines.append)
        fails = pool.submit(run_flower, '{"rounds": -1}', CLIENTS, bad, on_line=lambda line: None)
        runs.result()
        with pytest.raises(RunError, match=r"ended finished:failed: .*rounds"):
            fails.result()

    inline = run_experiment(EXPERIMENT, tmp_path / "inline", engine="inline").path
    assert len(curve(good)) == 3
    assert virtual_times(good) == virtual_times(inline)
    assert "dropped out" in (good / "clients.jsonl").read_text()
    assert curve(good) == pytest.approx(curve(inline), abs=1e-3)
    assert (good / "report.html").is_file()
    assert (good / LOG_FILE).read_text().splitlines() == lines
    assert not (bad / "rounds.jsonl").exists()
    for directory in (good, bad):
        home = home_of(directory / LOG_FILE)
        assert not home.exists()
        assert left_running(home) == []


@pytest.mark.slow
def test_an_interrupt_ends_all_that_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(superlink, "short_folder", lambda length: str(tmp_path))
    homes: list[Path] = []

    def interrupt(line: str) -> None:
        homes.extend(tmp_path.glob("hqde-fl-*"))
        assert left_running(homes[0])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_flower(EXPERIMENT.to_json(), CLIENTS, tmp_path / "out", on_line=interrupt)
    assert len(homes) == 1
    assert not homes[0].exists()
    assert left_running(homes[0]) == []


def test_a_superlink_that_does_not_start_is_a_run_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "flower-superlink"
    broken.write_text("#!/bin/sh\necho the port is taken\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(superlink, "program", lambda name, environment: str(broken))
    with (
        pytest.raises(RunError, match="did not start: the port is taken"),
        private_superlink(tmp_path / "states"),
    ):
        pass


def test_a_missing_program_is_a_run_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="'flwr' is not on the PATH"):
        superlink.program("flwr", {"PATH": str(tmp_path)})


def test_the_environment_adds_to_the_users_own(tmp_path: Path) -> None:
    base = {"PATH": "/bin", "NO_PROXY": "intranet", "HQDE_FL_DATA": "/data"}
    found = environment_for(tmp_path, base)
    assert found["HQDE_FL_DATA"] == "/data"
    assert found["PATH"].endswith(":/bin")
    assert found["NO_PROXY"] == found["no_proxy"] == "intranet,127.0.0.1"
    assert environment_for(tmp_path, {})["NO_PROXY"] == "127.0.0.1"


def test_the_generated_app_passes_flowers_checks_and_keeps_every_character(tmp_path: Path) -> None:
    config = {"config": '{"name": "a \\"b\\"\\n\t\\\\ é 🙂"}', "out": "/a b/c"}
    write_app(tmp_path / "app", config)
    project, warnings = load_and_validate(tmp_path / "app" / "pyproject.toml")
    assert project["tool"]["flwr"]["app"]["config"] == config
    assert warnings == []


@pytest.mark.parametrize(
    ("partitions", "cpus", "gpus", "message"),
    [
        (0, 1, 0, "partitions = 0"),
        (2, 0.5, 0, r"cpus-per-client = 0\.5"),
        (2, 0, 0, "cpus-per-client = 0"),
        (2, 1, -1, "gpus-per-client = -1"),
    ],
)
def test_resources_that_flower_does_not_know_are_refused(
    tmp_path: Path, partitions: int, cpus: float, gpus: float, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_flower(
            "{}",
            partitions,
            tmp_path / "out",
            cpus_per_client=cpus,
            gpus_per_client=gpus,
            on_line=lambda line: None,
        )
    assert not (tmp_path / "out").exists()
