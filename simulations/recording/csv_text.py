"""Write records as CSV that a spreadsheet reads as text and numbers, never as a formula."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

FORMULA_STARTS = ("=", "+", "-", "@", "\t")
"""First characters by which spreadsheets take a cell for a formula (OWASP, *CSV Injection*)."""


def csv_text(records: Sequence[Mapping[str, Any]]) -> bytes:
    """Return records with the same keys, at least one, as CSV with a head, in UTF-8.

    Booleans become ``true`` and ``false``. Text that a spreadsheet would take for a formula, such
    as the name of a metric that a client made up, gets an apostrophe before it, unless it is a
    number.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(_cell, records[0]))
    writer.writerows(map(_cell, (record[key] for key in records[0])) for record in records)
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return value
    text = value.replace("\r", " ")  # which would end the line for some readers
    return f"'{text}" if text.startswith(FORMULA_STARTS) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
