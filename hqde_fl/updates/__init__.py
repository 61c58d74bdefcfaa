"""Updates of a model: n vectors of d numbers, read in column tiles, and the model's layout."""

from hqde_fl.updates.columns import (
    TILE_BYTES,
    Columns,
    MappedColumns,
    StackedColumns,
    Updates,
    spans,
)

__all__ = ["TILE_BYTES", "Columns", "MappedColumns", "StackedColumns", "Updates", "spans"]
