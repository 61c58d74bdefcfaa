"""Make a data frame of the results of runs or cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hqde_fl.simulations.python_api.frames import data_frame
from hqde_fl.simulations.recording.comparison import Comparison
from hqde_fl.simulations.sweep.tables import result_columns

if TYPE_CHECKING:
    import pandas as pd


def results_frame(comparison: Comparison) -> pd.DataFrame:
    """Return a data frame with the columns of ``results.parquet``."""
    columns = result_columns(comparison)
    rows = [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]
    return data_frame(rows)
