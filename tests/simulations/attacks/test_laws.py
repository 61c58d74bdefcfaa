"""What every attack must do."""

import pickle

import pytest
import torch

from hqde_fl.errors import ConfigError
from hqde_fl.rules import Median
from hqde_fl.simulations.attacks import (
    ALIE,
    ATTACKS,
    IPM,
    AttackerKnowledge,
    Fang,
    Mimic,
    MinMax,
    MinSum,
    OptimalALIE,
    OptimalIPM,
)
from hqde_fl.updates import Updates

ALL = [*(ATTACKS.build(name) for name in ATTACKS), Fang("model"), MinMax("sign"), MinSum("unit")]
each = pytest.mark.parametrize("attack", ALL, ids=repr)


def scene(d=40):
    return AttackerKnowledge(model=torch.linspace(-1, 1, d), rule=Median())


@each
def test_inputs_are_left_alone_and_the_outcome_is_the_same_again(attack, draw):
    rows, given = draw(dtype=torch.float32), scene()
    copies = rows.clone(), given.model.clone()
    found = attack.craft(rows, 3, given)
    assert torch.equal(rows, copies[0])
    assert torch.equal(given.model, copies[1])
    assert found.shape == (40,)
    assert found.dtype == torch.float32
    assert torch.isfinite(found).all()
    assert torch.equal(attack.craft(rows, 3, given), found)
    assert torch.equal(attack.craft(Updates(list(rows)), 3, given), found)
    assert torch.equal(pickle.loads(pickle.dumps(attack)).craft(rows, 3, given), found)


@each
def test_the_order_of_the_honest_does_not_matter(attack, draw):
    rows, order = draw(), [3, 1, 6, 0, 5, 2, 4]
    found = attack.craft(rows, 3, scene())
    again = attack.craft(
        rows[order], 3, AttackerKnowledge(tuple(order), (7, 8, 9), model=scene().model, rule=Median())
    )
    torch.testing.assert_close(again, found, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("attack", [a for a in ALL if not isinstance(a, Fang)], ids=repr)
def test_longer_updates_make_a_longer_attack(attack, draw):
    rows = draw()
    found = attack.craft(rows, 3, scene())
    torch.testing.assert_close(attack.craft(1024 * rows, 3, scene()), 1024 * found)


@each
def test_many_columns_are_walked_in_tiles(attack, draw):
    rows = draw(h=5, d=30_000, dtype=torch.float32)
    wide = torch.cat([rows, torch.zeros(5, 30_000)], dim=1)
    model = torch.ones(60_000)
    found = attack.craft(wide, 2, AttackerKnowledge(model=model, rule=Median()))
    assert found.shape == (60_000,)
    assert found[:30_000].abs().sum() > 0
    assert not found[30_000:].any() or isinstance(attack, Fang)


@each
def test_one_honest_client_is_enough(attack, draw):
    assert torch.isfinite(attack.craft(draw(h=1), 1, scene())).all()


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
        (lambda: OptimalIPM(tries=2), "OptimalIPM.tries must be >= 3, found 2"),
        (lambda: IPM().check(3, 3), "at least 1 attacker and 1 honest client, found 3 and 0"),
        (lambda: IPM().check(3, 0), "found 0 and 3"),
        (lambda: ATTACKS.build("alice"), "unknown attack 'alice': did you mean 'alie'"),
    ],
)
def test_impossible_attacks_are_refused(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


def test_a_scene_must_fit(draw):
    with pytest.raises(ValueError, match="names 2 honest clients and 3 attackers, found 7 and 3"):
        IPM().craft(draw(), 3, AttackerKnowledge(honest=(0, 1)))
    with pytest.raises(ValueError, match="f >= 1 attackers, found 0"):
        IPM().craft(draw(), 0)


def test_every_attack_has_a_summary_and_defaults():
    for name in ATTACKS:
        assert ATTACKS.summary(name).endswith(".")
        assert ATTACKS.name_of(ATTACKS.build(name)) == name
