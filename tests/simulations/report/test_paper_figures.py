import stat

import pytest

from hqde_fl.simulations.report import write_report
from hqde_fl.simulations.report.paper_figures import write_figures

WORST = "rule-by-f-worst-over-the-rest"
FIGURES = ("curves-accuracy", "final-accuracy", "rule-by-attack-f=0", "rule-by-attack-f=1", WORST)


@pytest.mark.filterwarnings("error:Glyph")
def test_labels_with_any_characters_can_be_drawn(tmp_path, labelled):
    write_report(labelled("1/2 split", "\u65e5\u672c\u8a9e $"), tmp_path)
    assert sorted(path.stem for path in (tmp_path / "figures").glob("*.pdf")) == [
        "curves-accuracy",
        "rule-by-attack-1-2-split",
        "rule-by-attack-\u65e5\u672c\u8a9e",
        "rule-by-partition-worst-over-the-rest",
    ]


@pytest.mark.slow
def test_the_figures_of_a_sweep_are_the_same_every_time(tmp_path, robust):
    write_figures(robust, tmp_path)
    figures = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert figures == [f"{name}.{kind}" for name in FIGURES for kind in ("pdf", "png")]
    assert (tmp_path / "figures" / f"{WORST}.pdf").read_bytes().startswith(b"%PDF")
    before = {path: path.read_bytes() for path in (tmp_path / "figures").iterdir()}
    assert {stat.S_IMODE(path.stat().st_mode) for path in before} == {0o600}
    write_figures(robust, tmp_path)
    assert {path: path.read_bytes() for path in (tmp_path / "figures").iterdir()} == before
