"""Tests of attacks on models with few weights, of any dtype, and with a number that changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hqde_fl.rules import CenteredClipping, Krum, Mean, Median
from hqde_fl.simulations.attacks import ATTACKS, Attack, AttackerKnowledge, Fang, Mimic
from hqde_fl.updates import Updates


def attacks() -> list[Attack]:
    """Return every attack, the one of Fang in each of its variants."""
    tables = [{"name": name, "z": 1.5} if name == "alie" else {"name": name} for name in ATTACKS]
    variants = [{"name": "fang", "against": against} for against in ("model", "first-model")]
    return [ATTACKS.build(table) for table in [*tables, *variants]]


def attack_once(
    attack: Attack, honest: torch.Tensor, knowledge: AttackerKnowledge
) -> tuple[torch.Tensor, AttackerKnowledge]:
    """Return the attackers' updates, and the knowledge with the attack's new memory."""
    knowledge = knowledge.completed(len(honest), 2)
    learnt = replace(knowledge, memory=attack.learn(Updates(honest), knowledge))
    return attack.craft(honest, 2, learnt), learnt


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", [1, 2])
@pytest.mark.parametrize("attack", attacks(), ids=str)
def test_few_weights_can_be_attacked(attack: Attack, d: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(d)
    model = torch.randn(d, dtype=dtype, generator=generator)
    for n in (1, 2, 7):
        for honest in (torch.randn(n, d, dtype=dtype, generator=generator), torch.zeros(n, d)):
            for rule in (Mean(), Median(), Krum(1), CenteredClipping()):
                knowledge = AttackerKnowledge(model=model, rule=rule)
                sent, _ = attack_once(attack, honest.to(dtype), knowledge)
                assert sent.dtype == dtype
                assert sent.shape in ((d,), (2, d))
                assert bool(torch.isfinite(sent).all())


@pytest.mark.parametrize("sizes", [(6, 4), (4, 6)], ids=["frozen", "thawed"])
@pytest.mark.parametrize("attack", [Fang("first-model"), Mimic(warmup=1), Mimic()], ids=str)
def test_an_attack_begins_again_if_the_number_of_weights_changes(
    attack: Attack, sizes: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(0)
    knowledge = AttackerKnowledge()
    for _ in range(3):
        honest = torch.randn(5, sizes[0], generator=generator)
        knowledge = replace(knowledge, model=torch.randn(sizes[0], generator=generator))
        _, knowledge = attack_once(attack, honest, knowledge)
    honest = torch.randn(5, sizes[1], generator=generator)
    knowledge = replace(knowledge, model=torch.randn(sizes[1], generator=generator))
    sent, learnt = attack_once(attack, honest, knowledge)
    afresh, anew = attack_once(attack, honest, AttackerKnowledge(model=knowledge.model))
    assert torch.equal(sent, afresh)
    assert learnt.memory.keys() == anew.memory.keys()
    again = attack_once(attack, honest, learnt)[1]
    assert all(value.shape == (sizes[1],) for value in again.memory.values() if _is_vector(value))


def _is_vector(value: object) -> bool:
    return isinstance(value, torch.Tensor)
