"""Merge the updates of a round with central differential privacy.

All that leaves this module of the clients' data is the noised sum of clipped updates and, if the
clipping is adaptive, the noised number of those that were not clipped: once a round, whoever
replied. The members of an ensemble are clipped as one long update, so that a client that trains
several spends no more than with one.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import torch

from hqde_fl.own_modules import own_code
from hqde_fl.privacy.ledger import PrivacyState, Release
from hqde_fl.privacy.mechanism import GaussianMechanism
from hqde_fl.privacy.noise_source import Floats
from hqde_fl.protocol.screening import Accepted
from hqde_fl.rules import Aggregate, Cohort, aggregate
from hqde_fl.strategies.private_plan import PrivatePlan
from hqde_fl.strategies.round.aggregation import MergedModel, moved_model
from hqde_fl.strategies.settings import StrategySettings
from hqde_fl.strategies.state import ModelState
from hqde_fl.updates import Updates

NOISE_ALONE = "no update was accepted: the model moved by the noise alone"
"""The note of a round in which nobody contributed."""

Replies = Mapping[int, Mapping[int, Accepted]]
"""Node id -> member -> the update that passed screening."""


@final
@dataclass(frozen=True, eq=False)
class PrivateOutcome:
    """Outcome of a round with differential privacy.

    Parameters
    ----------
    merged : list[MergedModel]
        Outcome for each member.
    state : PrivacyState
        What has been spent.
    diagnostics : Mapping[str, Any]
        Numbers for the round's record.
    note : str or None
        What the record notes, if anything.
    """

    merged: list[MergedModel]
    state: PrivacyState
    diagnostics: Mapping[str, Any]
    note: str | None = None


def merge_privately(
    plan: PrivatePlan,
    settings: StrategySettings,
    models: Sequence[ModelState],
    replies: Replies,
    clients: Mapping[int, int],
    round_state: tuple[int, PrivacyState],
) -> PrivateOutcome:
    """Clip and add up the updates, add noise, keep the release in the ledger, and move the models.

    The models are kept where the release would exceed the budget: in a round that was repeated
    after a crash, and came out otherwise.

    Parameters
    ----------
    plan : PrivatePlan
        The differential privacy of the run.
    settings : StrategySettings
        The server optimiser, the seeds and the ledger.
    models : Sequence[ModelState]
        The members as the round began.
    replies : Replies
        The accepted updates, in the order in which they are added up.
    clients : Mapping[int, int]
        Node id -> client, of all that were asked.
    round_state : tuple[int, PrivacyState]
        The round, and what was spent before it.
    """
    number, state = round_state
    mechanism = plan.mechanism(state)
    seeds = settings.seeds
    if plan.composition.clipping is None:
        (model,) = models
        total, unclipped, scale = _bounded_result(
            plan.sampling.size, settings, mechanism, (number, model), replies, clients
        )
    else:
        total, unclipped = _client_sum(mechanism, plan.composition.clipping, models, replies)
        scale = mechanism.expected * settings.ensemble.trained_members / len(models)
    noised = mechanism.noised(total, seeds.numpy("privacy", "sum", number))
    limit = mechanism.clipping_norm
    diagnostics = {
        "clipping-norm": limit,
        "noise-multiplier": mechanism.sum_multiplier,
        "noise-deviation": mechanism.deviation / scale,
    }
    if mechanism.adaptive is not None:
        limit, fraction = mechanism.next_clipping_norm(
            unclipped, len(replies), seeds.numpy("privacy", "count", number)
        )
        diagnostics["unclipped"] = fraction
    digest = _digest(noised, limit)
    spent = state.with_release(number, digest)
    if spent is not state:
        if plan.epsilon(spent) > plan.privacy.budget:
            note = "the round was repeated and came out otherwise, for which no budget is left"
            kept = [MergedModel(model, note=note) for model in models]
            return PrivateOutcome(kept, state, {}, note)
        settings.reporting.ledger.add(Release(number, digest, state.multiplier))
    merged = [
        _moved(
            settings,
            model,
            [node for node, parts in replies.items() if member in parts],
            part / scale,
        )
        for member, (model, part) in enumerate(zip(models, _split(noised, models), strict=True))
    ]
    return PrivateOutcome(
        merged, replace(spent, clipping_norm=limit), diagnostics, None if replies else NOISE_ALONE
    )


def _client_sum(
    mechanism: GaussianMechanism,
    own_clipping: float,
    models: Sequence[ModelState],
    replies: Replies,
) -> tuple[Floats, int]:
    """Return the sum of the clients' clipped updates, and the number of those not clipped."""
    total = np.zeros(sum(model.layout.size for model in models))
    places = _split(total, models)
    unclipped = 0
    for parts in replies.values():
        updates = {member: _wide(accepted) for member, accepted in parts.items()}
        norm = _norm(updates.values())
        factor = mechanism.factor(norm)
        unclipped += factor == 1.0
        # the rule's own clipping is of each member's update
        for member, update in updates.items():
            shortened = factor * _norm([update])
            own = own_clipping / shortened if shortened > own_clipping else 1.0
            places[member] += (factor * own) * update
    return total, unclipped


