"""An object whose unpickling leaves a mark, so that a trial detects a loaded pickle."""

from __future__ import annotations

from typing import Any

_marks: list[str] = []


def mark_loaded(mark: str) -> str:
    """Add ``mark`` to this process's list of marks and return it."""
    _marks.append(mark)
    return mark


def reset() -> None:
    """Remove all marks that unpickled objects have left in this process."""
    _marks.clear()


def was_loaded() -> bool:
    """Return True if a ``Canary`` was unpickled in this process since the last ``reset``."""
    return bool(_marks)


class Canary:
    """An object whose unpickling calls ``mark_loaded``."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return mark_loaded, ("a pickle was loaded",)
