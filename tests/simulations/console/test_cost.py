"""What a dry run says a run would cost is about what it costs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hqde_fl.simulations.console.cost import cost_text
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.run import run_experiment
from tests.simulations.conftest import TINY


def bytes_in(text: str) -> list[float]:
    units = {"kB": 1e3, "MB": 1e6}
    return [float(n) * units[unit] for n, unit in re.findall(r"([\d.e+]+) (kB|MB)", text)]


@pytest.mark.parametrize("codec", ["identity", "quantized"])
def test_about_the_bytes_of_a_round(codec: str, tmp_path: Path) -> None:
    table = {**TINY, "rounds": 1, "faults": [], "strategy": {"codec": codec}}
    table["clients"] = {"count": 4, "members": 2}
    experiment = Experiment.parse(table, ["strategy.fraction-train=0.5", "task.hidden=128"])
    text = cost_text(experiment, experiment.checked_task())
    assert text.startswith("ok: 2 of 4 clients x 1 rounds, 2 replies; about ")
    run_experiment(experiment, tmp_path / "run", report=False)
    line = Run.load(tmp_path / "run").rounds[1]
    down, up = bytes_in(text)
    assert down == pytest.approx(line["bytes-down"], rel=0.1)
    assert up == pytest.approx(line["bytes-up"], rel=0.1)


def test_a_packed_downlink_sends_the_first_model_whole() -> None:
    table = {**TINY, "faults": [], "strategy": {"downlink": "quantized"}}
    experiment = Experiment.parse(table)
    down, _, first = bytes_in(cost_text(experiment, experiment.checked_task()))
    assert first > 2 * down
