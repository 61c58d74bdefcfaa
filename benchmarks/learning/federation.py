"""Federated learning without messages: the same training and rules, called directly.

This is fast enough to compare hundreds of runs: nothing is serialised, and the model is tested only
at the end.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from benchmarks.learning.data import CLIENTS, Setting
from hqde_fl.clients.evaluation import evaluate
from hqde_fl.clients.initial_state import initial_state
from hqde_fl.clients.reproducibility import reproducible
from hqde_fl.clients.training import train
from hqde_fl.protocol.records import layout_of, to_record
from hqde_fl.rules import Aggregator, Cohort, aggregate
from hqde_fl.rules.results import State
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.attacks import ATTACKS
from hqde_fl.updates import Updates

FAULTY = 3
FLIP = 4.0
SHIFT = 1.5

Attack = Literal["clean", "honest only", "3 sign-flip", "3 constant shift"]
ATTACKED: tuple[Attack, ...] = ("clean", "3 sign-flip", "3 constant shift")


def accuracy_after(setting: Setting, rule: Aggregator, attack: Attack, seed: int) -> float:
    """Train for all rounds and return the accuracy on the test set.

    Parameters
    ----------
    setting : Setting
        The task and the settings of its training.
    rule : Aggregator
        The rule that merges the updates.
    attack : Attack
        Behaviour of three of the ten clients: they send their negative update times four, or all
        send the honest mean shifted by 1.5 standard deviations in every coordinate (ALIE). With
        ``"honest only"`` they take no part.
    seed : int
        The run's seed, which also determines the faulty clients, for every rule the same.
    """
    seeds = Seeds(seed)
    faulty = set(seeds.numpy("faulty").permutation(CLIENTS)[:FAULTY].tolist())
    if attack == "clean":
        faulty = set()
    cohort_ids = [c for c in range(CLIENTS) if attack != "honest only" or c not in faulty]
    portions = {client: setting.task.partition(client, CLIENTS) for client in cohort_ids}
    start = initial_state(setting.task, 1, seeds)
    layout = layout_of(to_record(start))
    flat, buffers = layout.flatten(start)
    with reproducible(seed):
        model = setting.task.model()
    state: State = {}
    for number in range(1, setting.rounds + 1):
        deltas: dict[int, Tensor] = {}
        for client in cohort_ids:
            if attack == "3 constant shift" and client in faulty:
                continue
            model.load_state_dict(layout.restore(flat, buffers))
            generator = seeds.torch("client", client, number)
            train(model, portions[client], setting.task, setting.training, generator)
            deltas[client] = layout.flatten(model.state_dict())[0] - flat
            if attack == "3 sign-flip" and client in faulty:
                deltas[client] *= -FLIP
        if attack == "3 constant shift":
            forged = ATTACKS.build({"name": "alie", "z": SHIFT})
            honest = torch.stack([deltas[client] for client in sorted(deltas)])
            deltas |= dict.fromkeys(faulty, forged.craft(honest, FAULTY))
        cohort = Cohort(
            ids=tuple(cohort_ids),
            num_examples=tuple(float(len(portions[client])) for client in cohort_ids),
            round=number,
            seed=seed,
        )
        updates = Updates([deltas[client] for client in cohort_ids])
        outcome = aggregate(rule, updates, cohort, state)
        flat, state = flat + outcome.delta, outcome.state
    model.load_state_dict(layout.restore(flat, buffers))
    return evaluate([model], setting.task.test(), setting.task)["accuracy"]
