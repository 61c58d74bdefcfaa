import json
import sys

import pytest
import tomli_w
from flwr.app import ArrayRecord

from hqde_fl import own_files
from hqde_fl.simulations import report
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.recording.run_directory import RunDirectory
from hqde_fl.strategies.callbacks import ClientRecord, RoundRecord


@pytest.fixture(autouse=True)
def own_folders():
    """Search no folders of the user's own that another test has added."""
    path, folders = list(sys.path), list(own_files.folders)
    own_files.folders.clear()
    yield
    sys.path[:], own_files.folders[:] = path, folders


@pytest.fixture(autouse=True)
def reports(request, monkeypatch):
    """Let runs in this process write no report, most of a tiny run's time, unless a test asks.

    A test asks with ``@pytest.mark.usefixtures("with_reports")``.
    """
    if "with_reports" not in request.fixturenames:
        monkeypatch.setattr(report, "report_or_warn", lambda comparison, out: None)


@pytest.fixture
def with_reports():
    """Let runs write their reports."""


TINY = {
    "name": "tiny",
    "seed": 7,
    "rounds": 2,
    "task": {"name": "digits", "hidden": 8},
    "clients": {"count": 4, "lr": 0.1},
    "strategy": {"rule": "median"},
    "faults": [{"name": "sign-flip", "count": 1}],
    "engine": {"name": "inline"},
}


@pytest.fixture
def tiny():
    """Return a small, fast experiment."""
    return Experiment.parse(TINY)


@pytest.fixture
def filtering():
    """Return the small experiment with a rule that filters clients."""
    return Experiment.parse(TINY | {"strategy": {"rule": "sign-guard"}})


def rounds_of(experiment, rounds=2):
    """Yield records as a run of an experiment might leave them.

    A rule that filters catches the faulty in round 1 and keeps them in round 2.
    """
    yield RoundRecord(round=0, server={"accuracy": 0.1, "loss": 2.3})
    for number in range(1, rounds + 1):
        clients = []
        for partition in range(experiment.clients.count):
            caught = experiment.parts.filters and partition in experiment.faulty and number == 1
            clients.append(
                ClientRecord(
                    round=number,
                    node=1000 + partition,
                    partition=partition,
                    kept=not caught,
                    influence=0.0 if caught else 1 / experiment.clients.count,
                    reason="filtered" if caught else None,
                    bytes_down=100,
                    bytes_up=90,
                    seconds=0.01,
                )
            )
        yield RoundRecord(
            round=number,
            server={"accuracy": 0.1 + 0.3 * number, "loss": 2.0 / number},
            clients_train={"train-loss": 1.0 / number, "train-seconds": 0.01},
            asked=len(clients),
            kept=sum(client.kept for client in clients),
            filtered=sum(not client.kept for client in clients),
            bytes_down=100 * len(clients),
            bytes_up=90 * len(clients),
            bytes_down_by_role={"trainable": 60 * len(clients), "frozen": 40 * len(clients)},
            bytes_up_by_role={"trainable": 90 * len(clients), "statistics": 0},
            seconds=0.5,
            clients=tuple(clients),
        )


@pytest.fixture
def record():
    """Return the function that makes a run directory with records in it, and reads it back."""

    def record(path, experiment, records=None):
        directory = RunDirectory(path, experiment)
        with directory.recording():
            for line in rounds_of(experiment) if records is None else records:
                directory.on_round(line, ArrayRecord())
        return Run.load(path)

    return record


@pytest.fixture
def comparable():
    """Return the function that reads a .jsonl file without what differs between runs of a seed."""

    def without_seconds(value):
        if isinstance(value, dict):
            return {k: without_seconds(v) for k, v in value.items() if not k.endswith("seconds")}
        return [without_seconds(entry) for entry in value] if isinstance(value, list) else value

    def comparable(path):
        return [without_seconds(json.loads(line)) for line in path.read_text().splitlines()]

    return comparable


@pytest.fixture
def tiny_file(tmp_path):
    """Return a file with the small experiment."""
    file = tmp_path / "tiny.toml"
    file.write_text(tomli_w.dumps(TINY))
    return file
