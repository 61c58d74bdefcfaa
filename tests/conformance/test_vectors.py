"""Our rules on the published vectors, and Flower's, which is always there, on generated cases."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conformance.cases import Case
from tests.conformance.comparison import OURS, UNEXPLAINED, compare, result_of
from tests.conformance.peers import Pair, installed_pairs
from tests.conformance.subjects import SUBJECTS, Subject
from tests.conformance.vectors.run_vectors import main, run, vectors

FLOWER = [pair for pair in installed_pairs() if pair.peer == "flwr"]


def called(subject: Subject) -> Callable[[np.ndarray, int, float], object]:
    return lambda rows, f, parameter: subject.ours(Case(rows, f, parameter, ""))


@pytest.mark.parametrize("name", SUBJECTS)
def test_vectors_give_what_is_stored(name: str) -> None:
    outcome = run(called(SUBJECTS[name]), name, step=7)
    assert outcome.run >= 20
    assert outcome.wrong == []


@pytest.mark.parametrize("name", SUBJECTS)
def test_papers_admit_our_results(name: str) -> None:
    subject = SUBJECTS[name]
    for index in range(300, 308):
        case = subject.case(index)
        ours = result_of(subject.ours, case)
        assert subject.is_admitted(case.normalised(), ours), index


def test_vectors_are_the_generated_cases() -> None:
    for index, vector in enumerate(vectors("krum")):
        case = SUBJECTS["krum"].case(index)
        np.testing.assert_array_equal(vector.rows, case.rows)
        assert (vector.rows.dtype, vector.f) == (case.rows.dtype, case.f)


@pytest.mark.parametrize("pair", FLOWER, ids=lambda pair: pair.subject)
def test_flower_agrees_or_the_reason_is_known(pair: Pair) -> None:
    tally = compare(pair, 32)
    assert tally.agreed + sum(tally.reasons.values()) == 32
    assert not {UNEXPLAINED, OURS} & set(tally.reasons)


def test_a_wrong_function_is_noticed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "conformance_example.py").write_text(
        "import numpy as np\n\n"
        "def right(rows, f, parameter):\n    return np.median(rows, axis=0)\n\n"
        "def wrong(rows, f, parameter):\n    return np.sort(rows, axis=0)[len(rows) // 2]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert main("median", "conformance_example:right") == 0
    assert main("median", "conformance_example:wrong") == 1
    assert "different" in capsys.readouterr().out


def test_caf_leaves_no_weight_to_either_of_two_rows_equally_far() -> None:
    rows = np.array([[-1.0], [-0.5], [-0.5], [0.5], [0.5], [-0.5], [-1.0]], dtype=np.float32)
    case = Case(rows * np.float32(94382208319488.0), 2, 1.0, "grid")
    subject = SUBJECTS["caf"]
    assert subject.is_admitted(case.normalised(), result_of(subject.ours, case))
