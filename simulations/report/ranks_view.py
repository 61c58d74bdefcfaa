"""Compute what the report shows of the mean ranks of a sweep's lines."""

from __future__ import annotations

from dataclasses import dataclass

from hqde_fl.simulations.recording.comparison import Comparison
from hqde_fl.simulations.report.charts import interval_chart
from hqde_fl.simulations.statistics.mean_ranks import MeanRanks

RANK_LABEL = "mean rank (1 is the best)"


@dataclass(frozen=True)
class RanksView:
    """The mean ranks and their chart.

    Parameters
    ----------
    ranks : MeanRanks
        The ranks.
    svg : str
        Each line's mean rank with a bar as long as the critical difference; empty without one.
    """

    ranks: MeanRanks
    svg: str


def ranks_view(comparison: Comparison) -> RanksView | None:
    """Return the mean ranks and their chart, or None with one line or fewer than two conditions."""
    ranks = comparison.mean_ranks
    if ranks is None or ranks.conditions < 2:
        return None
    points = rank_intervals(ranks)
    return RanksView(ranks, interval_chart(points, "mean ranks", RANK_LABEL) if points else "")


def rank_intervals(ranks: MeanRanks) -> dict[str, tuple[float, float, float]]:
    """Return line -> (mean rank, ends of a bar as long as the critical difference around it).

    Two bars overlap exactly if the ranks differ by less than the critical difference. They end at
    the first and the last rank. It is empty without a critical difference.
    """
    if ranks.critical_difference is None:
        return {}
    half, last = ranks.critical_difference / 2, float(len(ranks.ranks))
    return {
        line: (rank, max(1.0, rank - half), min(last, rank + half))
        for line, rank in ranks.ranks.items()
    }
