"""What the server remembers of a client."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hqde_fl.selection.base import WORK_LEVELS, Candidates, work_level
from hqde_fl.selection.history import NEW_CLIENT, ClientHistory, Observation

SEEN = st.builds(
    Observation,
    round=st.just(1),
    success=st.booleans(),
    seconds=st.none() | st.floats(0, 1e6),
    late=st.booleans(),
    work=st.integers(1, 8).map(lambda part: part / 8),
    busy=st.floats(0, 1),
    examples=st.none() | st.floats(0, 1e9),
)


@given(st.lists(st.tuples(SEEN, st.integers(1, 4)), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_a_history_is_the_moving_mean_of_its_rounds(rounds: list[tuple[Observation, int]]) -> None:
    """Compare with the definitions, written down as plain sums over all rounds."""
    history, number, seen = NEW_CLIENT, 0, []
    for one, gap in rounds:
        number += gap
        seen.append(Observation(**{**vars(one), "round": number}))
        history = history.after(seen[-1])
    n = len(seen)
    assert (history.selected, history.last_selected) == (n, number)
    success = 0.75**n + sum(0.25 * 0.75 ** (n - 1 - k) * s.success for k, s in enumerate(seen))
    assert history.success_rate == pytest.approx(success)
    load = 0.0
    for k, one in enumerate(seen):
        since = one.round - seen[k - 1].round if k else 0
        load = min(1.0, load / 2**since + one.busy / 2)
    assert history.load == pytest.approx(load)
    assert 0 <= history.load <= 1
    assert history.load_in(number + 3) == pytest.approx(load / 8)
    times = [s.seconds / s.work for s in seen if s.seconds is not None]
    assert (history.seconds is None) == (not times)
    if times:
        assert history.seconds is not None
        assert min(times) * 0.999 <= history.seconds <= max(times) * 1.001
    claims = [s.examples for s in seen if s.examples is not None]
    assert history.examples == (claims[-1] if claims else None)


def observed(*seconds: float, work: float = 1.0, late: bool = False) -> ClientHistory:
    history = NEW_CLIENT
    for number, each in enumerate(seconds, start=1):
        history = history.after(Observation(number, True, each, late=late, work=work))
    return history


def test_seconds_are_those_of_all_the_work() -> None:
    assert observed(3.0, 5.0).seconds == 4.0
    assert observed(3.0, 5.0, work=0.5).seconds == 8.0


def test_a_late_reply_says_only_that_it_takes_longer() -> None:
    late = Observation(3, False, 10.0, late=True)
    assert observed(4.0, 8.0).after(late).seconds == 10.0
    assert observed(40.0, 80.0).after(late).seconds == 60.0
    assert NEW_CLIENT.after(late).seconds == 10.0


def test_what_a_round_does_not_tell_stays() -> None:
    sketch = torch.ones(3)
    first = Observation(1, True, 2.0, examples=7.0, loss=0.5, sketch=sketch, host_load=0.3)
    after = NEW_CLIENT.after(first).after(Observation(2, False))
    assert (after.seconds, after.examples, after.loss) == (2.0, 7.0, 0.5)
    assert after.sketch is sketch
    assert after.host_load == 0.0  # measured in each round
    assert NEW_CLIENT == NEW_CLIENT
    assert NEW_CLIENT.selected == 0


def test_a_candidate_without_history_is_new() -> None:
    known = observed(1.0)
    candidates = Candidates([4, 5], 1, history={4: known})
    assert candidates.of(4) is known
    assert candidates.of(5) is NEW_CLIENT


@given(st.floats(0, 1, exclude_min=True))
@settings(max_examples=60, deadline=None)
def test_a_level_is_the_part_rounded_down(part: float) -> None:
    level = work_level(part)
    assert level * WORK_LEVELS == int(level * WORK_LEVELS)
    assert 1 / WORK_LEVELS <= level <= 1
    assert level <= max(part, 1 / WORK_LEVELS) + 1e-9
    assert part - level < 1 / WORK_LEVELS


def test_levels_are_exact() -> None:
    levels = [k / WORK_LEVELS for k in range(1, WORK_LEVELS + 1)]
    assert list(map(work_level, levels)) == levels
    assert work_level(0.1 + 0.2 + 0.075) == 0.375  # a sum's error does not cost a level
