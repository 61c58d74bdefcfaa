"""Parts of the user's own are tried on a few random numbers before anything starts."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from hqde_fl import Codec, Experiment, Selection, Selector
from hqde_fl.errors import ConfigError
from hqde_fl.rules import Decision, Rule
from hqde_fl.simulations.attacks import Attack
from hqde_fl.strategies.optimizers import ServerOptimizer


@dataclass(frozen=True)
class OwnRule(Rule):
    """The first update, or what a mistake makes of it."""

    mistake: str = ""

    def minimum(self, faulty: int = 0) -> int:
        return 1

    def breakdown(self, n: int) -> int:
        return 0

    def decide(self, measured: Any, cohort: Any, state: Any) -> Any:
        mixing = torch.zeros(1, cohort.n, dtype=torch.float64)
        mixing[0, 0] = float("nan") if self.mistake == "nan" else 1.0
        decision = Decision(mixing=mixing)
        return {
            "": decision,
            "nan": decision,
            "nothing": None,
            "width": Decision(mixing=mixing[:, 1:]),
            "height": Decision(mixing=mixing.expand(2, -1)),
            "vector": Decision(mixing=mixing[0]),
            "dtype": Decision(mixing=mixing.float()),
            "filtered": Decision(mixing=mixing, filtered=torch.zeros(1, dtype=torch.bool)),
        }[self.mistake]


@dataclass(frozen=True)
class OwnCodec(Codec):
    """The numbers in half precision, and perhaps not all of them."""

    code: ClassVar[int] = 213
    mistake: str = ""

    def write(self, values: Any, state: Any, rng: Any) -> Any:
        frame = [values[self.mistake == "short" :].astype("<f2")]
        return frame if self.mistake == "state" else (frame, {})

    @classmethod
    def read(cls, reader: Any, size: int) -> Any:
        return reader.array("<f2", size).astype(np.float32)


@dataclass(frozen=True)
class OwnSelector(Selector):
    """The first clients, or what a mistake makes of them."""

    mistake: str = ""

    def size(self, available: int) -> Any:
        sizes = {"half": available / 2, "many": available + 1}
        return available // 0 if self.mistake == "size" else sizes.get(self.mistake, 4)

    def select(self, candidates: Any, state: Any, rng: Any) -> Any:
        chosen = list(candidates.ids)[: candidates.size]
        mistakes: dict[str, Any] = {
            "others": [10**6],
            "twice": chosen[:1] * 4,
            "array": np.array(chosen),
            "more": list(candidates.ids),
        }
        if self.mistake == "list":
            return chosen
        work = {chosen[0]: 2.0} if self.mistake == "work" else {}
        memory = {"seen": {1, 2}} if self.mistake == "state" else {}
        return Selection(mistakes.get(self.mistake, chosen), work, memory)


@dataclass(frozen=True)
class OwnAttack(Attack):
    """All attackers send ones, which they remember."""

    mistake: str = ""

    def learn(self, honest: Any, knowledge: Any) -> Any:
        assert len(knowledge.honest) == honest.shape[0]
        return {"value": {1} if self.mistake == "memory" else 1}

    def forge(self, honest: Any, f: int, knowledge: Any) -> Any:
        ones = knowledge.memory["value"] * torch.ones(honest.shape[1])
        return {"": ones, "short": ones[1:], "rows": ones.expand(f + 1, -1), "nothing": None}[
            self.mistake
        ]


@dataclass(frozen=True)
class OwnStep(ServerOptimizer):
    """The update, or its sum."""

    mistake: str = ""

    def step(self, delta: Any, moments: Any) -> Any:
        return delta.sum() if self.mistake else delta, {}


TABLES: dict[str, Any] = {
    "rule": lambda part: {"rule": part},
    "codec": lambda part: {"codec": {"name": "error-feedback", "inner": part}},
    "downlink": lambda part: {"strategy": {"downlink": part}},
    "selector": lambda part: {"strategy": {"selector": part}},
    "attack": lambda part: {"faults": [{"name": part, "count": 1}]},
    "server optimizer": lambda part: {"strategy": {"server-optimizer": part}},
}


def with_part(place: str, part: Any) -> Experiment:
    return Experiment(**TABLES[place](part))


@pytest.mark.parametrize(
    ("place", "part"),
    [
        ("rule", OwnRule()),
        ("codec", OwnCodec()),
        ("selector", OwnSelector()),
        ("attack", OwnAttack()),
        ("server optimizer", OwnStep()),
    ],
)
def test_parts_that_work_pass(place: str, part: Any) -> None:
    state = torch.get_rng_state()
    with_part(place, part).try_parts()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("place", "part", "message"),
    [
        ("rule", OwnRule("nan"), "returned an update that is not finite"),
        ("rule", OwnRule("nothing"), "must return a Decision, found NoneType"),
        ("rule", OwnRule("width"), r"mixing of 1 x 10 float64, found \(1, 9\) float64"),
        ("rule", OwnRule("height"), r"mixing of 1 x 10 float64, found \(2, 10\) float64"),
        ("rule", OwnRule("vector"), r"found \(10,\) float64"),
        ("rule", OwnRule("dtype"), r"found \(1, 10\) float32"),
        ("rule", OwnRule("filtered"), r"filtered as 10 bool, found \(1,\) bool"),
        ("rule", OwnRule("no such"), r"raised KeyError: 'no such' \(test_trial.py, line "),
        ("codec", OwnCodec("short"), "needs 8192 more bytes, found 8190"),
        ("downlink", OwnCodec("state"), "not enough values to unpack"),
        ("selector", OwnSelector("others"), "must return a list of the clients it is given"),
        ("selector", OwnSelector("array"), "must return a list of the clients it is given"),
        ("selector", OwnSelector("twice"), "each client once"),
        ("selector", OwnSelector("more"), "must return at most 4 clients, found 10"),
        ("selector", OwnSelector("state"), "set"),
        ("selector", OwnSelector("list"), "must return a Selection, found list"),
        ("selector", OwnSelector("work"), "to chosen clients, found 2.0 for client 0"),
        ("attack", OwnAttack("short"), r"must return a tensor \(4096,\), found"),
        ("attack", OwnAttack("rows"), r"must return a tensor \(1, 4096\), found"),
        ("attack", OwnAttack("memory"), "set"),
        ("attack", OwnAttack("nothing"), r"must return a tensor \(4096,\), found"),
        ("server optimizer", OwnStep("sum"), r"must return a tensor \(4096,\), found"),
    ],
)
def test_a_part_that_fails_is_named(place: str, part: Any, message: str) -> None:
    experiment = with_part(place, part)
    with pytest.raises(ConfigError, match=rf"^{place} .*Own.* random numbers.*{message}") as e:
        experiment.try_parts()
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("half", r"size must return an integer in \[0, 10\], the number of clients, found 5.0"),
        ("many", "found 11"),
        ("size", r"^a part of the experiment raised ZeroDivisionError: .*\(test_trial.py, line "),
    ],
)
def test_a_size_that_is_none_is_refused_at_once(mistake: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        with_part("selector", OwnSelector(mistake))


def test_a_solver_whose_package_is_missing_is_refused_before_the_run(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "dwave.samplers", None)
    selector = 'strategy.selector={name="qubo", k=2, solver="tabu"}'
    experiment = Experiment.parse(tiny.to_table(), [selector])  # a client does not need it
    with pytest.raises(ConfigError, match=r"solver 'tabu' needs .*'hqde-fl\[quantum\]'"):
        experiment.checked_task()


def test_a_solver_is_tried_on_as_many_clients_as_it_gets(tiny):
    selector = 'strategy.selector={name="qubo", k=2, solver="exact"}'
    many = Experiment.parse(tiny.to_table(), [selector, "clients.count=24"])
    with pytest.raises(ConfigError, match="tries all subsets of at most 20 items, found 24"):
        many.checked_task()
    Experiment.parse(many.to_table(), ["edges.groups=2"]).checked_task()


@pytest.mark.parametrize("key", ["quality", "cost", "diversity"])
def test_a_weight_of_qubo_is_named_by_its_key(tiny, key):
    selector = f'strategy.selector={{name="qubo", k=2, {key}=-1}}'
    message = f"^strategy.selector.{key} needs to be a finite weight >= 0, found -1"
    with pytest.raises(ConfigError, match=message):
        Experiment.parse(tiny.to_table(), [selector])
