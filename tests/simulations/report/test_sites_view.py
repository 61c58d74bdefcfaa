"""The page of a run on real sites: their names and times, and metrics without a test set."""

from __future__ import annotations

import json

import pytest

from hqde_fl.simulations.recording.comparison import Comparison
from hqde_fl.simulations.recording.file_names import NODES
from hqde_fl.simulations.recording.recorded_run import NO_METRICS, Run
from hqde_fl.simulations.report import render
from hqde_fl.simulations.report.run_view import tile_metrics
from hqde_fl.simulations.report.sites_view import SiteRow, site_rows, turnarounds
from hqde_fl.strategies.callbacks import ClientRecord, RoundRecord


def client(round_number, partition, *, kept=True, seconds=None, turnaround=None):
    reason = None if kept else "late"
    times = {"seconds": seconds, "turnaround_seconds": turnaround}
    return ClientRecord(round_number, 70 + partition, partition, kept, 0.5, reason, 1, 1, **times)


@pytest.fixture
def on_sites(tmp_path, tiny, record):
    """Return the records of two rounds on two sites, of which one is late in the second."""
    means = {"eval-accuracy": 0.75, "eval-loss": 0.5, "eval-accuracy-min": 0.7}
    first = (client(1, 0, seconds=1.0, turnaround=3.0), client(1, 1, seconds=2.0, turnaround=4.0))
    second = (client(2, 0, seconds=2.0, turnaround=5.0), client(2, 1, kept=False))
    rounds = [
        RoundRecord(round=0),
        RoundRecord(round=1, clients=first, clients_evaluate=means),
        RoundRecord(round=2, clients=second, clients_evaluate=means),
    ]
    record(tmp_path / "run", tiny, rounds)
    names = {"0": "clinic", "1": "university-hospital"}
    table = {n: {"node-id": "7", "name": name, "claimed": False} for n, name in names.items()}
    (tmp_path / "run" / NODES).write_text(json.dumps(table))
    return Run.load(tmp_path / "run")


def test_sites_have_their_names_rounds_and_times(on_sites):
    assert site_rows(on_sites) == [
        SiteRow(0, "clinic", rounds=2, kept=2, train=1.5, turnaround=4.0),
        SiteRow(1, "university-hospital", rounds=2, kept=1, train=2.0, turnaround=4.0),
    ]
    assert turnarounds(on_sites) == {0: 4.0, 1: 4.0}


def test_the_page_shows_the_sites_and_the_means_of_the_clients(on_sites):
    page = render(Comparison.of(on_sites))
    for text in ("<th>university-hospital</th>", "university-hos…", "<b>0.500</b>", "4.00 s"):
        assert text in page
    assert "client 1 university-hospital" in page
    assert "final eval-loss, mean of the clients" in page
    assert "not finite" not in page


@pytest.mark.parametrize("text", ["", "[1]", '{"a": 1}', '{"0": {}}', '{"0": {"name": ""}}'])
def test_a_damaged_list_of_names_has_none(on_sites, text):
    (on_sites.path / NODES).write_text(text)
    assert Run.load(on_sites.path).sites == {}


def test_a_run_without_any_metric_says_why(tmp_path, tiny, record):
    run = record(tmp_path / "run", tiny, [RoundRecord(round=0), RoundRecord(round=1)])
    assert tile_metrics(run) == [(f"no final metrics: {NO_METRICS}", None)]


def test_a_metric_of_the_server_that_is_not_finite_says_so(tmp_path, tiny, record):
    server = {"accuracy": float("nan"), "loss": 1.0}
    run = record(tmp_path / "run", tiny, [RoundRecord(round=0, server=server)])
    assert tile_metrics(run) == [("final accuracy: not finite", None), ("final loss", 1.0)]
