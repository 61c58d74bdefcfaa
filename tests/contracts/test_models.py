"""Every kind of model, through every codec, server optimiser, rule and downlink.

What is trained moves, what is frozen keeps its bits, tied entries are equal, statistics stay within
what the clients have, no reply is lost, and a resumed run ends with the same bits.

Pairs of all values are tested here; the full product takes the marker ``zoo``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hqde_fl.codec import CODECS
from hqde_fl.strategies.optimizers import SERVER_OPTIMIZERS
from hqde_fl.updates.roles import roles_of
from tests.contracts.all_pairs import all_pairs
from tests.contracts.model_runs import (
    AXES,
    CODECS_AXIS,
    MORE_AXES,
    OPTIMIZERS,
    Case,
    product_cases,
    violations,
)
from tests.contracts.models import KINDS, Kind, matching

PAIRS = [Case(**values) for values in all_pairs(AXES | MORE_AXES)]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- the suite itself -----------------------------------------------------------------------------


def test_every_registered_part_is_on_an_axis() -> None:
    codecs = {type(codec) for codec in CODECS_AXIS.values()}
    assert codecs == {CODECS[name] for name in CODECS}
    optimizers = {type(optimizer) for optimizer in OPTIMIZERS.values()}
    assert optimizers == {SERVER_OPTIMIZERS[name] for name in SERVER_OPTIMIZERS}
    assert len(KINDS) >= 16


def test_all_pairs_occur() -> None:
    axes = {"one": "abc", "two": "de", "three": "fghi", "four": "jk"}
    combinations = all_pairs(axes)
    for (one, first), (two, second) in itertools.combinations(axes.items(), 2):
        found = {(chosen[one], chosen[two]) for chosen in combinations}
        assert found == set(itertools.product(first, second))
    assert len(combinations) < 3 * 2 * 4


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_roles_are_those_that_the_models_author_knows(kind: Kind) -> None:
    model = kind.model()
    roles, names = roles_of(model), list(model.state_dict())
    frozen = (*kind.frozen, *kind.unnamed_statistics, *kind.thawing)
    expected = dict.fromkeys(names, "trainable")
    expected |= dict.fromkeys(matching(names, frozen), "frozen")
    expected |= dict.fromkeys(matching(names, kind.statistics), "statistics")
    expected |= dict.fromkeys(matching(names, kind.counters), "counters")
    empty = {name for name, tensor in model.state_dict().items() if not tensor.numel()}
    assert {n: r for n, r in roles.roles.items() if n not in empty} == {
        n: r for n, r in expected.items() if n not in empty
    }
    assert roles.tied == kind.tied


# --- the contract ---------------------------------------------------------------------------------


@pytest.mark.parametrize("case", PAIRS, ids=str)
def test_pairs(case: Case, tmp_path: Path) -> None:
    assert violations(case, tmp_path / "checkpoint") == []


@pytest.mark.zoo
@pytest.mark.parametrize("codec", CODECS_AXIS)
@pytest.mark.parametrize("kind", KINDS)
def test_product(kind: str, codec: str, tmp_path: Path) -> None:
    wrong = {
        str(case): lines
        for case in product_cases(kind, codec)
        if (lines := violations(case, tmp_path / "checkpoint"))
    }
    assert wrong == {}
