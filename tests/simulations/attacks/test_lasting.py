"""Tests of attacks through time and of those that hide, against their formulas in plain loops."""

import math
from dataclasses import replace

import pytest
import torch

from hqde_fl.errors import ConfigError
from hqde_fl.rules import ByzantineFilter, GeometricMedian, Mean, Median, Robust, aggregate
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.attacks import (
    AttackerKnowledge,
    ConstantDirection,
    Copycat,
    Evasive,
    FedSA,
    Mimic,
    MinMax,
    MinSum,
    PoisonedFL,
    Sideways,
)
from hqde_fl.updates import Updates


def close(found, expected, tolerance=1e-9):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def norm(vector):
    return math.sqrt(sum(float(x) ** 2 for x in vector))


def deviations(rows):
    """Return the standard deviation of each column, and the honest mean, in plain loops."""
    h, d = rows.shape
    mean = [sum(float(row[j]) for row in rows) / h for j in range(d)]
    std = [math.sqrt(sum((float(row[j]) - mean[j]) ** 2 for row in rows) / h) for j in range(d)]
    return torch.tensor(std, dtype=torch.float64), torch.tensor(mean, dtype=torch.float64)


FILTER = ByzantineFilter(detectors=("mad", "twins"))


# --- PoisonedFL ---------------------------------------------------------------------------------


def poisoned_fl_of(models, signs, every, scale=8.0, decay=0.7, least=0.5):
    """Return the updates sent in each round, computed number by number."""
    d, c = len(signs), scale
    tested, sent, outputs = models[0], [0.0] * d, [[0.0] * d]
    for number in range(1, len(models)):
        step = [float(models[number][j] - models[number - 1][j]) for j in range(d)]
        if number % every == 0:
            total = [float(models[number][j] - tested[j]) for j in range(d)]
            agreeing = sum(1 for j in range(d) if total[j] * signs[j] > 0)
            if agreeing < d / 2 + 2.326 * math.sqrt(d / 4):
                c = max(least, c * decay)
            tested = models[number]
        size, own = norm(step), norm(sent)
        rest = [step[j] - (size / own * sent[j] if own else 0) for j in range(d)]
        k = [abs(x) / norm(rest) for x in rest]
        sent = [c * size * k[j] * signs[j] for j in range(d)]
        outputs.append(sent)
    return torch.tensor(outputs, dtype=torch.float64)


def rounds_of(attack, models, rows, memory=None, first=0):
    """Return the updates sent in rounds with these models, and the memory after each."""
    memory, outputs, memories = memory or {}, [], []
    for number, model in enumerate(models):
        known = AttackerKnowledge(model=model, memory=memory, round=first + number + 1)
        memory = attack.learn(Updates(rows), known.completed(len(rows), 2))
        outputs.append(attack.craft(rows, 2, replace(known, memory=memory)))
        memories.append(memory)
    return torch.stack(outputs), memories


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("follows", [True, False])
def test_poisoned_fl_pushes_every_weight_by_its_sign(draw, seed, follows):
    attack, rows = PoisonedFL(every=3), draw()
    signs = attack.signs(rows[0], AttackerKnowledge())
    steps = draw(seed, h=11, d=40, common=0.0)
    models = torch.cumsum(steps.abs() * signs if follows else steps, dim=0)
    found, memories = rounds_of(attack, models, rows)
    close(found, poisoned_fl_of(models, signs.tolist(), every=3))
    factors = [memory["factor"] for memory in memories]
    assert factors[0] == 8.0
    assert (factors[-1] == 8.0) == follows
    assert bool((found[1:] * signs >= 0).all())


def test_poisoned_fl_lowers_its_factor_to_the_least_and_no_further(draw):
    steps = draw(h=30, common=0.0)
    _, memories = rounds_of(PoisonedFL(every=1), torch.cumsum(steps, dim=0), draw())
    factors = [memory["factor"] for memory in memories]
    assert factors[1] == pytest.approx(5.6)
    assert min(factors) == factors[-1] == 0.5


def test_the_signs_are_fixed_by_the_seed_and_the_member():
    model, attack = torch.zeros(1000), PoisonedFL()
    signs = attack.signs(model, AttackerKnowledge())
    assert set(signs.tolist()) == {-1.0, 1.0}
    assert abs(float(signs.mean())) < 0.1
    assert torch.equal(signs, attack.signs(model, AttackerKnowledge(round=9)))
    assert not torch.equal(signs, attack.signs(model, AttackerKnowledge(seeds=Seeds(1))))
    assert not torch.equal(signs, attack.signs(model, AttackerKnowledge(member=1)))


def test_poisoned_fl_goes_on_from_its_memory_and_begins_again_with_other_weights(draw):
    attack, rows = PoisonedFL(every=2), draw()
    models = torch.cumsum(draw(5, h=8), dim=0)
    whole, memories = rounds_of(attack, models, rows)
    resumed, _ = rounds_of(attack, models[4:], rows, memories[3], first=4)
    assert torch.equal(resumed, whole[4:])
    wide = torch.ones(3, 50, dtype=torch.float64)
    found, _ = rounds_of(attack, wide[:1], draw(d=50), memories[3])
    assert not found.any()


