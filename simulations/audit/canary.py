"""What a hostile pickle would run: it leaves a mark, so that a trial can tell."""

from __future__ import annotations

from typing import Any

_sung: list[str] = []


def sing(mark: str) -> str:
    """Leave a mark."""
    _sung.append(mark)
    return mark


def hush() -> None:
    """Forget the marks."""
    _sung.clear()


def heard() -> bool:
    """Whether somebody has loaded a ``Canary`` in this process."""
    return bool(_sung)


class Canary:
    """Unpickling it calls ``sing``."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return sing, ("a pickle was loaded",)
