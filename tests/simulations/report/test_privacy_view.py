"""The page and the progress of a run with differential privacy state what it has spent."""

from __future__ import annotations

from pathlib import Path

from hqde_fl.simulations.console.progress import describe
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.comparison import Comparison
from hqde_fl.simulations.recording.run_directory import round_line
from hqde_fl.simulations.report import write_report
from hqde_fl.strategies.callbacks import RoundRecord
from hqde_fl.strategies.round.private_aggregation import NOISE_ALONE

PRIVATE = {
    "strategy": {"rule": "mean"},
    "privacy": {"noise-multiplier": 4.0, "accountant": "rdp"},
}


def rounds(*epsilons: float | None) -> list[RoundRecord]:
    server = {"accuracy": 0.5, "loss": 1.0}
    return [RoundRecord(number, server, epsilon=spent) for number, spent in enumerate(epsilons)]


def test_the_page_shows_epsilon_and_how_it_was_counted(tmp_path, tiny, record) -> None:
    private = Experiment.parse({**tiny.to_table(), **PRIVATE})
    run = record(tmp_path / "run", private, rounds(None, 1.25, 2.5))
    page = write_report(Comparison.of(run), tmp_path).read_text()
    assert "<b>2.500</b>" in page
    assert "epsilon at delta 1e-05" in page
    assert "Epsilon spent, all rounds together" in page
    assert "replace-one" in page
    assert "from a secure generator" in page


def test_without_it_the_page_says_nothing(tmp_path: Path, tiny, record) -> None:
    run = record(tmp_path / "run", tiny, rounds(None, None))
    page = write_report(Comparison.of(run), tmp_path).read_text()
    assert "epsilon" not in page[: page.index("<h2>What ran</h2>")].split("</style>")[-1]


def test_the_progress_line_has_the_epsilon_and_the_noise_is_no_void_round() -> None:
    record = RoundRecord(round=1, server={"accuracy": 0.5}, seconds=0.21, epsilon=1.25)
    assert describe(round_line(record), 3).endswith("epsilon 1.250  0.2 s")
    noise = RoundRecord(round=1, seconds=0.21, epsilon=1.25, note=NOISE_ALONE)
    assert describe(round_line(noise), 3).endswith(f"0.2 s  {NOISE_ALONE}")
