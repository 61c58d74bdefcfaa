import itertools
import json
import os
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from hqde_fl.errors import ConfigError, RunError
from hqde_fl.monitor import performance_monitor
from hqde_fl.monitor.schema import (
    CLIENT_PHASES,
    PHASES,
    Metric,
    Reply,
    ResourceSample,
    Sent,
    Span,
    Start,
    Stop,
    read_records,
    without_repeated_rounds,
)
from hqde_fl.monitor.spans import is_recording
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.monitoring import ROOT_VARIABLE, _root
from hqde_fl.simulations.run import run_experiment
from hqde_fl.simulations.sweep.cells import Sweep


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The directory and the records of a run with two rounds of training and evaluation."""
    path = tmp_path_factory.mktemp("recorded") / "run"
    run_experiment(experiment(strategy={"rule": "median", "fraction-evaluate": 0.5}), path)
    return path, list(read_records(path / "monitor.jsonl"))


def experiment(**changes):
    document = {
        "name": "tiny",
        "seed": 7,
        "rounds": 2,
        "task": {"name": "digits", "hidden": 8},
        "clients": {"count": 4, "lr": 0.1},
        "strategy": {"rule": "median"},
        "engine": {"name": "inline"},
    }
    return Experiment.parse(document | changes)


def spans(records, number, client=None):
    chosen = (r for r in records if isinstance(r, Span) and (r.round, r.client) == (number, client))
    return sorted(chosen, key=lambda record: record.time)


def test_the_files_of_a_run(recorded):
    path, records = recorded
    assert isinstance(records[0], Start)
    assert isinstance(records[-1], Stop)
    assert records[-1].reason == "finished"
    assert any(isinstance(record, ResourceSample) for record in records)
    assert len(pq.read_table(path / "monitor.parquet")) == len(records)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_phases_of_a_round_follow_each_other_within_it(recorded, number):
    _, records = recorded
    *phases, whole = sorted(
        (s for s in spans(records, number) if s.parent in (None, "round")),
        key=lambda s: s.name == "round",
    )
    assert (whole.name, whole.parent) == ("round", None)
    assert {phase.name for phase in phases} == set(PHASES if number else PHASES[5:])
    for before, after in itertools.pairwise(phases):
        interleaved = before.until is not None and after.until is not None
        assert interleaved or before.end <= after.time + 1e-3
    assert phases[0].time >= whole.time
    assert phases[-1].end <= whole.end + 1e-3
    assert sum(phase.seconds for phase in phases) <= whole.seconds


@pytest.mark.parametrize("client", range(4))
def test_the_phases_of_a_client(recorded, client):
    _, records = recorded
    names = [span.name for span in spans(records, 1, client)]
    trained = ["wait", "decode", "train", "encode", "screen"]
    assert names in (trained, [*trained, "wait", "decode", "evaluate", "encode"])
    assert set(names) <= set(CLIENT_PHASES)


def test_every_message_that_was_sent_is_answered(recorded):
    _, records = recorded
    sent = [record for record in records if isinstance(record, Sent)]
    assert [(s.round, s.task) for s in sent] == [
        (number, task) for number in (1, 2) for task in ("train", "evaluate")
    ]
    assert sent[0].clients == (0, 1, 2, 3)
    assert len(sent[1].clients) == 2
    replies = {(r.task, r.round, r.client): r.outcome for r in records if isinstance(r, Reply)}
    assert replies == {(s.task, s.round, c): "accepted" for s in sent for c in s.clients}


def test_outcomes_of_replies(tmp_path):
    faults = [{"name": "nan", "clients": [1]}, {"name": "crash", "clients": [2]}]
    path = tmp_path / "run"
    run_experiment(experiment(rounds=1, faults=faults), path, report=False)
    records = list(read_records(path / "monitor.jsonl"))
    outcomes = {r.client: r.outcome.partition(":")[0] for r in records if isinstance(r, Reply)}
    assert outcomes == {0: "accepted", 1: "rejected", 2: "failed", 3: "accepted"}


def test_metrics_that_a_client_records(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from hqde_fl import record_training_metric\n"
        "from hqde_fl.simulations.tasks import load_task\n"
        "from dataclasses import replace\n"
        "from torch.nn import functional\n"
        "def task(partitions, seed, **given):\n"
        "    task = load_task({'name': 'digits'}, {'name': 'iid'}, partitions, seed)\n"
        "    def loss(outputs, targets):\n"
        "        value = functional.cross_entropy(outputs, targets)\n"
        "        record_training_metric('own-loss', value.detach(), epoch=1)\n"
        "        return value\n"
        "    return replace(task, loss=loss)\n"
    )
    file = tmp_path / "mine.py"
    path = tmp_path / "run"
    document = experiment(rounds=1).to_table() | {"task": {"name": f"{file}:task"}}
    run_experiment(Experiment.parse(document), path, report=False)
    metrics = [r for r in read_records(path / "monitor.jsonl") if isinstance(r, Metric)]
    clients = {(m.name, m.round, m.client, m.epoch) for m in metrics if m.client is not None}
    assert clients == {("own-loss", 1, client, 1) for client in range(4)}


def test_a_run_without_a_monitor(tmp_path):
    run_experiment(experiment(monitor={"enabled": False}), tmp_path / "run", report=False)
    assert not list((tmp_path / "run").glob("monitor.*"))
    assert not is_recording()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"enable": True}, r"unknown \[monitor\] key 'enable': did you mean 'enabled'"),
        ({"interval": 0.0}, "monitor.interval"),
        ({"interval": 1e9}, "monitor.interval"),
        ({"interval": "1 s"}, "monitor.interval"),
    ],
)
def test_a_wrong_key_is_an_error_before_the_run(table, message):
    with pytest.raises(ConfigError, match=message):
        experiment(monitor=table)


def test_a_monitor_that_fails_costs_the_run_nothing(tmp_path, monkeypatch, caplog):
    def failing(path, records):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(performance_monitor, "append_records", failing)
    result = run_experiment(experiment(), tmp_path / "run", report=False)
    monkeypatch.undo()
    plain = experiment(monitor={"enabled": False})
    assert result.final == run_experiment(plain, tmp_path / "plain", report=False).final
    assert "the monitor failed and records no more; the run goes on (OSError" in caplog.text


def test_a_run_that_fails_says_why(tmp_path):
    path = tmp_path / "run"
    with pytest.raises(RunError):
        run_experiment(experiment(faults=[{"name": "crash", "count": 4}]), path, report=False)
    *_, stop = read_records(path / "monitor.jsonl")
    assert stop.reason.startswith("RunError: ")
    assert (path / "monitor.parquet").exists()


@pytest.mark.slow
def test_a_killed_run_goes_on_in_the_same_file(tmp_path):
    path = tmp_path / "run"
    code = (
        "import json, sys; from pathlib import Path\n"
        "from hqde_fl.simulations.experiment.experiment import Experiment\n"
        "from hqde_fl.simulations.run import run_experiment\n"
        "document = json.loads(sys.argv[1])\n"
        "run_experiment(Experiment.parse(document), Path(sys.argv[2]), report=False)\n"
    )
    (tmp_path / "mine.py").write_text(
        "import os, time\n"
        "from hqde_fl import Callback\n"
        "class Killed(Callback):\n"
        "    def on_round(self, record, arrays):\n"
        '        span = (\'"name":"round"\', \'"round":1\')\n'
        "        while record.round == 2 and not any(\n"
        "            all(part in line for part in span)\n"
        "            for line in (self.path / 'monitor.jsonl').read_text().splitlines()\n"
        "        ):\n"
        "            time.sleep(0.01)\n"
        "        if record.round == 2:\n"
        "            os._exit(9)\n"
        "    def on_run(self, path, experiment):\n"
        "        self.path = path\n"
    )
    monitor = {"interval": 0.05}
    killed = experiment(callbacks=[{"name": f"{tmp_path / 'mine.py'}:Killed"}], monitor=monitor)
    done = subprocess.run(
        [sys.executable, "-c", code, killed.to_json(), str(path)], capture_output=True, check=False
    )
    assert done.returncode == 9, done.stderr.decode()
    with (path / "monitor.jsonl").open("a") as file:
        file.write('{"kind":"span","na')
    assert not (path / "monitor.parquet").exists()
    result = run_experiment(experiment(), path, report=False, resume=True)
    records = list(read_records(path / "monitor.jsonl"))
    assert [r.kind for r in records if isinstance(r, Start | Stop)] == ["start", "start", "stop"]
    assert len(pq.read_table(path / "monitor.parquet")) == len(records)
    kept = without_repeated_rounds(records)
    assert [s.round for s in kept if isinstance(s, Span) and s.name == "round"] == [0, 1, 2]
    assert [s.round for s in kept if isinstance(s, Sent)] == [1, 2]
    assert result.final == json.loads((path / "manifest.json").read_text())["final"]


def test_cells_of_a_sweep_have_a_monitor_if_the_file_says_so():
    document = experiment().to_table()
    del document["monitor"]
    swept = {**document, "sweep": {"seeds": [1, 2]}}
    asked = {**swept, "monitor": {"interval": 2.0}}
    plain, monitored = Sweep.parse(swept, "s").cells, Sweep.parse(asked, "s").cells
    assert [cell.experiment.monitor.enabled for cell in plain] == [False, False]
    assert [cell.experiment.monitor.enabled for cell in monitored] == [True, True]
    assert [cell.key for cell in plain] == [cell.key for cell in monitored]


def test_the_tree_is_that_of_the_process_that_started_the_run(monkeypatch):
    monkeypatch.setenv(ROOT_VARIABLE, str(os.getppid()))
    assert _root() == os.getppid()
    monkeypatch.setenv(ROOT_VARIABLE, "999999999")
    assert _root() == os.getpid()
    monkeypatch.delenv(ROOT_VARIABLE)
    assert _root() == os.getpid()
