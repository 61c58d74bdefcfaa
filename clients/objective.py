"""The metric that a task is judged by, and whether higher is better for each metric."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

LOWER_IS_BETTER = frozenset(
    {
        "brier",
        "cer",
        "deviation",
        "distance",
        "divergence",
        "ece",
        "error",
        "errors",
        "gap",
        "loss",
        "mae",
        "mape",
        "mse",
        "nll",
        "perplexity",
        "rmse",
        "rmsle",
        "seconds",
        "std",
        "variance",
        "wer",
    }
)
"""Words in a metric's name, such as ``member-nll``, by which lower values are better."""

PROPORTIONS = frozenset(
    {
        "accuracy",
        "auc",
        "auroc",
        "dice",
        "f1",
        "iou",
        "jaccard",
        "precision",
        "recall",
        "sensitivity",
        "specificity",
    }
)
"""Words in a metric's name, such as ``eval-accuracy``, by which its values are in [0, 1]."""

NOT_NEGATIVE = frozenset(
    {"brier", "cer", "ece", "mae", "mape", "mse", "perplexity", "rmse", "rmsle", "seconds", "wer"}
)
"""Words in a metric's name by which its values are >= 0."""

ATTACK_SUCCESS = "attack-success"
"""The metric of a backdoor's success, which is the better the lower it is.

Those of single ones, of several, begin with it.
"""


VALIDATION = "validation/"
"""What the names of metrics on the validation set begin with."""


@dataclass(frozen=True)
class Objective:
    """The metric that ranks runs, and the direction in which each metric is better.

    Parameters
    ----------
    primary : str, default="accuracy"
        Name of the metric.
    directions : Mapping[str, bool], optional
        Metric -> whether higher is better. Other metrics go by their names: lower is better if a
        word in it is in ``LOWER_IS_BETTER``, else higher.
    """

    primary: str = "accuracy"
    directions: Mapping[str, bool] = field(default_factory=dict)

    def higher_is_better(self, name: str | None = None) -> bool:
        """Return whether higher values of a metric, by default of the primary one, are better."""
        name = self.primary if name is None else name
        if name not in self.directions:
            name = name.removeprefix(VALIDATION)
        if (given := self.directions.get(name)) is not None:
            return given
        return not name.startswith(ATTACK_SUCCESS) and LOWER_IS_BETTER.isdisjoint(_words(name))

    def bounds(self, name: str | None = None) -> tuple[float, float]:
        """Return the least and the greatest value of a metric, by default of the primary one.

        They are known by the words in its name, such as 0 and 1 of an accuracy; where they are not,
        they are infinite.
        """
        name = (self.primary if name is None else name).removeprefix(VALIDATION)
        words = set(_words(name))
        if name.startswith(ATTACK_SUCCESS) or (
            words & PROPORTIONS and words.isdisjoint(LOWER_IS_BETTER)
        ):
            return 0.0, 1.0
        differs = words & (LOWER_IS_BETTER - NOT_NEGATIVE)
        return (0.0 if words & NOT_NEGATIVE and not differs else -inf), inf

    def badness(self, value: float) -> float:
        """Return a value of the primary metric with the sign that makes greater worse."""
        return -value if self.higher_is_better() else value


def _words(name: str) -> list[str]:
    return re.split(r"[^a-z0-9]+", name.lower())
