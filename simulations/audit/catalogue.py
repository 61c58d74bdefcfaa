"""The catalogue of bad replies."""

from __future__ import annotations

from collections.abc import Mapping

from hqde_fl.simulations.audit.row import Row
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

GROUPS: Mapping[str, tuple[Row, ...]] = {
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
"""Theme -> its rows."""

HOSTILE: Mapping[str, Row] = {row.name: row for rows in GROUPS.values() for row in rows}
"""Name -> row."""
