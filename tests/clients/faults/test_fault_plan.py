import pytest

from hqde_fl.clients.faults import choose_faulty_clients
from hqde_fl.errors import ConfigError
from hqde_fl.seeding import Seeds


def test_the_sets_have_the_requested_sizes_and_are_disjoint():
    sets = choose_faulty_clients([3, 0, 4, 3], 10, Seeds(0))
    assert [len(chosen) for chosen in sets] == [3, 0, 4, 3]
    assert frozenset().union(*sets) == frozenset(range(10))


def test_the_choice_depends_on_the_seed_alone():
    assert choose_faulty_clients([3], 10, Seeds(1)) == choose_faulty_clients([3], 10, Seeds(1))
    assert len({choose_faulty_clients([3], 100, Seeds(seed))[0] for seed in range(5)}) == 5


def test_a_further_fault_does_not_change_the_earlier_choice():
    two, three, both = (choose_faulty_clients(n, 10, Seeds(1)) for n in ([2], [3], [3, 5]))
    assert three[0] == both[0]
    assert two[0] < three[0]


def test_named_clients_are_taken_and_the_others_drawn_around_them():
    named = frozenset({3, 5})
    for seed in range(20):
        first, second = choose_faulty_clients([named, 8], 10, Seeds(seed))
        assert first == named
        assert second == frozenset(range(10)) - named
    drawn = choose_faulty_clients([4], 10, Seeds(1))[0]
    outside = min(set(range(10)) - drawn)
    assert choose_faulty_clients([4, frozenset({outside})], 10, Seeds(1))[0] == drawn


def test_no_faults_need_no_clients():
    assert choose_faulty_clients([], 0, Seeds(0)) == []


def test_more_faulty_clients_than_clients_are_refused():
    with pytest.raises(ConfigError, match="need 11 different clients, found 10 clients"):
        choose_faulty_clients([6, 5], 10, Seeds(0))
    with pytest.raises(ConfigError, match="count of a fault must be >= 0, found -1"):
        choose_faulty_clients([-1], 10, Seeds(0))


def test_clients_that_do_not_exist_or_are_named_twice_are_refused():
    with pytest.raises(ConfigError, match=r"clients of a fault must be in \[0, 9\], found 10"):
        choose_faulty_clients([frozenset({2, 10})], 10, Seeds(0))
    with pytest.raises(ConfigError, match="a client can have one fault, found two of client 2"):
        choose_faulty_clients([frozenset({2}), frozenset({1, 2})], 10, Seeds(0))
    with pytest.raises(ConfigError, match="need 11 different clients, found 10 clients"):
        choose_faulty_clients([frozenset({2}), 10], 10, Seeds(0))
