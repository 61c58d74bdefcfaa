"""How far the server trusts each client, for rules that do not judge by the updates alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.protocol.screening import Accepted
from hqde_fl.rules import Aggregator
from hqde_fl.strategies.state import ModelState

HeldOut = Callable[[Mapping[str, Tensor]], float]
"""(a client's model, as a state dict) -> how good it is on examples of the server's, in [0, 1]."""

METRIC = "train-loss"
"""What a client's own word is taken from unless you say otherwise."""


@final
@dataclass(frozen=True)
class Confidence:
    """Measures or reads the confidence that a rule asks for.

    Parameters
    ----------
    source : str or None
        ``"held-out"``, ``"reported"``, or None if the rule asks for none.
    metric : str
        For ``"reported"``: the metric of a client's reply. One that ends in ``loss`` becomes
        e^(-loss). A client that does not report it gets no confidence.
    held_out : HeldOut, optional
        For ``"held-out"``.
    """

    source: str | None = None
    metric: str = METRIC
    held_out: HeldOut | None = None

    @classmethod
    def asked_by(cls, rule: Aggregator, metric: str, held_out: HeldOut | None) -> Confidence:
        """What a rule asks for.

        Raises
        ------
        ConfigError
            If it is not given, or if something is given that the rule never looks at.
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
        return cls(source, metric or METRIC, held_out)

    def of(self, model: ModelState, replies: Sequence[Accepted]) -> tuple[float, ...] | None:
        """The confidence in each client, in [0, 1]; None if nobody asks for it."""
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
        flat = model.origin + reply.delta
        return float(self.held_out(model.layout.restore(flat, reply.buffers)))


def _clipped(value: float) -> float:
    return min(1.0, max(0.0, value)) if math.isfinite(value) else 0.0
