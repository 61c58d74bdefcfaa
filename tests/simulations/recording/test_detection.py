import pytest

from hqde_fl.simulations.recording.detection import Count, Detection


def line(partition, reason, fault=None, number=1, kept=None):
    kept = reason is None if kept is None else kept
    return {
        "round": number,
        "partition": partition,
        "reason": reason,
        "fault": fault,
        "kept": kept,
    }


LINES = [
    line(0, "filtered", "sign-flip"),
    line(1, None, "sign-flip"),
    line(2, "rejected: non-finite update", "nan"),
    line(3, "failed: RuntimeError: x", "crash"),
    line(4, "filtered"),
    line(5, None),
    line(6, "late"),
    line(7, "skipped: no data"),
    line(8, "failed: out of memory"),
    line(9, "missing: needs the model in full"),
    line(None, "filtered"),
]


def test_precision_and_recall_measure_the_decisions_of_the_rule():
    detection = Detection.of(LINES)
    assert (detection.faulty, detection.honest) == (4, 6)
    assert (detection.caught, detection.false_alarms) == (1, 1)
    assert detection.judged == Count(faulty=2, honest=2)
    assert detection.unjudged == {
        "rejected": Count(1, 0),
        "failed": Count(1, 1),
        "late": Count(0, 1),
        "missing": Count(0, 1),
        "skipped": Count(0, 1),
    }
    assert detection.precision == pytest.approx(1 / 2)
    assert detection.recall == pytest.approx(1 / 2)
    assert detection.f1 == pytest.approx(1 / 2)
    assert detection.alarm_rate == pytest.approx(1 / 2)
    assert detection.to_line()["failed-honest"] == 1


def test_a_rule_that_does_not_filter_judges_no_clients():
    lines = [entry for entry in LINES if entry["reason"] != "filtered"]
    detection = Detection.of(lines, filters=False)
    assert (detection.faulty, detection.honest) == (3, 5)
    assert detection.judged == Count()
    assert detection.unjudged["failed"] == Count(1, 1)
    assert [detection.precision, detection.recall, detection.f1, detection.alarm_rate] == [None] * 4


def test_a_rule_that_filters_in_one_round_only_judges_the_clients_of_that_round():
    """Multi-Krum with an m of its own filters clients only in rounds with few replies."""
    lines = [
        line(0, None, "zero"),
        line(1, None),
        line(0, "filtered", "zero", number=2),
        line(1, None, number=2),
    ]
    detection = Detection.of(lines, filters=False)
    assert (detection.judged, detection.caught, detection.recall) == (Count(1, 1), 1, 1.0)


def test_clients_of_a_round_without_an_aggregate_are_not_judged():
    lines = [
        line(0, None, "zero", kept=False),  # too few replies: the rule did not run
        line(1, None, kept=False),
        line(0, "filtered", "zero", number=2),  # the aggregate was not finite
        line(1, None, number=2, kept=False),
        line(0, None, "zero", number=3),
        line(1, None, number=3),
    ]
    detection = Detection.of(lines)
    assert (detection.requested, detection.judged, detection.filtered) == (
        Count(3, 3),
        Count(1, 1),
        Count(),
    )
    assert (detection.precision, detection.recall) == (None, 0.0)


def test_scores_over_no_clients_are_none():
    assert Detection.of([line(0, None)]).recall is None
    assert Detection.of([line(0, None, "zero")]).precision is None
    assert Detection.of([line(0, None, "zero")]).recall == 0
    assert Detection.of([line(0, None, "zero")]).f1 == 0
    crashed = Detection.of([line(0, "failed: x", "crash"), line(1, "filtered"), line(2, None)])
    assert (crashed.precision, crashed.recall, crashed.f1) == (0.0, None, None)
    assert Detection.of([]) == Detection()


def test_a_total_adds_up_all_counts():
    one, none = Detection.of(LINES), Detection.of(LINES[:2], filters=False)
    total = Detection.total([one, none])
    assert total.requested == one.requested + none.requested
    assert total.unjudged == one.unjudged
    assert Detection.total([]) == Detection()


def test_a_sleeping_attacker_counts_neither_as_faulty_nor_as_honest():
    """It stays filtered for some rounds after its fault, which is no false alarm."""
    sleeping = [{**line(1, "filtered", number=2), "sleeping": True}]
    acting = [line(1, "filtered", "zero"), line(0, None)]
    lines = [*acting, line(0, None, number=2), *sleeping]
    detection = Detection.of(lines)
    assert (detection.requested, detection.judged, detection.filtered) == (
        Count(1, 2),
        Count(1, 2),
        Count(1, 0),
    )
    assert (detection.precision, detection.recall, detection.sleeping) == (1.0, 1.0, 1)
    assert Detection.total([detection, detection]).counts()["sleeping"] == 2
    only = Detection.of(sleeping)
    assert (only.judged, only.precision, only.recall) == (Count(), None, None)
