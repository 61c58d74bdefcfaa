"""Tests of every attack against its formula, implemented with plain loops."""

import math

import pytest
import torch

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.attacks import ALIE, IPM, AttackerKnowledge, Fang, Mimic, MinMax, MinSum
from hqde_fl.simulations.attacks.alie import max_z
from hqde_fl.updates import Updates

SEEDS = range(6)


def close(found, expected, tolerance=1e-9):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def mean_of(rows):
    return sum(rows) / len(rows)


def std_of(rows):
    mean = mean_of(rows)
    return (sum((row - mean) ** 2 for row in rows) / len(rows)) ** 0.5


def squared(x, y):
    return float(((x - y) ** 2).sum())


def perturbations(rows):
    return {"std": -std_of(rows), "unit": -mean_of(rows), "sign": -mean_of(rows).sign()}


def largest(holds, low=0.0, high=1.0):
    """Return the largest number for which a monotone condition holds, by bisection."""
    while holds(high):
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


@pytest.mark.parametrize(
    ("n", "f", "z"),
    [(50, 12, 0.3360), (10, 3, 0.1800), (25, 5, 0.2533), (100, 20, 0.2858), (10, 2, 0.0)],
)
def test_max_z_is_that_of_the_paper(n, f, z):
    assert max_z(n, f) == pytest.approx(z, abs=1e-4)


def test_max_z_outside_the_range_of_the_formula():
    assert max_z(10, 1) < 0
    assert math.isfinite(max_z(10, 8))
    assert max_z(3, 2) == -math.inf


@pytest.mark.parametrize("seed", SEEDS)
def test_alie_is_mean_minus_z_deviations(draw, seed):
    rows = draw(seed)
    close(ALIE(z=1.5).craft(rows, 3), mean_of(rows) - 1.5 * std_of(rows))
    close(ALIE().craft(rows, 3), mean_of(rows) - max_z(10, 3) * std_of(rows))
    root = ALIE(z=0.73, deviation="root-std").craft(rows, 3)
    close(root, mean_of(rows) - 0.73 * std_of(rows).sqrt())


def test_alie_with_a_nonpositive_max_z_is_the_mean_and_refused_beforehand(draw):
    rows = draw(h=8)
    close(ALIE().craft(rows, 2), mean_of(rows))
    with pytest.raises(ConfigError, match=r"2 attackers among 10 clients.*go up to 1\.5"):
        ALIE().check(10, 2)
    ALIE().check(10, 3)
    ALIE(z=1.5).check(10, 2)


@pytest.mark.parametrize("seed", SEEDS)
def test_ipm_is_minus_epsilon_means(draw, seed):
    rows = draw(seed)
    close(IPM(epsilon=0.1).craft(rows, 3), -0.1 * mean_of(rows))


@pytest.mark.parametrize("name", ["std", "unit", "sign"])
@pytest.mark.parametrize("seed", SEEDS)
def test_min_max_is_as_far_as_the_largest_honest_distance(draw, seed, name):
    rows = draw(seed, common=3.0 * seed)
    p, mean = perturbations(rows)[name], mean_of(rows)
    bound = max(squared(x, y) for x in rows for y in rows)
    gamma = largest(lambda g: max(squared(mean + g * p, x) for x in rows) <= bound)
    close(MinMax(name).craft(rows, 3), mean + gamma * p, 1e-8)


@pytest.mark.parametrize("name", ["std", "unit", "sign"])
@pytest.mark.parametrize("seed", SEEDS)
def test_min_sum_is_as_far_as_the_largest_honest_sum_of_distances(draw, seed, name):
    rows = draw(seed, common=3.0 * seed)
    p, mean = perturbations(rows)[name], mean_of(rows)
    bound = max(sum(squared(x, y) for y in rows) for x in rows)
    gamma = largest(lambda g: sum(squared(mean + g * p, x) for x in rows) <= bound)
    close(MinSum(name).craft(rows, 3), mean + gamma * p, 1e-8)


@pytest.mark.parametrize("attack", [MinMax, MinSum])
def test_min_max_and_min_sum_of_equal_updates_are_that_update(attack):
    rows = torch.tensor([[1.0, -2.0, 0.0]]).repeat(5, 1)
    for name in ("std", "unit", "sign"):
        close(attack(name).craft(rows, 2), rows[0])
        close(attack(name).craft(torch.zeros(5, 3), 2), torch.zeros(3))


def krum_of(rows, f):
    """Return the index of the row that Krum selects."""
    scores = []
    for i, x in enumerate(rows):
        others = sorted(squared(x, y) for j, y in enumerate(rows) if j != i)
        scores.append(sum(others[: len(rows) - f - 2]))
    return scores.index(min(scores))


