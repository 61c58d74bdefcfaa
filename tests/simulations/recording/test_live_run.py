import json

import pytest

from hqde_fl.monitor.schema import (
    FILE,
    Host,
    Reply,
    ResourceSample,
    Sent,
    Span,
    Start,
    Stop,
    append_records,
)
from hqde_fl.simulations.recording import live_run
from hqde_fl.simulations.recording.live_run import GrowingFile, LiveRun, Problem
from hqde_fl.simulations.recording.manifest import read_manifest, write_manifest
from hqde_fl.strategies.callbacks import ClientRecord, RoundRecord

BEGIN = [Start(100.0, "a", 1, 1.0), Host(100.0, "a", 8, 1 << 30)]


def rounds_with_failures():
    yield RoundRecord(round=0, server={"accuracy": 0.1})
    for number in (1, 2):
        failed = ClientRecord(number, 9, 3, False, 0.0, "failed: RuntimeError: no memory", 1, 0, 0)
        filtered = ClientRecord(number, 8, None, False, 0.0, "filtered", 1, 1, 0)
        yield RoundRecord(
            round=number,
            server={"accuracy": 0.2 * number, "loss": float("nan")},
            asked=4,
            kept=2,
            filtered=1,
            failed=1,
            seconds=float(number),
            clients=(failed, filtered),
        )


@pytest.fixture
def run(tmp_path, tiny, record):
    """Return a recorded run as it looks while it goes on."""
    record(tmp_path / "run", tiny, rounds_with_failures())
    write_manifest(tmp_path / "run", read_manifest(tmp_path / "run") | {"status": "running"})
    return LiveRun(tmp_path / "run")


def monitor(run, *records):
    append_records(run.path / FILE, records)
    run.refresh()


def flying(run, now):
    return [(one.client, one.seconds) for one in run.in_flight(now)]


def test_nothing_is_known_before_the_run_begins(tmp_path):
    run = LiveRun(tmp_path / "later")
    run.refresh()
    assert (run.status, run.round, run.rounds, run.manifest) == ("waiting", 0, 0, None)
    assert run.in_flight(0.0) == []


def test_rounds_clients_and_problems_are_read(run):
    run.refresh()
    assert (run.status, run.round, run.rounds, run.round_seconds) == ("running", 2, 2, 1.5)
    assert run.metrics == {"accuracy": [0.1, 0.2, 0.4]}
    assert (run.counts["asked"], run.counts["kept"], run.counts["failed"]) == (8, 4, 2)
    reason = "failed: RuntimeError: no memory"
    assert run.problems == [Problem(2, 3, reason), Problem(1, 3, reason)]
    assert not run.monitored


def test_every_line_is_read_once_and_an_unfinished_one_later(run):
    run.refresh()
    line = (run.path / "rounds.jsonl").read_text().splitlines()[-1]
    third = json.dumps({**json.loads(line), "round": 3})
    with (run.path / "rounds.jsonl").open("a") as file:
        file.write(third[:40])
        file.flush()
        run.refresh()
        assert run.round == 2
        file.write(third[40:] + "\n")
    run.refresh()
    run.refresh()
    assert (run.round, run.counts["asked"]) == (3, 12)


def test_a_resumed_run_is_read_anew(run):
    run.refresh()
    rounds = run.path / "rounds.jsonl"
    lines = rounds.read_text().splitlines(keepends=True)
    rounds.write_text("".join(lines[:2]))  # as a resumption cuts it
    run.refresh()
    assert (run.round, run.counts["asked"]) == (1, 4)
    longer = lines[:2] + [lines[2].replace("0.4", "0.9")] * 3  # cut, and grown, between two looks
    rounds.write_text("".join(longer))
    write_manifest(run.path, read_manifest(run.path) | {"resumed": [{"round": 1, "refused": {}}]})
    run.refresh()
    assert run.metrics["accuracy"] == [0.1, 0.2, 0.9, 0.9, 0.9]


def test_clients_in_flight_are_ordered_by_their_usual_time(run):
    monitor(
        run,
        *BEGIN,
        Sent(100.0, "train", 1, (0, 1, 2)),
        Reply(101.0, "train", 1, 0, "accepted"),
        Reply(104.0, "train", 1, 1, "accepted"),
        Reply(109.0, "train", 1, 2, "late"),
        Sent(110.0, "train", 2, (0, 1, 2, 3)),
    )
    assert flying(run, 115.0) == [(0, 5.0), (2, 5.0), (3, 5.0), (1, 5.0)]
    slow = {one.client: one.slowness for one in run.in_flight(115.0)}
    assert slow == {0: 5.0, 1: 1.25, 2: 2.0, 3: 2.0}  # those without a time have the median, 2.5 s
    monitor(run, Reply(116.0, "train", 2, 0, "failed: gone"))
    assert [client for client, _ in flying(run, 116.0)] == [2, 3, 1]
    assert run.current_round == 2


def test_what_fails_in_the_present_round_is_known_at_once_and_once(run):
    monitor(run, *BEGIN, Sent(1.0, "train", 3, (5, 6, 7)))
    monitor(
        run, Reply(2.0, "train", 3, 5, "failed: gone"), Reply(2.0, "train", 3, 6, "skipped: none")
    )
    assert run.problems[0] == Problem(3, 5, "failed: gone")
    assert len(run.problems) == 3
    assert run.status == "running"


@pytest.mark.parametrize("end", [Stop(120.0, "a", "finished"), Start(120.0, "a", 2, 1.0)])
def test_nobody_is_in_flight_once_recording_has_ended_or_begun_again(run, end):
    monitor(run, *BEGIN, Sent(110.0, "train", 3, (1,)))
    assert flying(run, 111.0) == [(1, 1.0)]
    monitor(run, end)
    assert flying(run, 121.0) == []


def test_phases_are_summed_over_the_latest_rounds(run):
    spans = [
        Span(1.0, "wait", 1.0, number, parent="round")
        for number in range(live_run.RECENT_ROUNDS + 5)
    ]
    monitor(run, *BEGIN, *spans, Span(1.0, "train", 9.0, 3, client=1))
    assert run.phases == {"wait": float(live_run.RECENT_ROUNDS)}


DAMAGED = b"""\xff\xfe
[]
null
{"round": "x"}
{"kind": "sample", "time": "x"}
{"round": 3, "server": 5}
{"round": 3, "seconds": "x"}
{"round": null, "partition": 1, "reason": "late"}
{"partition": "x", "reason": "late"}
"""


def test_damaged_lines_are_passed_over(run):
    for name in ("rounds.jsonl", "clients.jsonl", FILE):
        with (run.path / name).open("ab") as file:
            file.write(DAMAGED)
    monitor(run, *BEGIN, ResourceSample(101.0, "a", 1.0))
    assert run.round == 2
    assert all(problem.round > 0 for problem in run.problems)
    assert run.samples["a"].time == 101.0


def test_of_a_long_file_only_its_ends_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(live_run, "HEAD_BYTES", 100)
    path = tmp_path / "long"
    path.write_bytes(b"".join(b"%08d\n" % number for number in range(1000)))
    file = GrowingFile(path, tail=100)
    read = [int(line) for line in file.new_lines()]
    assert read == [*range(11), *range(989, 1000)]
    with path.open("ab") as more:
        more.write(b"%08d\n" % 1000)
    assert [int(line) for line in file.new_lines()] == [1000]
