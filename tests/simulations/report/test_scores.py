from dataclasses import replace

import pytest

from hqde_fl.simulations.recording.detection import Count, Detection
from hqde_fl.simulations.report.scores import filtering_lines, line_scores


def test_lines_are_scored_over_all_conditions(robust):
    assert filtering_lines(robust) == ["sign-guard", "byzantine-filter"]
    scores = line_scores(robust)
    score = scores[0]
    assert (score.worst.mean, score.missing) == (pytest.approx(0.7), 0)
    assert score.detection == Detection(Count(12, 36), Count(12, 36), Count(6, 0))
    trimmed = next(score for score in scores if score.line == "<trim>")
    assert trimmed.detection == Detection(Count(12, 36))
    assert trimmed.detection.recall is None


def test_the_accuracy_of_a_group_is_the_mean_of_its_seeds_and_needs_all_of_them(robust):
    group = robust.group_at("sign-guard", ("zero", "f=1"))
    assert [row.labels[3] for row in group.rows] == ["seed=1", "seed=2"]
    assert group.mean == pytest.approx(0.7)
    broken = replace(group, rows=(group.rows[0], replace(group.rows[1], error="gone")))
    assert broken.mean is None
    assert broken.status == "failed"
    assert broken.by_seed == {"seed=1": pytest.approx(0.7)}


def test_a_mean_with_faults_is_that_of_conditions_with_faults(robust):
    assert [score.mean for score in line_scores(robust)] == [pytest.approx(0.7)] * 3
    rows = [replace(row, run=None) if row.labels[2] == "f=1" else row for row in robust.rows]
    rest = [row for row in rows if row.labels[0] != "sign-guard"]
    unfinished = replace(
        robust, rows=tuple(r for r in robust.rows if r.labels[0] == "sign-guard") + tuple(rest)
    )
    means = {score.line: (score.mean, score.clean) for score in line_scores(unfinished)}
    assert means["sign-guard"] == (pytest.approx(0.7), pytest.approx(0.7))
    assert means["<trim>"] == (None, pytest.approx(0.7))
