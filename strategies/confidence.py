"""Confidence in each client, for rules that do not judge by the updates alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.protocol.screening import Accepted
from hqde_fl.rules import Aggregator
from hqde_fl.selection import ClientHistory
from hqde_fl.selection.efficiency import efficiencies
from hqde_fl.strategies.state import ModelState

HeldOut = Callable[[Mapping[str, Tensor]], float]
"""Function (a client's model, as a state dict) -> its quality on the server's data, in [0, 1]."""

DEFAULT_METRIC = "train-loss"
"""Metric of a reply that is taken as its client's confidence if none is named."""


@final
@dataclass(frozen=True)
class Confidence:
    """Source of the confidence in each client that a rule needs.

    Parameters
    ----------
    source : str or None
        ``"held-out"``, ``"reported"``, ``"efficiency"``, or None if the rule needs no confidence.
    metric : str
        For ``"reported"``: name of the metric in a client's reply. One that ends in ``loss``
        becomes e^(-loss). A client that does not report it has confidence 0.
    held_out : HeldOut, optional
        For ``"held-out"``: measures the quality of a client's model.
    """

    source: str | None = None
    metric: str = DEFAULT_METRIC
    held_out: HeldOut | None = None

    @classmethod
    def for_rule(cls, rule: Aggregator, metric: str, held_out: HeldOut | None) -> Confidence:
        """Return the source of confidence that a rule needs.

        Raises
        ------
        ConfigError
            If ``held_out`` is missing, or an option is given that the rule does not use.
        """
        source = rule.confidence_from
        if source == "held-out" and held_out is None:
            raise ConfigError(
                f"{rule} needs held_out to measure the clients' models by, found none"
            )
        if source != "held-out" and held_out is not None:
            raise ConfigError(f"held_out acts with confidence='held-out' only, found {rule}")
        if source != "reported" and metric:
            raise ConfigError(
                f"confidence_metric acts with confidence='reported' only, found {rule}"
            )
        return cls(source, metric or DEFAULT_METRIC, held_out)

    def of(
        self,
        model: ModelState,
        replies: Sequence[Accepted],
        histories: Sequence[ClientHistory] = (),
    ) -> tuple[float, ...] | None:
        """Return the confidence in each client, in [0, 1]; None if the rule needs none.

        Values are clipped to [0, 1]; one that is missing or not finite is 0.

        Parameters
        ----------
        model : ModelState
            The model that the clients trained from.
        replies : Sequence[Accepted]
            The clients' accepted updates.
        histories : Sequence[ClientHistory]
            What was measured of the same clients in earlier rounds; for ``"efficiency"``.
        """
        if self.source == "efficiency":
            return efficiencies(histories)
        if self.source == "reported":
            return tuple(_clipped(self._reported(reply)) for reply in replies)
        if self.source == "held-out":
            return tuple(_clipped(self._measured(model, reply)) for reply in replies)
        return None

    def _reported(self, reply: Accepted) -> float:
        claimed = reply.metrics.get(self.metric, math.nan)
        if not self.metric.endswith("loss"):
            return claimed
        return math.exp(-max(0.0, claimed)) if claimed == claimed else claimed

    def _measured(self, model: ModelState, reply: Accepted) -> float:
        assert self.held_out is not None
        flat, others = model.origin + reply.delta, {**model.others, **reply.others}
        return float(self.held_out(model.layout.restore(flat, others)))


def _clipped(value: float) -> float:
    return min(1.0, max(0.0, value)) if math.isfinite(value) else 0.0
