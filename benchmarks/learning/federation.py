"""Federated learning without the federation: the same training and rules, called directly.

A few hundred runs are compared, so nothing is serialised and the model is only tested at the end.
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
    """Accuracy on the test set after all rounds.

    Parameters
    ----------
    setting : Setting
        What is learnt.
    rule : Aggregator
        How updates are merged.
    attack : Attack
        What three of the ten clients do: send their update four times the wrong way, or all the
        honest mean moved by 1.5 standard deviations in every coordinate (ALIE). ``"honest only"``
        leaves them out.
    seed : int
        Of the run; the faulty clients are drawn from it, the same for every rule.
    """
    seeds = Seeds(seed)
    faulty = set(seeds.numpy("faulty").permutation(CLIENTS)[:FAULTY].tolist())
    if attack == "clean":
        faulty = set()
    asked = [c for c in range(CLIENTS) if attack != "honest only" or c not in faulty]
    portions = {client: setting.task.partition(client, CLIENTS) for client in asked}
    start = initial_state(setting.task, 1, seeds)
    layout = layout_of(to_record(start))
    flat, buffers = layout.flatten(start)
    with reproducible(seed):
        model = setting.task.model()
    state: State = {}
    for number in range(1, setting.rounds + 1):
        deltas: dict[int, Tensor] = {}
        for client in asked:
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
            ids=tuple(asked),
            num_examples=tuple(float(len(portions[client])) for client in asked),
            round=number,
            seed=seed,
        )
        outcome = aggregate(rule, Updates([deltas[client] for client in asked]), cohort, state)
        flat, state = flat + outcome.delta, outcome.state
    model.load_state_dict(layout.restore(flat, buffers))
    return evaluate([model], setting.task.test(), setting.task)["accuracy"]
