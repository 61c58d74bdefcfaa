"""Format durations for terminals."""

from __future__ import annotations


def duration_text(seconds: float) -> str:
    """Return a duration as text: ``45 s``, ``13 min``, ``2 h 5 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