def test_poisoned_fl_needs_the_model(draw):
    with pytest.raises(ConfigError, match="PoisonedFL needs the global model"):
        PoisonedFL().craft(draw(), 2)


# --- FedSA --------------------------------------------------------------------------------------


def fed_sa_of(rows, f, model, first, attack):
    """Return the update, computed weight by weight."""
    d, n = rows.shape[1], len(rows) + f
    _, mean = deviations(rows)
    poor = [
        first[j] + attack.keep * (float(model[j]) + float(mean[j]) - first[j]) for j in range(d)
    ]
    e = [float(model[j]) - poor[j] for j in range(d)]
    sent = []
    for j in range(d):
        size = min(abs(e[j]), attack.rate * abs(e[j]) + attack.reach * norm(e) / math.sqrt(d))
        u = -math.copysign(size, e[j])
        sent.append((n * u - sum(float(row[j]) for row in rows)) / f)
    return torch.tensor(sent, dtype=torch.float64)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("keep", [0.0, 0.6])
def test_fed_sa_makes_the_mean_the_step_that_it_wants(draw, seed, keep):
    attack, rows = FedSA(keep=keep), draw(seed)
    first, model = draw(seed + 50, h=2)
    known = AttackerKnowledge(model=model, memory={"first": first})
    close(attack.craft(rows, 3, known), fed_sa_of(rows, 3, model, first.tolist(), attack))


def test_against_the_mean_fed_sa_reaches_the_first_model_and_stays_there(draw):
    first, attack, memory = draw(50, h=1)[0], FedSA(), {}
    model, errors = first.clone(), []
    for seed in range(30):
        rows = draw(seed)
        known = AttackerKnowledge(model=model, memory=memory).completed(7, 3)
        memory = attack.learn(Updates(rows), known)
        if seed == 0:
            model = model + rows.mean(dim=0)  # one honest round
            continue
        sent = attack.craft(rows, 3, replace(known, memory=memory))
        model = model + torch.cat([rows, sent.expand(3, -1)]).mean(dim=0)
        errors.append(norm(model - first))
    assert errors[0] < 0.75 * norm(draw(0).mean(dim=0))
    assert errors[-1] < 1e-4 * errors[0]


def test_fed_sa_stays_as_near_as_its_limit_says(draw):
    rows, (first, model) = draw(), draw(50, h=2)
    known = AttackerKnowledge(model=model, memory={"first": first})
    _, mean = deviations(rows)
    furthest = max(norm(row - mean) for row in rows)
    sent = FedSA(limit=1.5).craft(rows, 3, known)
    assert norm(sent - mean) == pytest.approx(1.5 * furthest)
    free = FedSA().craft(rows, 3, known)
    close((sent - mean) / norm(sent - mean), (free - mean) / norm(free - mean))
    close(FedSA(limit=1e6).craft(rows, 3, known), free)
    with pytest.raises(ConfigError, match="FedSA needs the global model"):
        FedSA().craft(rows, 3)


# --- copies -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_copycats_copy_one_client_for_as_long_as_it_takes_part(draw, seed):
    attack, known = Copycat(), AttackerKnowledge(seeds=Seeds(seed)).completed(7, 3)
    victims = set()
    for number in range(4):
        rows = draw(number)
        sent = attack.craft(rows, 3, known)
        victims.add([torch.equal(sent, row) for row in rows].index(True))
    assert len(victims) == 1
    without = tuple(client for client in range(7) if client not in victims)
    other = attack.victim(replace(known, honest=without))
    assert other in without


def test_noisy_copies_are_as_far_from_the_victim_as_they_should(draw):
    rows = draw(d=4000)
    known = AttackerKnowledge(round=3).completed(7, 3)
    victim = rows[Copycat().victim(known)]
    sent = Copycat(noise=0.2).craft(rows, 3, known)
    assert sent.shape == (3, 4000)
    for row in sent:
        assert norm(row - victim) == pytest.approx(0.2 * norm(victim), rel=0.05)
    assert not torch.equal(sent[0], sent[1])
    later = Copycat(noise=0.2).craft(rows, 3, replace(known, round=4))
    assert not torch.equal(sent, later)


# --- pushes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["against", "random"])
def test_the_direction_stays_and_the_push_is_as_long_as_stated(draw, direction):
    attack, first = ConstantDirection(0.5, 0.0, direction), draw(1)
    memory = attack.learn(Updates(first), AttackerKnowledge().completed(7, 3))
    for seed in range(2, 5):
        rows = draw(seed)
        std, mean = deviations(rows)
        sent = attack.craft(rows, 3, AttackerKnowledge(memory=memory))
        push = sent - mean
        assert norm(push) == pytest.approx(0.5 * norm(std))
        close(push / norm(push), memory["direction"])
        assert attack.learn(Updates(rows), AttackerKnowledge(memory=memory)) is memory
    if direction == "against":
        _, mean = deviations(first)
        close(memory["direction"], -mean / norm(mean))


