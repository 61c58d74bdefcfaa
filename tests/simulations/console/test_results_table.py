from io import StringIO

import pytest
from rich.console import Console

from hqde_fl.simulations.console.results_table import results_table
from hqde_fl.simulations.recording.comparison import Comparison, ComparisonAxis
from hqde_fl.simulations.recording.seed_groups import ComparisonRow


@pytest.mark.parametrize(
    ("conditions", "width", "heads"),
    [
        (2, 120, ["[rule] accuracy", "[bold]1"]),
        (2, 56, ["[rule] faults accuracy"]),
        (5, 120, ["[rule] worst under"]),
        (5, 64, ["[rule] worst under"]),
    ],
    ids=["side by side", "too narrow", "only the worst", "only the worst, narrow"],
)
def test_a_table_in_the_terminal(tmp_path, tiny, record, conditions, width, heads):
    """Numbers are never cut off, and brackets in a label are no markup."""
    run, rule = record(tmp_path / "run", tiny), "filter (detectors=[mad, twins])"
    faults = tuple(f"[bold]{number}" for number in range(conditions))
    rows = tuple(ComparisonRow((rule, each), "run", run) for each in faults)
    axes = (ComparisonAxis("[rule]", (rule,), (rule,)), ComparisonAxis("faults", faults, faults))
    console = Console(file=StringIO(), width=width)
    console.print(results_table(Comparison("many", axes, rows), width))
    printed = console.file.getvalue()
    words = " ".join(printed.split())
    assert "\N{HORIZONTAL ELLIPSIS}" not in printed
    assert "0.700" in printed
    assert all(
        part in words for part in ("filter", "(detectors=[mad,", "twins])", "[bold]0", *heads)
    )
