"""A learning rate that is the same in every round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from hqde_fl.schedules.base import Schedule


@final
@dataclass(frozen=True)
class Constant(Schedule):
    """The learning rate is the same in every round; for what follows a warm-up."""

    def factor(self, number: int) -> float:
        """Return 1."""
        return 1.0