def test_a_patient_attacker_is_as_far_from_the_mean_as_an_honest_client(draw):
    rows = draw(d=5000)
    std, mean = deviations(rows)
    sent = ConstantDirection().craft(rows, 3)
    assert sent.shape == (3, 5000)
    for row in sent:
        assert norm(row - mean) == pytest.approx(norm(std), rel=0.05)
    apart = norm(sent[0] - sent[1])
    assert apart == pytest.approx(math.sqrt(2) * 0.7 * norm(std), rel=0.1)


def test_without_an_honest_direction_the_mean_is_sent(draw):
    rows = torch.cat([draw(h=3), -draw(h=3)]).round(decimals=3)
    still = rows - rows  # six clients that learnt nothing
    assert not ConstantDirection().craft(still, 3).any()
    assert ConstantDirection().learn(Updates(still), AttackerKnowledge().completed(6, 3)) == {}


@pytest.mark.parametrize("strength", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_sideways_push_is_orthogonal_to_the_mean(draw, seed, strength):
    rows = draw(seed)
    _, mean = deviations(rows)
    push = Sideways(strength).craft(rows, 3) - mean
    assert norm(push) == pytest.approx(strength * norm(mean))
    assert float(push @ mean) == pytest.approx(0, abs=1e-9 * norm(push) * norm(mean))
    noisy = Sideways(strength, noise=0.5).craft(rows, 3)
    assert noisy.shape == (3, 40)
    assert not torch.equal(noisy[0], noisy[1])


# --- evasion ------------------------------------------------------------------------------------


def filtered(rule, rows, sent, known):
    """Return how many attackers a rule filters, and their influence over the fair share."""
    cohort, order = known.cohort()
    matrix = torch.cat([rows, sent])[order]
    outcome = aggregate(rule, Updates(matrix), cohort)
    theirs = torch.tensor([i >= len(rows) for i in order])
    fair = len(sent) / len(order)
    return int(outcome.filtered[theirs].sum()), float(outcome.influence[theirs].sum()) / fair


@pytest.mark.parametrize("attack", [MinMax("unit"), MinSum("sign"), Mimic()])
@pytest.mark.parametrize("rule", [FILTER, GeometricMedian()])
def test_evasive_attackers_are_not_noticed(draw, rule, attack):
    rows = draw(1, h=7, common=2.0)
    known = AttackerKnowledge(rule=rule).completed(7, 3)
    sent = Evasive(attack, share=0.8).craft(rows, 3, known)
    assert sent.shape == (3, 40)
    dropped, influence = filtered(rule, rows, sent, known)
    assert dropped == 0
    assert influence >= 0.8


def test_evasion_stops_at_the_detectors_threshold(draw):
    """Against the mean nothing is noticed; a filter lets less pass; a longer push is filtered."""
    rows, rule = draw(1, h=7, common=2.0), ByzantineFilter(detectors=("mad",))
    known = AttackerKnowledge(rule=rule).completed(7, 3)
    _, mean = deviations(rows)
    inner = MinMax("unit")
    push = inner.craft(rows, 3, known) - mean
    lengths = {}
    for used in (Mean(), rule):
        attack = Evasive(inner, limit=30.0, noise=0.0, tries=60)
        sent = attack.craft(rows, 3, replace(known, rule=used))
        offset = sent[0] - mean
        lengths[used] = norm(offset) / norm(push)
        close(offset, lengths[used] * push, 1e-6)
    assert lengths[Mean()] == pytest.approx(30.0)
    assert 0 < lengths[rule] < 30
    longer = (mean + 1.01 * lengths[rule] * push).expand(3, -1)
    dropped, influence = filtered(rule, rows, longer, known)
    assert dropped > 0 or influence < 0.9


def test_the_detector_may_be_named_and_then_has_no_memory(draw):
    rows = draw(2, h=7, common=2.0)
    known = AttackerKnowledge(rule=Median()).completed(7, 3)
    named = Evasive(detector="byzantine-filter").craft(rows, 3, known)
    in_use = Evasive().craft(rows, 3, replace(known, rule=ByzantineFilter()))
    assert torch.equal(named, in_use)
    in_use = Evasive().craft(rows, 3, replace(known, rule=FILTER))
    suspicious = {"0": {"reputation": dict.fromkeys(map(str, known.attackers), 0.0)}}
    gated = Evasive().craft(rows, 3, replace(known, rule=FILTER, state=suspicious))
    assert not torch.equal(gated, in_use)


def test_nothing_is_pushed_where_every_push_is_noticed(draw):
    """Copies are filtered at any length: without noise of their own the mean is left."""
    rows = draw(1, h=7, common=2.0)
    known = AttackerKnowledge(rule=FILTER).completed(7, 3)
    close(Evasive(noise=0.0).craft(rows, 3, known)[0], deviations(rows)[1])
    dropped, influence = filtered(Robust(), rows, Evasive(detector="robust").craft(rows, 3), known)
    assert dropped == 0
    assert influence > 0


def test_evasion_keeps_the_memory_of_the_inner_attack(draw):
    known = AttackerKnowledge(model=torch.ones(40, dtype=torch.float64)).completed(7, 3)
    memory = Evasive(PoisonedFL()).learn(Updates(draw()), known)
    assert memory["factor"] == 8.0
