"""Tests of the properties of every attack."""

import pickle
from dataclasses import replace

import pytest
import torch

from hqde_fl.errors import ConfigError
from hqde_fl.rules import Median
from hqde_fl.simulations.attacks import (
    ALIE,
    ATTACKS,
    IPM,
    AttackerKnowledge,
    ConstantDirection,
    Copycat,
    Evasive,
    Fang,
    FedSA,
    Mimic,
    MinMax,
    MinSum,
    OptimalALIE,
    OptimalIPM,
    OptimalPush,
    PoisonedFL,
    Sideways,
)
from hqde_fl.updates import Updates

ALL = [
    *(ATTACKS.build(name) for name in ATTACKS),
    Fang("model"),
    MinMax("sign"),
    MinSum("unit"),
    Copycat(noise=0.3),
    ConstantDirection(direction="random"),
    Sideways(noise=0.5),
    Evasive(MinSum(), detector="byzantine-filter"),
]
every_attack = pytest.mark.parametrize("attack", ALL, ids=repr)


TUNED = (Fang, FedSA, Sideways, ConstantDirection, Copycat)
"""Attacks that also move weights that no honest client moves."""


def knowledge_of(d=40):
    return AttackerKnowledge(model=torch.linspace(-1, 1, d), rule=Median())


def after_a_round(attack, rows, knowledge):
    """Return the knowledge in the second round: the model has moved since the first."""
    columns, h = Updates(rows), len(rows)
    known = knowledge.completed(h, 3)
    memory = attack.learn(columns, known)
    later = replace(known, model=known.model + 0.1 * rows.mean(dim=0), memory=memory, round=2)
    return replace(later, memory=attack.learn(columns, later))


@every_attack
def test_attacks_do_not_change_their_inputs_and_are_reproducible(attack, draw):
    rows = draw(dtype=torch.float32)
    known = after_a_round(attack, rows, knowledge_of())
    copies = rows.clone(), known.model.clone()
    sent = attack.craft(rows, 3, known)
    assert torch.equal(rows, copies[0])
    assert torch.equal(known.model, copies[1])
    assert sent.shape in ((40,), (3, 40))
    assert sent.dtype == torch.float32
    assert torch.isfinite(sent).all()
    assert torch.equal(attack.craft(rows, 3, known), sent)
    assert torch.equal(attack.craft(Updates(list(rows)), 3, known), sent)
    assert torch.equal(pickle.loads(pickle.dumps(attack)).craft(rows, 3, known), sent)


