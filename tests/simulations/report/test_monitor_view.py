"""The page of a run shows what its monitor recorded, in a size that does not grow with the run."""

import re

import pytest

from hqde_fl.monitor.schema import (
    CLIENT_PHASES,
    FILE,
    PHASES,
    Gpu,
    Host,
    Reply,
    ResourceSample,
    Sent,
    Span,
    Start,
    Stop,
    append_records,
)
from hqde_fl.simulations.recording.comparison import Comparison
from hqde_fl.simulations.report import monitor_data, write_report
from hqde_fl.simulations.report.monitor_data import read_monitor, spans_of_rounds
from hqde_fl.simulations.report.monitor_view import monitor_view
from hqde_fl.simulations.report.number_text import second_text
from hqde_fl.simulations.report.phase_drawings import MAX_BARS, MAX_TIMELINE_CLIENTS
from hqde_fl.simulations.report.resource_curves import MAX_POINTS, RunClock
from tests.simulations.report.test_templates import TEMPLATES

HOST = "<b>node</b>"


def round_spans(number, begin, clients=3, wait=5.0):
    """Yield the spans of a round that takes 1 s more than it waits, of which .25 s are unnamed."""
    yield Sent(begin, "train", number, tuple(range(clients)))
    for client in range(clients):
        yield Span(begin, "wait", 0.25 * client, number, client)
        yield Span(begin + 0.25 * client, "train", 1.0 + client, number, client)
        yield Reply(begin + 1.0 + 1.25 * client, "train", number, client, "accepted")
    until = begin + wait
    yield Span(begin, "wait", wait - 0.5, number, parent="round", until=until)
    yield Span(begin, "screen", 0.5, number, parent="round", until=until)
    yield Span(until, "aggregate", 0.5, number, parent="round")
    yield Span(until + 0.5, "my <phase>", 0.25, number, parent="round")
    yield Span(begin, "round", wait + 1.0, number)


def sample(time, host=HOST, **more):
    return ResourceSample(
        time, host, 1.0, 3, cpu=2.0, cpu_seconds=time, memory=10**9, read=1e6, written=2e6,
        received=3e6, sent=4e6, monitor_seconds=0.001 * time, **more,
    )  # fmt: skip


@pytest.fixture
def directory(tmp_path):
    """Return a directory with the monitor's records of two rounds."""
    gpus = (Gpu(0.5, 10**9), Gpu(None, None))
    write(
        tmp_path,
        [Start(0.0, HOST, 1, 1.0), Host(0.0, HOST, 8, 1 << 34, ("GPU",))],
        round_spans(1, 0.0),
        round_spans(2, 6.0, wait=6.5),
        [sample(float(second), gpus=gpus) for second in range(13)],
        [Stop(13.5, HOST, "finished")],
    )
    return tmp_path


def write(path, *groups):
    for records in groups:
        append_records(path / FILE, records)


def test_the_time_of_rounds_is_that_of_their_phases_and_the_rest(directory):
    view = monitor_view(directory)
    phases = {row.name: row for row in view.phases}
    assert list(phases) == ["wait", "screen", "aggregate", "other"]
    assert phases["wait"].total == 10.5
    assert (phases["wait"].most, phases["wait"].at) == (6.0, 2)
    assert phases["other"].total == pytest.approx(1.0)  # unnamed, and of a name that is unknown
    assert sum(row.total for row in view.phases) == pytest.approx(6.0 + 7.5)
    assert sum(row.fraction for row in view.phases) == pytest.approx(1.0)
    clients = {row.name: row for row in view.client_phases}
    assert clients["train"].mean == 2.0
    assert (clients["train"].most, clients["train"].at) == (3.0, 2)
    assert [(row.client, row.rounds, row.train, row.wait) for row in view.slow] == [
        (2, 2, 3.0, 0.5),
        (1, 2, 2.0, 0.25),
        (0, 2, 1.0, 0.0),
    ]


def test_nodes_have_their_sums_and_peaks(directory):
    (node,) = monitor_view(directory).nodes
    assert (node.cores, node.cpu, node.cpu_seconds, node.memory) == (8, 2.0, 26.0, 10**9)
    assert (node.gpu, node.gpu_memory) == (0.5, 10**9)
    assert (node.read, node.sent) == (13e6, 52e6)


def test_the_page_has_it_and_escapes_names(directory, tiny, record):
    run = record(directory, tiny)
    page = write_report(Comparison.of(run), directory).read_text()
    for heading in ("Where a round's time goes", "A round in time", "Resources", "slowest clients"):
        assert heading in page
    for chart in ("Clients in flight", "Memory of the run, GB", "Network, MB a second"):
        assert f"<h3>{chart}</h3>" in page
    assert "&lt;b&gt;node&lt;/b&gt;" in page
    assert "my &lt;phase&gt; 0.25 s" in page
    assert "<b>node" not in page
    assert "<phase>" not in page
    assert "#0000" not in page
    assert not re.search(r"""(src|href)\s*=\s*["'](https?:)?//""", page)


