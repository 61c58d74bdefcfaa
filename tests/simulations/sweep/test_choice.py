"""Hyperparameters chosen on validation against the worst attack: a plain loop, ties, errors."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hqde_fl.errors import ConfigError, HQDEError
from hqde_fl.simulations.recording.choice import choices, chosen_only, is_chosen
from hqde_fl.simulations.recording.comparison import Comparison, ComparisonAxis
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.recording.seed_groups import ComparisonRow
from hqde_fl.simulations.statistics.analysis import Analysis
from hqde_fl.simulations.sweep.cells import Sweep

AXES = {"rule": "ab", "attack": "xyz", "lr": "123", "seed": "01"}
CELLS = list(product(*AXES.values()))


def comparison(scores: np.ndarray, status: str = "finished", when: Any = "last") -> Comparison:
    """Return a sweep whose validation accuracies (cells, rounds) are given; test is minus that."""
    rows = []
    for labels, values in zip(CELLS, scores, strict=True):
        lines = tuple(
            {"round": n, "server": {"accuracy": -v, "validation/accuracy": v}}
            for n, v in enumerate(map(float, values))
        )
        manifest = {"status": status, "error": None, "experiment": {"rounds": len(lines) - 1}}
        rows.append(ComparisonRow(tuple(labels), "".join(labels), Run(Path(), manifest, lines, ())))
    axes = tuple(ComparisonAxis(name, tuple(ls), tuple(ls)) for name, ls in AXES.items())
    return Comparison("t", axes, tuple(rows), Analysis(choose=("lr",), choose_round=when))


@pytest.mark.parametrize("when", ["last", "best"])
def test_against_a_plain_loop(when: str) -> None:
    scores = np.random.default_rng(0).integers(0, 20, (len(CELLS), 3)) / 20
    of = {labels: scores[place] for place, labels in enumerate(CELLS)}
    sweep = comparison(scores, when=when)
    for choice in choices(sweep):
        rule = choice.setting[0]
        worst = {}
        for lr in AXES["lr"]:
            curves = [np.mean([of[rule, a, lr, s] for s in "01"], axis=0) for a in AXES["attack"]]
            worst[lr] = min(c.max() if when == "best" else c[-1] for c in curves)
        best = max(worst.values())
        first = next(lr for lr in AXES["lr"] if np.isclose(worst[lr], best))
        assert choice.chosen == (first,)
        assert choice.worst == pytest.approx(best)
        for row in chosen_only(sweep).rows:
            if row.labels[0] != rule:
                continue
            _, attack, seed = row.labels
            curve = np.mean([of[rule, attack, first, s] for s in "01"], axis=0)
            number = int(np.argmax(curve)) if when == "best" else 2
            assert row.final("accuracy") == -of[rule, attack, first, seed][number]


def test_ties_go_to_the_first_and_unfinished_settings_have_no_choice() -> None:
    sweep = comparison(np.full((len(CELLS), 2), 0.5))
    assert [(c.chosen, c.tied) for c in choices(sweep)] == [(("1",), 2)] * 2
    assert sum(map(bool, is_chosen(sweep))) == len(CELLS) / 3
    running = comparison(np.full((len(CELLS), 2), 0.5), "running")
    assert [c.chosen for c in choices(running)] == [None, None]
    assert chosen_only(running) is running


DOCUMENT: dict[str, Any] = {
    "task": {"name": "digits", "validation": 0.1},
    "clients": {"count": 4},
    "sweep": {"clients": {"lr": [0.1, 0.2]}, "seeds": [0], "choose": ["clients.lr"]},
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": {"name": "digits"}}, "choose needs a validation set"),
        ({"sweep": DOCUMENT["sweep"] | {"choose": ["clients.momentum"]}}, "choose: axis"),
        ({"sweep": DOCUMENT["sweep"] | {"choose": ["seeds"]}}, "the seed and the faults"),
        ({"sweep": DOCUMENT["sweep"] | {"choose": "lr"}}, "list of keys"),
        ({"sweep": DOCUMENT["sweep"] | {"choose-round": "first"}}, "choose-round"),
    ],
)
def test_errors(change: dict[str, Any], message: str) -> None:
    assert Sweep.parse(DOCUMENT, "f").analysis.choose == ("lr",)
    with pytest.raises(HQDEError, match=message):
        Sweep.parse(DOCUMENT | change, "f")
    assert issubclass(ConfigError, HQDEError)