@every_attack
def test_the_order_of_the_honest_updates_does_not_matter(attack, draw):
    rows, order = draw(), [3, 1, 6, 0, 5, 2, 4]
    sent = attack.craft(rows, 3, knowledge_of())
    again = attack.craft(
        rows[order],
        3,
        AttackerKnowledge(tuple(order), (7, 8, 9), model=knowledge_of().model, rule=Median()),
    )
    torch.testing.assert_close(again, sent, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("attack", [a for a in ALL if not isinstance(a, Fang | FedSA)], ids=repr)
def test_scaled_updates_scale_the_attack(attack, draw):
    rows = draw()
    sent = attack.craft(rows, 3, knowledge_of())
    torch.testing.assert_close(attack.craft(1024 * rows, 3, knowledge_of()), 1024 * sent)


@every_attack
def test_many_columns_are_processed_in_tiles(attack, draw):
    rows = draw(h=5, d=30_000, dtype=torch.float32)
    wide = torch.cat([rows, torch.zeros(5, 30_000)], dim=1)
    first = AttackerKnowledge(model=torch.ones(60_000), rule=Median())
    sent = attack.craft(wide, 3, after_a_round(attack, wide, first))
    assert sent.shape in ((60_000,), (3, 60_000))
    assert sent[..., :30_000].abs().sum() > 0
    assert not sent[..., 30_000:].any() or isinstance(attack, TUNED)


@every_attack
def test_one_honest_client_is_enough(attack, draw):
    assert torch.isfinite(attack.craft(draw(h=1), 1, knowledge_of())).all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ALIE(z=-1.0), "ALIE.z must be finite and >= 0, found -1.0"),
        (lambda: ALIE(deviation="mad"), "'std' or 'root-std', found 'mad'"),
        (lambda: IPM(epsilon=0.0), "IPM.epsilon must be finite and > 0, found 0.0"),
        (
            lambda: MinMax("mean"),
            "MinMax.perturbation must be one of std, unit, sign, found 'mean'",
        ),
        (lambda: MinSum("mean"), "MinSum.perturbation must be one of"),
        (lambda: Fang("krum"), "Fang.against must be one of update, model, first-model"),
        (lambda: Fang(threshold=0.0), "Fang.threshold must be finite and > 0, found 0.0"),
        (lambda: Mimic(warmup=0), "Mimic.warmup must be >= 1, found 0"),
        (lambda: OptimalALIE(limit=0.0), "OptimalALIE.limit must be finite and > 0, found 0.0"),
        (lambda: OptimalPush(goal="away"), "OptimalPush.goal must be one of"),
        (lambda: OptimalIPM(tries=2), "OptimalIPM.tries must be >= 3, found 2"),
        (lambda: Copycat(noise=-1.0), "Copycat.noise must be finite and >= 0, found -1.0"),
        (
            lambda: ConstantDirection(strength=0.0),
            "ConstantDirection.strength must be finite and > 0, found 0.0",
        ),
        (lambda: ConstantDirection(direction="up"), "against, random, found 'up'"),
        (lambda: Sideways(noise=float("nan")), "Sideways.noise must be finite and >= 0, found nan"),
        (lambda: PoisonedFL(scale=0.0), "PoisonedFL.scale must be finite and > 0, found 0.0"),
        (lambda: PoisonedFL(decay=1.5), r"PoisonedFL.decay must be in \(0, 1\], found 1.5"),
        (lambda: PoisonedFL(least=9.0), r"least must be in \(0, scale = 8.0\], found 9.0"),
        (lambda: PoisonedFL(every=0), "PoisonedFL.every must be >= 1, found 0"),
        (lambda: FedSA(keep=1.0), r"FedSA.keep must be in \[0, 1\), found 1.0"),
        (lambda: FedSA(rate=0.0), r"FedSA.rate must be in \(0, 1\], found 0.0"),
        (lambda: FedSA(reach=-1.0), "FedSA.reach must be finite and >= 0, found -1.0"),
        (lambda: Evasive(detector="krumm"), "Evasive.detector must be .* 'krumm'"),
        (lambda: Evasive(detector="bucketing"), "judges by the updates alone, found Bucketing"),
        (lambda: Evasive(share=2.0), r"Evasive.share must be in \[0, 1\], found 2.0"),
        (lambda: Evasive(tries=2), "Evasive.tries must be >= 3, found 2"),
        (lambda: Evasive(attack="min-max"), "Evasive.attack must be an attack, found 'min-max'"),
        (lambda: IPM().check(3, 3), "at least 1 attacker and 1 honest client, found 3 and 0"),
        (lambda: IPM().check(3, 0), "found 0 and 3"),
        (lambda: ATTACKS.build("alice"), "unknown attack 'alice': did you mean 'alie'"),
    ],
)
def test_impossible_attacks_are_refused(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


def test_knowledge_must_match_the_numbers_of_clients(draw):
    with pytest.raises(ValueError, match="names 2 honest clients and 3 attackers, found 7 and 3"):
        IPM().craft(draw(), 3, AttackerKnowledge(honest=(0, 1)))
    with pytest.raises(ValueError, match="f >= 1 attackers, found 0"):
        IPM().craft(draw(), 0)


def test_every_attack_has_a_summary_and_defaults():
    for name in ATTACKS:
        assert ATTACKS.summary(name).endswith(".")
        assert ATTACKS.name_of(ATTACKS.build(name)) == name