def test_a_run_without_a_monitor_has_no_such_sections(tmp_path, tiny, record):
    assert monitor_view(tmp_path) is None
    page = write_report(Comparison.of(record(tmp_path, tiny)), tmp_path).read_text()
    assert "Resources" not in page


@pytest.mark.parametrize("records", [[], [Start(0.0, "a", 1, 1.0)], [sample(1.0)]])
def test_a_run_that_ended_early_has_a_page(tmp_path, tiny, record, records):
    write(tmp_path, records)
    page = write_report(Comparison.of(record(tmp_path, tiny, [])), tmp_path).read_text()
    assert "Where a round" not in page


def test_of_a_round_that_was_run_again_the_last_attempt_counts(directory):
    before = read_monitor(directory / FILE)
    write(directory, [Start(5000.0, HOST, 2, 1.0)], round_spans(2, 5000.0, clients=2, wait=9.0))
    data = read_monitor(directory / FILE)
    assert data.rounds["seconds"].to_dict() == {1: 6.0, 2: 10.0}
    assert data.phases.loc[1].to_dict() == before.phases.loc[1].to_dict()
    assert data.phases.loc[2, "wait"] == 8.5
    assert data.trained.to_dict() == {0: 2, 1: 2, 2: 1}
    assert RunClock(data).paused
    assert RunClock(data).total == pytest.approx(12.0 + 10.0)  # without the pause


def test_pieces_make_no_difference_and_damaged_lines_little(directory, monkeypatch):
    file = directory / FILE
    whole, spans = read_monitor(file), spans_of_rounds(file, [1, 2])
    with file.open("ab") as end:
        end.write(
            b'\n{"kind":"span","name":7}\n{"kind":"sample","ti\n\xff\xfe\n{"kind":"new"}\n[]\n{'
        )
    for size in (1 << 20, 1500):
        monkeypatch.setattr(monitor_data, "PIECE_BYTES", size)
        data = read_monitor(file)
        for name in ("rounds", "phases", "clients", "trained", "samples"):
            assert getattr(data, name).equals(getattr(whole, name)), name
        assert data.ended == whole.ended
        assert data.flying[1].tolist() == whole.flying[1].tolist()
        assert [len(own) for own in spans_of_rounds(file, [1, 2]).values()] == [11, 11]
    assert [len(own) for own in spans.values()] == [11, 11]


def test_node_ids_of_all_64_bits_are_told_apart(tmp_path):
    ids = (2**64 - 2, 2**63, 2**53 + 1)
    write(tmp_path, [Span(1.0, "train", 1.0, 1, client) for client in ids])
    data = read_monitor(tmp_path / FILE)
    assert set(data.clients.index) == set(ids)


def test_the_size_of_the_page_has_a_bound(tmp_path):
    hosts = [f"node-{number}" for number in range(40)]
    rounds = (span for n in range(1, 1001) for span in round_spans(n, 9.0 * n, clients=2))
    write(tmp_path, rounds, round_spans(1001, 9009.0, clients=200, wait=300.0))
    write(tmp_path, [sample(9.0 * n, host) for n in range(0, 1001, 10) for host in hosts])
    view = monitor_view(tmp_path)
    assert view.bar_rounds == 17
    assert len(view.bars.blocks) <= 5 * MAX_BARS
    longest = view.timelines[1]
    assert longest.left_out == 200 - MAX_TIMELINE_CLIENTS
    assert len(view.nodes) + view.more_nodes == 40
    for curve in view.curves:
        assert len(curve.curves) <= 2, curve.title
        assert sum(len(line.path) for line in curve.curves) < 2 * 14 * MAX_POINTS


def test_the_style_sheet_has_a_colour_for_every_phase():
    style = (TEMPLATES / "style.css.md").read_text()
    for name in {*PHASES, *CLIENT_PHASES}:
        assert style.count(f"--ph-{name}: #") == 2  # in light and in dark mode
        assert f".ph-{name} {{" in style


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0 s"), (0.0004, "0.40 ms"), (0.0412, "41.2 ms"), (9.996, "10.0 s"), (179.0, "179 s"),
     (600.0, "10.0 min"), (9999.0, "167 min"), (1e5, "27.8 h")],
)  # fmt: skip
def test_times_have_units(seconds, text):
    assert second_text(seconds) == text
