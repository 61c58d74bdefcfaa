"""The catalogue of hostile replies."""

from __future__ import annotations

from collections.abc import Mapping

from hqde_fl.simulations.audit.catalogue_row import CatalogueRow
from hqde_fl.simulations.audit.rows import (
    arrays,
    bombs,
    envelopes,
    evaluation,
    files,
    metrics,
    objects,
    packed,
    records,
    values,
)

GROUPS: Mapping[str, tuple[CatalogueRow, ...]] = {
    "arrays": arrays.ROWS,
    "files": files.ROWS,
    "values": values.ROWS,
    "metrics": metrics.ROWS,
    "records": records.ROWS,
    "envelopes": envelopes.ROWS,
    "objects": objects.ROWS,
    "bombs": bombs.ROWS,
    "packed": packed.ROWS,
    "evaluation": evaluation.ROWS,
}
"""Theme -> the rows of that theme."""

HOSTILE: Mapping[str, CatalogueRow] = {row.name: row for rows in GROUPS.values() for row in rows}
"""Name -> row."""
