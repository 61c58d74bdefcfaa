"""Tell from what central differential privacy releases whether a client took part in a round.

A lower bound of epsilon that holds with confidence (Jagielski et al., 2020, arXiv:2006.07709): if a
mechanism is (epsilon, delta)-private, then P(S | client) <= e^epsilon P(S | no client) + delta for
every set S of outcomes. S is a half-line, chosen on other draws than those that count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import torch
from scipy import stats

from hqde_fl.privacy import Accountant, CentralDP, NoiseSource, Sampling, SeededGaussian
from hqde_fl.privacy.central import AccountantName
from hqde_fl.privacy.ledger import PrivacyState
from hqde_fl.privacy.noise_source import Floats
from hqde_fl.protocol.screening import Accepted
from hqde_fl.rules import Mean
from hqde_fl.seeding import Seeds
from hqde_fl.selection import Candidates, Ensemble, Poisson
from hqde_fl.strategies.round.private_aggregation import merge_privately
from hqde_fl.strategies.settings import (
    Aggregation,
    Communication,
    Participation,
    Reporting,
    StrategySettings,
)
from hqde_fl.strategies.state import ModelState
from hqde_fl.updates.layout import Layout

CLIENTS = 4
CANARY = 0
CLIPPING_NORM = 0.5
WIDTH = 64
CONFIDENCE = 0.99


@final
@dataclass(frozen=True)
class HalfNoise(NoiseSource):
    """A noise source that is wrong: its noise has half the deviation asked for.

    Parameters
    ----------
    source : NoiseSource
        The right one.
    """

    source: NoiseSource

    def add_noise(
        self, values: Floats, deviation: float, sensitivity: float, rng: np.random.Generator
    ) -> Floats:
        """Return ``values`` with too little noise."""
        return self.source.add_noise(values, deviation / 2, sensitivity, rng)


def released(
    privacy: CentralDP, fraction: float, draws: int, seed: int, *, canary: bool
) -> np.ndarray:
    """Return what rounds add to the number of a model that the canary's update is about, (draws,).

    The clients are drawn, and their updates clipped, summed and given noise, by the code of a run.
    All updates are zero but that of the canary, which is clipped to the clipping norm. Without the
    canary all ``WIDTH`` numbers of the model are alike, and each of them is a draw.

    Parameters
    ----------
    privacy : CentralDP
        Its settings.
    fraction : float
        The probability with which a round draws a client.
    draws : int
        The number of draws, each from a first round.
    seed : int
        The seed.
    canary : bool
        True if the canary is among the clients; False if it does not exist.
    """
    settings = StrategySettings(
        Aggregation(rule=Mean(), privacy=privacy),
        Communication(),
        Participation(Poisson(fraction), 0.0, min_available_nodes=CLIENTS),
        Ensemble(),
        Reporting(),
        Seeds(seed),
    )
    plan = settings.plan
    assert plan is not None
    model = ModelState(Layout.of([("w", (WIDTH,), "float32")]), torch.zeros(WIDTH), {})
    update = Accepted(torch.zeros(WIDTH), {}, {}, 1.0, {})
    long = 100 * CLIPPING_NORM * torch.eye(1, WIDTH)[0]
    updates = {client: {0: update} for client in range(CLIENTS)}
    updates[CANARY] = {0: replace(update, update=long)}
    names, rng = {client: client for client in updates}, np.random.default_rng(seed)
    selector, state = (
        settings.participation.selector,
        PrivacyState(privacy.noise_multiplier, privacy.clipping_norm),
    )
    outcomes: list[np.ndarray] = []
    for draw in range(draws if canary else math.ceil(draws / WIDTH)):
        chosen = selector.select(Candidates(range(CLIENTS), CLIENTS), {}, rng).clients
        replies = {c: updates[c] for c in sorted(chosen) if canary or c != CANARY}
        outcome = merge_privately(plan, settings, (model,), replies, names, (draw + 1, state))
        numbers = outcome.merged[0].model.flat.numpy()
        outcomes.append(numbers[:1] if canary else numbers)
    return np.concatenate(outcomes)[:draws]


def epsilon_bound(present: np.ndarray, absent: np.ndarray, delta: float) -> float:
    """Return a lower bound of epsilon, at a confidence of ``CONFIDENCE``.

    Parameters
    ----------
    present, absent : ndarray
        Outcomes with and without the client, (draws,) and (other draws,).
    delta : float
        The delta.
    """
    chosen_by, counted = zip(*(np.array_split(a, 2) for a in (present, absent)), strict=True)
    alarms = np.geomspace(10 / len(chosen_by[1]), 0.5, 60)
    thresholds = np.quantile(chosen_by[1], 1 - alarms)
    bounds = [_bound(*chosen_by, threshold, delta) for threshold in thresholds]
    return _bound(*counted, thresholds[int(np.argmax(bounds))], delta)


def _bound(present: np.ndarray, absent: np.ndarray, threshold: float, delta: float) -> float:
    """Return the bound by outcomes above a threshold, with Clopper and Pearson's intervals."""
    hits, alarms = (present > threshold).sum(), (absent > threshold).sum()
    missed, quiet = len(present) - hits, len(absent) - alarms
    error = (1 - CONFIDENCE) / 2
    least = float(stats.beta.ppf(error, hits, missed + 1)) if hits else 0.0
    most = float(stats.beta.ppf(1 - error, alarms + 1, quiet)) if quiet else 1.0
    return math.log((least - delta) / most) if least > delta else 0.0


def settings_for(
    epsilon: float, fraction: float, delta: float, accountant: AccountantName = "pld"
) -> CentralDP:
    """Return the settings with which one round costs an epsilon, with seeded noise."""
    sampling = Sampling(True, fraction * CLIENTS, CLIENTS)
    multiplier = Accountant(accountant, sampling, delta).multiplier(epsilon, 1)
    return CentralDP(
        multiplier,
        delta=delta,
        clipping_norm=CLIPPING_NORM,
        accountant=accountant,
        noise=SeededGaussian(),
    )
