"""The steps of DP-SGD that a client takes, and the epsilon of all that it has taken so far."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Self

import numpy as np
from flwr.app import ConfigRecord, Context

from hqde_fl.errors import ConfigError
from hqde_fl.privacy.example_level import DPSGD

SPENT = "hqde.dp-sgd"
"""Name in the client's state of the record of its steps."""


@dataclass(frozen=True)
class SampledSteps:
    """Some steps of DP-SGD with one setting.

    Parameters
    ----------
    noise_multiplier : float
        The deviation of the noise over the norm to which gradients are clipped.
    rate : float
        The probability with which a step takes an example, in (0, 1].
    steps : int
        The number of steps, >= 1.
    """

    noise_multiplier: float
    rate: float
    steps: int

    @classmethod
    def planned(
        cls,
        settings: DPSGD,
        examples: int,
        batch_size: int,
        epochs: int,
        work: float,
        steps: int = 0,
    ) -> Self:
        """Return the steps of one training.

        Parameters
        ----------
        settings : DPSGD
            The settings; their noise multiplier is found here if they have a target.
        examples : int
            The number of the client's examples, >= 1.
        batch_size : int
            The expected number of examples in a step.
        epochs : int
            Passes over the examples, in expectation.
        work : float
            The part of these steps to do, in (0, 1].
        steps : int
            The number of steps instead of ``epochs`` passes; 0: the passes.
        """
        rate = min(1.0, batch_size / examples)
        steps = steps or epochs * math.ceil(examples / batch_size)
        multiplier = settings.noise_multiplier or _multiplier(
            settings.target_epsilon, settings.delta, rate, steps * max(1, settings.trainings)
        )
        return cls(multiplier, rate, math.ceil(work * steps))


@dataclass(frozen=True)
class SpentSteps:
    """All steps of DP-SGD that a client has taken on its data.

    Parameters
    ----------
    steps : tuple[SampledSteps, ...]
        Them, those of each setting together.
    """

    steps: tuple[SampledSteps, ...] = ()

    @classmethod
    def of(cls, context: Context) -> Self:
        """Return the steps in a client's state."""
        record = context.state.config_records.get(SPENT, ConfigRecord())
        columns = [record.get(name, []) for name in ("noise-multipliers", "rates", "steps")]
        rows = zip(*(column if isinstance(column, list) else [] for column in columns), strict=True)
        return cls(tuple(SampledSteps(float(z), float(q), int(n)) for z, q, n in rows))

    def store(self, context: Context) -> None:
        """Keep the steps in the client's state."""
        context.state[SPENT] = ConfigRecord(
            {
                "noise-multipliers": [step.noise_multiplier for step in self.steps],
                "rates": [step.rate for step in self.steps],
                "steps": [step.steps for step in self.steps],
            }
        )

    def plus(self, more: SampledSteps, times: int) -> Self:
        """Return these steps and others, which are taken several times."""
        total = {(step.noise_multiplier, step.rate): step.steps for step in self.steps}
        key = more.noise_multiplier, more.rate
        total[key] = total.get(key, 0) + times * more.steps
        return type(self)(tuple(SampledSteps(*key, steps) for key, steps in total.items()))

    def epsilon(self, delta: float) -> float:
        """Return the epsilon of all steps together, by Rényi differential privacy."""
        return _epsilon(self.steps, delta)


def _epsilon(steps: Sequence[SampledSteps], delta: float) -> float:
    if not steps:
        return 0.0
    require_opacus()
    from opacus.accountants import RDPAccountant
    from opacus.accountants.analysis.rdp import get_privacy_spent

    total = sum(step.steps * _rdp(step.noise_multiplier, step.rate) for step in steps)
    with warnings.catch_warnings(action="ignore"):  # that another order might give a little less
        epsilon, _ = get_privacy_spent(orders=RDPAccountant.DEFAULT_ALPHAS, rdp=total, delta=delta)
    return float(epsilon)


@lru_cache(maxsize=4096)
def _rdp(noise_multiplier: float, rate: float) -> np.ndarray:
    """Return a step's Rényi divergence of each order, which takes 25 ms."""
    from opacus.accountants import RDPAccountant
    from opacus.accountants.analysis.rdp import compute_rdp

    return np.asarray(
        compute_rdp(
            q=rate,
            noise_multiplier=noise_multiplier,
            steps=1,
            orders=RDPAccountant.DEFAULT_ALPHAS,
        )
    )


@lru_cache(maxsize=4096)
def _multiplier(epsilon: float, delta: float, rate: float, steps: int) -> float:
    require_opacus()
    from opacus.accountants.utils import get_noise_multiplier

    with warnings.catch_warnings(action="ignore"):
        found = get_noise_multiplier(
            target_epsilon=epsilon,
            target_delta=delta,
            sample_rate=rate,
            steps=steps,
            accountant="rdp",
            epsilon_tolerance=epsilon * 1e-3,
        )
    return float(found)


def require_opacus() -> None:
    """Raise ``ConfigError`` if opacus is not installed."""
    if find_spec("opacus") is None:
        raise ConfigError("clients.dp-sgd needs the package opacus: pip install 'hqde-fl[dp-sgd]'")
