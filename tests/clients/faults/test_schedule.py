import pickle

import pytest

from hqde_fl.clients.faults import (
    FaultPlan,
    FaultSchedule,
    SignFlip,
    choose_faulty_clients,
    count_from_fraction,
    only_for,
)
from hqde_fl.errors import ConfigError
from hqde_fl.seeding import Seeds

ALWAYS, RESAMPLED = FaultSchedule(), FaultSchedule(resample=True)


def plan(counts, *schedules, partitions=10, seed=1):
    return FaultPlan(partitions, Seeds(seed), tuple(counts), schedules)


def test_a_plan_that_never_resamples_keeps_its_choice():
    expected = choose_faulty_clients([3, 2], 10, Seeds(1))
    for number in (1, 2, 50):
        assert plan([3, 2], ALWAYS, ALWAYS).faulty(number) == expected


def test_a_fault_starts_and_stops():
    limited = plan([3], FaultSchedule(start=3, stop=5))
    acting = [bool(limited.faulty(number)[0]) for number in range(1, 8)]
    assert acting == [False, False, True, True, True, False, False]
    endless = FaultSchedule(start=2)
    assert not endless.active(1)
    assert endless.active(10**6)


def test_an_on_off_fault_acts_in_the_first_rounds_of_every_cycle():
    schedule = FaultSchedule(start=3, stop=11, period=4, on=2)
    expected = [r for r in range(1, 15) if 3 <= r <= 11 and (r - 3) % 4 < 2]
    assert [r for r in range(1, 15) if schedule.active(r)] == expected == [3, 4, 7, 8, 11]


def test_late_joiners_are_absent_before_they_start_and_faulty_from_then_on():
    late = plan([2, 1, 1], FaultSchedule(start=4, absent=True), ALWAYS, RESAMPLED)
    (clients,) = {late.faulty(number)[0] for number in range(4, 8)}
    assert len(clients) == 2
    for number in range(1, 9):
        absent = late.absent(number)
        assert absent == (clients if number < 4 else frozenset())
        assert not absent & frozenset().union(*late.faulty(number))
    assert plan([2], FaultSchedule(start=4)).absent(1) == frozenset()


def test_resampled_clients_differ_by_round_and_depend_on_the_seed_alone():
    resampled = plan([3], RESAMPLED)
    rounds = [resampled.faulty(number)[0] for number in range(1, 30)]
    assert all(len(chosen) == 3 for chosen in rounds)
    assert len(set(rounds)) > 15
    assert frozenset().union(*rounds) == frozenset(range(10))
    assert rounds == [plan([3], RESAMPLED).faulty(number)[0] for number in range(1, 30)]
    assert rounds != [plan([3], RESAMPLED, seed=2).faulty(number)[0] for number in range(1, 30)]


def test_faults_have_disjoint_clients_and_resampling_changes_no_other_fault():
    mixed = plan([2, 3, 2, 3], ALWAYS, RESAMPLED, FaultSchedule(start=4), RESAMPLED)
    fixed = plan([2, 2], ALWAYS, ALWAYS).faulty(1)
    for number in range(1, 10):
        sets = mixed.faulty(number)
        assert [len(chosen) for chosen in sets] == [2, 3, 2 if number >= 4 else 0, 3]
        assert len(frozenset().union(*sets)) == sum(map(len, sets))
        assert sets[0] == fixed[0]
    assert mixed.faulty(4)[2] == fixed[1]


def test_a_mod_follows_the_plan(train, weights, same, node):
    resampled = plan([1], FaultSchedule(start=2, resample=True), partitions=3)
    mod = pickle.loads(pickle.dumps(only_for(SignFlip(), resampled.choice_of(0))))
    for number in range(1, 6):
        for partition in range(3):
            context = node(partition)
            faulty = not same(
                weights(train(mod, number=number, context=context)),
                weights(train(number=number, context=context)),
            )
            assert faulty == (partition in resampled.faulty(number)[0])


def test_a_fraction_is_rounded_down():
    counts = [count_from_fraction(fraction, 10) for fraction in (0, 0.2, 0.3, 0.39, 1)]
    assert counts == [0, 2, 3, 3, 10]
    assert count_from_fraction(0.29, 100) == 29


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FaultSchedule(start=0), "FaultSchedule.start must be >= 1, found 0"),
        (lambda: FaultSchedule(start=5, stop=4), r"0 \(never\) or >= start = 5, found 4"),
        (lambda: FaultSchedule(start="2"), "FaultSchedule.start must be an integer, found '2'"),
        (lambda: FaultSchedule(absent=1), "FaultSchedule.absent must be true or false, found 1"),
        (lambda: FaultSchedule(period=-1), "FaultSchedule.period must be >= 0, found -1"),
        (lambda: FaultSchedule(period=4), r"FaultSchedule.on must be in \[1, 4\], found 0"),
        (lambda: FaultSchedule(on=1), r"FaultSchedule.on must be in \[0, 0\], found 1"),
        (lambda: FaultSchedule(absent=True), "start > 1.* found start = 1"),
        (lambda: FaultSchedule(start=2, absent=True, resample=True), "found resample = true"),
        (lambda: count_from_fraction(1.1, 10), r"fraction of a fault must be .* 1\], found 1.1"),
        (lambda: plan([6, 5], ALWAYS, RESAMPLED), "need 11 different clients, found 10 clients"),
        (lambda: plan([6, 5], ALWAYS), "a schedule for each of 2 faults, found 1"),
        (lambda: plan([-1], RESAMPLED), "must be >= 0, found -1"),
    ],
)
def test_impossible_plans_are_refused(build, message):
    with pytest.raises(ConfigError, match=message):
        build()