def _bounded_result(
    size: int,
    settings: StrategySettings,
    mechanism: GaussianMechanism,
    round_model: tuple[int, ModelState],
    replies: Replies,
    clients: Mapping[int, int],
) -> tuple[Floats, int, float]:
    """Return the result of a rule with a bound, in the scale of a sum, as ``_client_sum`` does.

    The third number is that scale. Every client that was asked has a row: zeros, if nothing of it
    was accepted.
    """
    (number, model), rule, limit = round_model, settings.aggregation.rule, mechanism.clipping_norm
    updates = {node: _wide(parts[0]) for node, parts in replies.items()}
    factors = {node: mechanism.factor(_norm([update])) for node, update in updates.items()}
    zeros = torch.zeros(model.layout.size, dtype=torch.float64)
    rows = [
        torch.from_numpy(factors[node] * updates[node]) if node in updates else zeros
        for node in clients
    ]
    absent = range(size - len(rows))
    cohort = Cohort(
        (*clients.values(), *(-1 - i for i in absent)),
        round=number,
        seed=settings.member_seeds(0).root,
    )
    with own_code(f"rule {rule}"):
        rows += [zeros for _ in absent]
        result = aggregate(rule, Updates(rows), cohort, {}, settings.aggregation.executor).delta
        bound = rule.sensitivity(size, limit)
    assert bound is not None
    scale = 2 * limit / bound
    unclipped = sum(factor == 1.0 for factor in factors.values())
    return scale * result.double().cpu().numpy(), unclipped, scale


def _moved(
    settings: StrategySettings, model: ModelState, nodes: Sequence[int], delta: Floats
) -> MergedModel:
    """Return a model after a noised update; its statistics and counters stay as they are."""
    n = len(nodes)
    outcome = Aggregate(
        torch.from_numpy(delta).to(model.flat),
        torch.full((n,), 1 / max(1, n), dtype=torch.float64),
        torch.zeros(n, dtype=torch.bool),
        {},
        {},
    )
    return moved_model(settings.aggregation, replace(model, density={}), nodes, outcome, {})


def _wide(accepted: Accepted) -> Floats:
    """Return an update in float64."""
    update: Floats = accepted.delta.double().cpu().numpy()
    return update


def _norm(updates: Iterable[Floats]) -> float:
    """Return the L2 norm of all updates together."""
    return math.hypot(*(float(np.linalg.norm(update)) for update in updates))


def _split(total: Floats, models: Sequence[ModelState]) -> list[Floats]:
    """Return views of each member's part of a vector."""
    ends = np.cumsum([model.layout.size for model in models])
    return list(np.split(total, ends[:-1]))


def _digest(noised: Floats, limit: float) -> str:
    """Return a hash of all that a round releases."""
    return hashlib.sha256(noised.tobytes() + struct.pack("<d", limit)).hexdigest()
