import dataclasses

import pytest

from hqde_fl.monitor.schema import (
    KINDS,
    Gpu,
    Host,
    Metric,
    Reply,
    ResourceSample,
    Sent,
    Span,
    Start,
    Stop,
    append_records,
    from_line,
    read_records,
    to_line,
    to_mapping,
    without_repeated_rounds,
)

RECORDS = [
    Start(1.5, "host", 3, 1.0),
    Host(1.5, "host", 2, 2**34, ("H100",)),
    ResourceSample(
        2.0, "host", 0.5, cpu=1.25, memory=7, received=3.0, gpus=(Gpu(0.5, 3), Gpu(None, 4, 1))
    ),
    Span(2.0, "wait", 0.1, round=1, parent="round", until=3.0),
    Metric(1.0, "loss", 0.25, round=1, client=2**63 + 5, epoch=4, batch=3),
    Metric(1.0, "loss", None),
    Sent(1.0, "train", 1, (1, 2)),
    Reply(1.0, "train", 1, 1, "rejected: NaN"),
    Stop(2.0, "host", "finished"),
]


def test_every_kind_is_read_as_it_was_written(tmp_path):
    assert {record.kind for record in RECORDS} == set(KINDS)
    append_records(tmp_path / "m", RECORDS)
    assert list(read_records(tmp_path / "m")) == RECORDS


def test_the_format_of_a_line():
    span = Span(2.0, "wait", 0.12345678, round=1, client=0, until=3.0)
    expected = {"kind": "span", "start": 2.0, "name": "wait", "seconds": 0.123457, "round": 1}
    assert to_mapping(span) == expected | {"client": 0, "until": 3.0}
    assert to_mapping(RECORDS[2])["gpus"] == [
        {"utilisation": 0.5, "memory": 3},
        {"memory": 4, "tree-memory": 1},
    ]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_null(value):
    assert from_line(to_line(Metric(1.0, "loss", value))) == Metric(1.0, "loss", None)


def test_the_end_of_a_span():
    assert Span(2.0, "wait", 0.5).end == 2.5
    assert Span(2.0, "wait", 0.5, until=4.0).end == 4.0


@pytest.mark.parametrize(
    "line",
    ["", "{", "[]", "3", '{"kind": "unheard"}', '{"kind": "reply", "time": 1}', '{"kind": ["x"]}'],
)
def test_what_is_no_record_is_passed_over(line):
    assert from_line(line) is None


def test_keys_of_a_later_version_are_passed_over():
    assert from_line('{"kind":"stop","time":1.0,"host":"h","reason":"r","later":1}') == Stop(
        1.0, "h", "r"
    )


def test_a_line_that_a_killed_process_did_not_finish(tmp_path):
    path = tmp_path / "m"
    append_records(path, RECORDS[:2])
    with path.open("a") as file:
        file.write('{"kind":"span","sta')
    append_records(path, RECORDS[2:])
    assert list(read_records(path)) == RECORDS
    assert path.read_text().count("\n") == len(RECORDS) + 1


def test_rounds_that_were_run_again_count_once():
    first = [Start(0.0, "h", 1, 1.0), Span(1.0, "round", 1.0, 1), Span(2.0, "round", 1.0, 2)]
    sample = ResourceSample(2.5, "h", 1.0)
    second = [Start(3.0, "h", 2, 1.0), Span(3.0, "round", 1.0, 2), Sent(3.0, "train", 3, (1,))]
    kept = without_repeated_rounds([*first, sample, *second])
    assert kept == [first[0], first[1], sample, *second]


def test_records_are_values():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RECORDS[0].time = 3.0