def fang_of(rows, f, start, sign, threshold=1e-5):
    (h, d), n = rows.shape, len(rows) + f
    sums = []
    for i, x in enumerate(rows):
        others = sorted(math.sqrt(squared(x, y)) for j, y in enumerate(rows) if j != i)
        sums.append(sum(others[: n - f - 2]))
    furthest = max(math.sqrt(squared(x, start)) for x in rows)
    strength = min(sums) / ((n - 2 * f - 1) * math.sqrt(d)) + furthest / math.sqrt(d)
    halvings = 0
    while strength > threshold:
        sent = start - strength * sign
        if krum_of([*rows, *[sent] * f], f) >= h:
            break
        strength, halvings = strength / 2, halvings + 1
    return start - strength * sign, halvings


@pytest.mark.parametrize("seed", SEEDS)
def test_fang_halves_lambda_until_krum_selects_an_attacker(draw, seed):
    rows = draw(seed, common=0.1)
    expected, halvings = fang_of(rows, 3, torch.zeros(40).double(), mean_of(rows).sign())
    assert 0 < halvings < 8
    close(Fang().craft(rows, 3), expected)


def test_fang_stops_at_its_threshold_if_krum_selects_no_attacker(draw):
    rows = draw(common=100.0)
    sent = Fang(threshold=1e-3).craft(rows, 3)
    assert float(sent.abs().max()) <= 1e-3
    assert torch.equal(sent.sign(), -mean_of(rows).sign())


@pytest.mark.parametrize("seed", SEEDS)
def test_fang_may_work_against_the_model_or_the_first_one(draw, seed):
    rows, first, now = draw(seed, common=0.1), *draw(seed + 100, h=2, d=40)
    attack = Fang("model")
    expected, _ = fang_of(rows, 3, torch.zeros(40).double(), now.sign())
    close(attack.craft(rows, 3, AttackerKnowledge(model=now)), expected)
    attack = Fang("first-model")
    memory = attack.learn(Updates(rows), AttackerKnowledge(model=first))
    assert attack.learn(Updates(rows), AttackerKnowledge(model=now, memory=memory)) == memory
    expected, _ = fang_of(rows, 3, first - now, first.sign())
    close(attack.craft(rows, 3, AttackerKnowledge(model=now, memory=memory)), expected)
    with pytest.raises(ConfigError, match="need the global model"):
        attack.craft(rows, 3)


def mimic_of(rounds, warmup):
    """Return the victim's row in each round, computed with explicit d x d matrices."""
    victims, mean, z = [], 0, None
    for t, rows in enumerate(rounds):
        if t < warmup:
            mean = t / (t + 1) * mean + 1 / (t + 1) * rows.mean(dim=0)
            centred = rows - mean
            if t == 0:
                z = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -1]
            else:
                y = centred.T @ centred @ z
                z = t / (t + 1) * z + 1 / (t + 1) * y / y.norm()
                z = z / z.norm()
            victims.append(int(((rows - mean) @ z).abs().argmax()))
        else:
            victims.append(victims[-1])
    return victims


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("warmup", [1, 3, 10])
def test_mimic_copies_the_client_furthest_along_the_largest_variance(draw, seed, warmup):
    rounds = [draw(10 * seed + k) for k in range(5)]
    memory, victims = {}, []
    for rows in rounds:
        memory = Mimic(warmup).learn(
            Updates(rows), AttackerKnowledge(memory=memory).completed(7, 2)
        )
        sent = Mimic(warmup).craft(rows, 2, AttackerKnowledge(memory=memory))
        victims.append([torch.equal(sent, row) for row in rows].index(True))
    assert victims == mimic_of(rounds, warmup)


def test_mimic_copies_another_client_while_its_victim_is_absent(draw):
    rows = draw()
    here = AttackerKnowledge(honest=(10, 11, 12, 13, 14, 15, 16))
    memory = Mimic(warmup=1).learn(Updates(rows), here)
    victim = memory["victim"]
    assert torch.equal(
        Mimic().craft(rows, 2, AttackerKnowledge(honest=here.honest, memory=memory)),
        rows[victim - 10],
    )
    away = AttackerKnowledge(honest=(20, 21, 22, 23, 24, 25, 26), memory=memory)
    assert Mimic(warmup=1).learn(Updates(rows), away) == memory
    sent = Mimic().craft(rows, 2, away)
    assert torch.equal(sent, rows[victim - 10])  # still the furthest from the mean
