import re
import urllib.request
from urllib.error import URLError

import pytest

from hqde_fl.errors import ConfigError
from hqde_fl.monitor.exporters import Exporter, Exporters
from hqde_fl.monitor.performance_monitor import PerformanceMonitor
from hqde_fl.monitor.schema import Span
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.exporting import exported
from hqde_fl.simulations.recording.manifest import read_manifest
from hqde_fl.simulations.run import run_experiment
from tests.simulations.conftest import TINY

pytest.importorskip("prometheus_client")

SPAN = Span(1.0, "wait", 1.0, 1)


class Recorder(Exporter):
    name = "recorder"

    def __init__(self):
        self.calls = []

    def open(self, run, rounds):
        self.calls.append((run["name"], run["seed"], rounds))

    def record(self, record):
        self.calls.append(record)

    def round(self, line):
        self.calls.append(line["round"])

    def close(self):
        self.calls.append("closed")


def test_records_are_published_and_each_round_once(tmp_path, tiny, record):
    record(tmp_path, tiny)
    monitor, recorder = PerformanceMonitor(), Recorder()
    listeners = []
    monitor.add_listener = listeners.append
    with exported(Exporters([recorder]), monitor, tmp_path):
        (listener,) = listeners
        listener([SPAN])
        with (tmp_path / "rounds.jsonl").open("a") as file:
            file.write('{"round": 3}\n{"rou')
        listener([])
    assert recorder.calls == [("tiny", "7", 2), SPAN, 0, 1, 2, 3, "closed"]


def test_the_endpoint_is_there_while_a_run_goes_on_and_no_longer(tmp_path, capfd):
    experiment = Experiment.parse(TINY | {"monitor": {"prometheus": "127.0.0.1:0"}})
    pages = {}

    def fetch(line):
        told = re.search(r"prometheus: (\S+)", capfd.readouterr().err)  # among Flower's lines
        url = told[1] if told else next(iter(pages))
        with urllib.request.urlopen(url, timeout=10) as reply:
            pages[url] = reply.read().decode()

    run_experiment(experiment, tmp_path / "run", on_round=fetch, report=False)
    ((url, page),) = pages.items()
    assert 'hqde_fl_run_info{engine="inline",name="tiny",seed="7"' in page
    assert "hqde_fl_rounds 2.0" in page
    assert read_manifest(tmp_path / "run")["published-at"] == {"prometheus": url}
    with pytest.raises(URLError):
        urllib.request.urlopen(url, timeout=10)


def test_an_address_that_is_none_is_refused_before_anything_starts():
    with pytest.raises(ConfigError, match=r"monitor\.prometheus must be HOST:PORT.*'9464x'"):
        Experiment.parse(TINY | {"monitor": {"prometheus": "9464x"}})
