"""What holds of every selector of the registry."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hqde_fl.errors import ConfigError
from hqde_fl.selection import SELECTORS, Candidates, ClientHistory, Selection, Selector
from hqde_fl.simulations.checkpoint.value_tree import ValueTree
from tests.hqde_fl.selection.simulated_rounds import Client, Rounds, log_uniform_clients

PARAMETERS: dict[str, dict[str, Any]] = {"qubo": {"k": 3}}
FITTED = ("adaptive", "least-loaded", "oort")
FAIR = ("adaptive", "least-loaded", "oort", "power-of-choice", "round-robin")

ANYTHING = st.one_of(
    st.none(),
    st.floats(),
    st.integers(),
    st.sampled_from([1e308, -1e308, 10**400, 0, -0.0, 5e-324]),
)
HISTORY = st.builds(
    ClientHistory,
    selected=st.integers(0, 10**12),
    last_selected=st.integers(0, 10**12),
    success_rate=st.floats() | st.floats(0, 1),
    seconds=ANYTHING,
    load=st.floats() | st.floats(0, 1),
    host_load=st.floats() | st.floats(0, 1),
    examples=ANYTHING,
    loss=ANYTHING,
    sketch=st.none() | st.sampled_from([torch.ones(4), torch.zeros(4), -torch.ones(4)]),
)


def build(name: str) -> Selector:
    return SELECTORS.build({"name": name, **PARAMETERS.get(name, {"fraction": 0.3})})


def select(
    selector: Selector, candidates: Candidates, state: Any = None, seed: int = 0
) -> Selection:
    return selector.select(candidates, state or {}, np.random.default_rng(seed))


def is_equal(one: Any, other: Any) -> bool:
    """Whether two states are, whatever kinds of arrays are in them."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(is_equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(is_equal, one, other))
    if isinstance(one, torch.Tensor | np.ndarray):
        return bool(np.array_equal(np.asarray(one), np.asarray(other)))
    return bool(one == other)


