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
    line(None, "filtered"),
]


def test_precision_and_recall_are_about_the_decisions_of_the_rule():
    found = Detection.of(LINES)
    assert (found.faulty, found.honest) == (4, 5)
    assert (found.caught, found.false_alarms) == (1, 1)
    assert found.judged == Count(faulty=2, honest=2)
    assert found.unjudged == {
        "rejected": Count(1, 0),
        "failed": Count(1, 1),
        "late": Count(0, 1),
        "skipped": Count(0, 1),
    }
    assert found.precision == pytest.approx(1 / 2)
    assert found.recall == pytest.approx(1 / 2)
    assert found.f1 == pytest.approx(1 / 2)
    assert found.alarm_rate == pytest.approx(1 / 2)
    assert found.to_line()["failed-honest"] == 1


def test_a_rule_that_singles_out_nobody_has_judged_nobody():
    lines = [each for each in LINES if each["reason"] != "filtered"]
    found = Detection.of(lines, filters=False)
    assert (found.faulty, found.honest) == (3, 4)
    assert found.judged == Count()
    assert found.unjudged["failed"] == Count(1, 1)
    assert [found.precision, found.recall, found.f1, found.alarm_rate] == [None] * 4


def test_what_it_does_single_out_counts_in_that_round():
    """Multi-Krum with its own m singles out clients only where so few replied that m are left."""
    lines = [
        line(0, None, "zero"),
        line(1, None),
        line(0, "filtered", "zero", number=2),
        line(1, None, number=2),
    ]
    found = Detection.of(lines, filters=False)
    assert (found.judged, found.caught, found.recall) == (Count(1, 1), 1, 1.0)


def test_a_round_that_changed_nothing_was_no_decision():
    lines = [
        line(0, None, "zero", kept=False),  # too few replies: the rule was never asked
        line(1, None, kept=False),
        line(0, "filtered", "zero", number=2),  # the aggregate was not finite
        line(1, None, number=2, kept=False),
        line(0, None, "zero", number=3),
        line(1, None, number=3),
    ]
    found = Detection.of(lines)
    assert (found.requested, found.judged, found.filtered) == (Count(3, 3), Count(1, 1), Count())
    assert (found.precision, found.recall) == (None, 0.0)


def test_where_there_is_nothing_to_divide_by_there_is_no_number():
    assert Detection.of([line(0, None)]).recall is None
    assert Detection.of([line(0, None, "zero")]).precision is None
    assert Detection.of([line(0, None, "zero")]).recall == 0
    assert Detection.of([line(0, None, "zero")]).f1 == 0
    crashed = Detection.of([line(0, "failed: x", "crash"), line(1, "filtered"), line(2, None)])
    assert (crashed.precision, crashed.recall, crashed.f1) == (0.0, None, None)
    assert Detection.of([]) == Detection()


def test_totals_add_up():
    one, none = Detection.of(LINES), Detection.of(LINES[:2], filters=False)
    total = Detection.total([one, none])
    assert total.requested == one.requested + none.requested
    assert total.unjudged == one.unjudged
    assert Detection.total([]) == Detection()
