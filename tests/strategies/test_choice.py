"""The choice of a round's nodes by a selector, which may be the user's own."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import pytest

from hqde_fl.errors import TaskError
from hqde_fl.selection import Candidates, ClientHistory, Selection, Selector, Uniform
from hqde_fl.selection.base import State
from hqde_fl.strategies.choice import Choice, choose_nodes

NODES = [100 + client for client in range(6)]


@final
@dataclass(frozen=True, eq=False)
class Own(Selector):
    """Returns what a function makes of the candidates."""

    chosen: Callable[[Candidates, State], Any]
    part: float = 1.0

    def size(self, available: int) -> int:
        return round(self.part * available)

    def select(self, candidates: Candidates, state: State, rng: np.random.Generator) -> Any:
        return self.chosen(candidates, state)

    def __repr__(self) -> str:
        return "Own()"


def choose(
    selector: Selector, resting: set[int] | None = None, state: State | None = None, **known: Any
) -> Choice:
    candidates = Candidates((), 0, **known)
    rng = np.random.default_rng(0)
    return choose_nodes(
        selector, NODES, lambda node: node - 100, resting or set(), candidates, state or {}, rng
    )


def everyone(candidates: Candidates, state: State) -> Selection:
    return Selection(list(candidates.ids))


def test_a_selector_sees_clients_and_returns_clients() -> None:
    seen: list[tuple[Candidates, State]] = []

    def record(candidates: Candidates, state: State) -> Selection:
        seen.append((candidates, state))
        return Selection([4, 1], {4: 0.3, 1: 1.0}, {"count": state["count"] + 1})

    history = {2: ClientHistory(selected=3)}
    choice = choose(Own(record, 0.5), {0}, {"count": 1}, round=7, deadline=60.0, history=history)
    assert choice.nodes == [104, 101]
    assert choice.work == {104: 0.25}
    assert choice.state == {"count": 2}
    ((candidates, _),) = seen
    assert (list(candidates.ids), candidates.size) == ([1, 2, 3, 4, 5], 3)
    assert (candidates.round, candidates.deadline) == (7, 60.0)
    assert candidates.of(2).selected == 3


def test_as_many_are_chosen_as_of_all_nodes_if_enough_are_awake() -> None:
    assert len(choose(Uniform(0.5), {0, 1, 2}).nodes) == 3
    assert choose(Uniform(0.5), {0, 1, 2, 3}).nodes == [104, 105]
    assert choose(Uniform(1.0), {5}).nodes == [100, 101, 102, 103, 104]


def test_if_all_rest_none_is_chosen_and_the_selector_keeps_its_state() -> None:
    def fail(candidates: Candidates, state: State) -> Selection:
        raise AssertionError("there is nothing to select from")

    choice = choose(Own(fail), set(range(6)), {"count": 1})
    assert (choice.nodes, choice.work, choice.state) == ([], {}, {"count": 1})


def test_fewer_than_asked_for_or_none_may_be_chosen() -> None:
    assert choose(Own(lambda c, s: Selection([3]))).nodes == [103]
    assert choose(Own(lambda c, s: Selection([]))).nodes == []


@pytest.mark.parametrize(
    ("returned", "problem"),
    [
        (None, "return a Selection, found NoneType"),
        ([1, 2], "return a Selection, found list"),
        (Selection((1, 2)), "a list of the clients it is given, found tuple"),  # type: ignore[arg-type]
        (Selection([1, 9]), "return a list of the clients it is given"),
        (Selection([101]), "return a list of the clients it is given"),
        (Selection([0]), "return a list of the clients it is given"),  # it rests
        (Selection([1, 1]), "return each client once, found one twice"),
        (Selection([1, 2, 3, 4]), "return at most 3 clients, found 4"),
        (Selection([1], {1: 0.0}), r"parts of work in (0, 1] to chosen clients, found 0.0 for"),
        (Selection([1], {1: 1.5}), "found 1.5 for client 1"),
        (Selection([1], {1: float("nan")}), "found nan for client 1"),
        (Selection([1], {1: -1}), "found -1 for client 1"),
        (Selection([1], {1: "half"}), "found 'half' for client 1"),  # type: ignore[dict-item]
        (Selection([1], {2: 0.5}), "found 0.5 for client 2"),
        (Selection([1], {}, [1]), "return a mapping as its state, found list"),  # type: ignore[arg-type]
    ],
    ids=str,
)
def test_what_is_no_selection_is_refused(returned: Any, problem: str) -> None:
    with pytest.raises(TaskError, match=re.escape("Own().select must ")) as error:
        choose(Own(lambda candidates, state: returned, 0.5), {0})
    assert problem in str(error.value)


def test_numbers_of_numpy_are_numbers() -> None:
    numpy = Own(lambda c, s: Selection([*np.array([1, 2])], {np.int64(2): np.float32(0.5)}))
    choice = choose(numpy)
    assert choice.nodes == [101, 102]
    assert choice.work == {102: 0.5}
    assert type(choice.work[102]) is float