@pytest.mark.parametrize("name", SELECTORS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_history(name: str, data: st.DataObject) -> None:
    """As many candidates as asked for, each once, whatever is known of them."""
    ids = data.draw(st.lists(st.integers(0, 2**64 - 1), unique=True, max_size=12))
    size = data.draw(st.integers(0, len(ids)))
    known = data.draw(st.dictionaries(st.sampled_from(ids), HISTORY)) if ids else {}
    number = data.draw(st.integers(1, 1000))
    deadline = data.draw(st.sampled_from([float("inf"), 1.0, 1e-300]))
    selector, state = build(name), {}
    for server_round in (number, number + 1):
        candidates = Candidates(ids, size, server_round, deadline, known)
        before = copy.deepcopy((list(ids), dict(known), state))
        selection = select(selector, candidates, state)
        assert len(selection.clients) == len(set(selection.clients))
        assert len(selection.clients) == size or name == "poisson"  # which draws the number, too
        assert set(selection.clients) <= set(ids)
        assert {type(client) for client in selection.clients} <= {int}
        assert all(0 < part <= 1 for part in selection.work.values())
        assert set(selection.work) <= set(selection.clients)
        assert list(ids) == before[0]
        assert known.keys() == before[1].keys()
        assert is_equal(state, before[2])
        again = select(selector, candidates, state)
        assert (again.clients, again.work) == (selection.clients, selection.work)
        assert is_equal(again.state, selection.state)
        state = selection.state


@pytest.mark.parametrize("name", SELECTORS)
def test_resumed_state(name: str) -> None:
    """Rounds after a checkpoint are those of a run without an interruption."""
    clients = log_uniform_clients(10)
    whole = Rounds(build(name), clients, drop_out=0.1).run(25)
    first = Rounds(build(name), clients, drop_out=0.1).run(12)
    text, arrays = ValueTree().dump(dict(first.state))
    state = ValueTree().load(text, arrays)
    rest = Rounds(
        build(name), clients, drop_out=0.1, number=12, state=state, history=first.history
    ).run(13)
    assert first.chosen + rest.chosen == whole.chosen


@pytest.mark.parametrize("name", [name for name in SELECTORS if name not in PARAMETERS])
def test_fraction(name: str) -> None:
    selector = build(name)
    assert [selector.size(available) for available in (0, 1, 10, 100)] == [0, 1, 3, 30]
    for fraction in (0.0, 1.5, float("nan")):
        with pytest.raises(ConfigError, match=r"fraction must be in \(0, 1\], found"):
            SELECTORS.build({"name": name, "fraction": fraction})


@pytest.mark.parametrize(
    ("name", "parameter", "value"),
    [
        *((name, "ceiling", 0.9) for name in FAIR if name != "round-robin"),
        *((name, "round-seconds", -1.0) for name in FITTED),
        *((name, "round-seconds", float("nan")) for name in FITTED),
        ("adaptive", "speed", -0.1),
        ("adaptive", "success", float("inf")),
        ("oort", "penalty", -1.0),
        ("oort", "pace", 1.1),
        ("oort", "window", 0),
        ("power-of-choice", "factor", 0.5),
    ],
)
def test_bounds_of_parameters(name: str, parameter: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"\.{parameter.replace('-', '_')} must .*found"):
        SELECTORS.build({"name": name, parameter: value})


@pytest.mark.parametrize("name", FAIR)
@pytest.mark.parametrize(("count", "drop_out"), [(10, 0.0), (10, 0.1), (30, 0.1), (7, 0.5)])
def test_nobody_starves(name: str, count: int, drop_out: float) -> None:
    """Each client gets a third of its fair share, however slow, and at most 1.2 times it."""
    for seed in range(3):
        clients = log_uniform_clients(count, seed, ratio=1000)
        shares = Rounds(build(name), clients, seed, drop_out).run(40).fair_shares()
        assert shares.min() >= 1 / 3
        if drop_out < 0.5:  # else those that work have to take the others' part
            assert shares.max() <= 1.2


@pytest.mark.parametrize("name", FAIR)
def test_clients_that_come_and_go(name: str) -> None:
    """Clients that are not always there are chosen when they are, and new ones soon."""
    clients = log_uniform_clients(12)

    def available(server_round: int) -> list[int]:
        odd = list(range(6)) if server_round % 2 else list(range(3, 9))
        return odd if server_round <= 30 else [*odd, 9, 10, 11]

    rounds = Rounds(build(name), clients, available=available).run(60)
    late = [set(chosen) & {9, 10, 11} for chosen in rounds.chosen]
    assert set().union(*late[30:36]) == {9, 10, 11}
    assert rounds.fair_shares()[:9].min() >= 1 / 3


@pytest.mark.parametrize("name", FAIR)
def test_failed_client_comes_back(name: str) -> None:
    """A client that failed for long is tried again, and is one like the others when it works."""
    clients = [Client(1.0) for _ in range(10)]
    clients[4] = Client(1.0, fails=lambda server_round: server_round <= 40)
    runs = [Rounds(build(name), clients, seed, drop_out=0.1).run(40) for seed in range(4)]
    assert min(rounds.fair_shares()[4] for rounds in runs) >= 1 / 3
    for rounds in runs:
        rounds.run(60)
        rounds.chosen = rounds.chosen[65:]
    assert np.mean([rounds.fair_shares()[4] for rounds in runs]) >= 0.7


@pytest.mark.parametrize("name", FITTED)
def test_slow_clients_do_the_part_that_fits(name: str) -> None:
    seconds = {0: 1.0, 1: 1.1, 2: 4.0, 3: 4.2, 4: 1000.0, 5: None}
    known = {client: ClientHistory(1, 1, seconds=value) for client, value in seconds.items()}
    candidates = Candidates(range(7), 7, 2, history=known)

    def work(candidates: Candidates, **parameters: float) -> dict[int, float]:
        selector = SELECTORS.build({"name": name, "fraction": 1.0, **parameters})
        return dict(select(selector, candidates).work)

    new = {5: 0.5, 6: 0.5}
    assert work(candidates) == {4: 0.125, **new}  # as long as the median client, or a little more
    assert work(candidates, **{"round-seconds": 2.0}) == {2: 0.5, 3: 0.5, 4: 0.125, **new}
    everything = {"round-seconds": float("inf")}
    assert work(candidates, **everything) == {}
    deadline = replace(candidates, deadline=2.0)  # 9 / 10 of it is planned with
    assert work(deadline, **everything) == pytest.approx({2: 0.45, 3: 1.8 / 4.2, 4: 0.125, **new})
    assert work(Candidates(range(7), 7, 1)) == dict.fromkeys(range(7), 0.5)


def test_work_keeps_rounds_short() -> None:
    clients = log_uniform_clients(10)
    rounds = Rounds(build("adaptive"), clients).run(30)
    limit = float(np.median([client.seconds for client in clients]))
    assert max(rounds.seconds[5:]) <= 1.3 * limit < max(client.seconds for client in clients) / 2
