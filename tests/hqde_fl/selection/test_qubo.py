"""Selection of clients by QUBO: what counts, who starves, and what an outlier gains."""

from __future__ import annotations

import dimod
import numpy as np
import pytest
import torch

from hqde_fl import Experiment, Participation
from hqde_fl.errors import ConfigError
from hqde_fl.selection import SELECTORS, Candidates, ClientHistory
from hqde_fl.selection.history import NEW_CLIENT, Observation
from hqde_fl.selection.qubo import QUBO, relative_seconds, typical_diversity

SIZE = 32
"""Numbers in a sketch."""


def select(selector, history, count, state=None, number=1, seed=0):
    candidates = Candidates(list(range(count)), selector.size(count), number, 1e9, history)
    return selector.select(candidates, state or {}, np.random.default_rng((seed, number)))


def simulate(selector, count, rounds, update, seconds=None, drop_out=0.0, seed=0):
    """Return how many times its fair share each client was chosen.

    ``update(client, rng)`` is a client's update in a round.
    """
    rng = np.random.default_rng(seed)
    history, state, turns = {}, {}, np.zeros(count)
    for number in range(1, rounds + 1):
        selection = select(selector, history, count, state, number, seed)
        state = selection.state
        assert len(set(selection.clients)) == selector.size(count)
        for client in selection.clients:
            turns[client] += 1
            ok = client < 3 or rng.random() >= drop_out  # attackers never drop out
            seen = Observation(
                round=number,
                success=bool(ok),
                seconds=1.0 if seconds is None else seconds[client],
                sketch=torch.tensor(update(client, rng), dtype=torch.float32),
            )
            history[client] = history.get(client, NEW_CLIENT).after(seen)
    return turns / (rounds * selector.size(count) / count)


@pytest.mark.parametrize(
    ("attack", "spread"),
    [("opposite", 0.3), ("orthogonal", 0.3), ("orthogonal", 2), ("own direction", 2), ("zero", 2)],
)
def test_three_outliers_of_ten_are_chosen_as_often_as_is_fair(attack, spread):
    rng = np.random.default_rng(1)
    common, own = rng.normal(size=SIZE), spread * rng.normal(size=(10, SIZE))

    def update(client, rng):
        if client >= 3:
            return common + own[client] + 0.3 * rng.normal(size=SIZE)
        return {
            "opposite": -4 * common,
            "orthogonal": 10 * rng.normal(size=SIZE),
            "own direction": 10 * np.eye(SIZE)[client],
            "zero": 0 * common,
        }[attack]

    shares = simulate(QUBO(3), 10, 40, update, drop_out=0.1)
    assert shares[:3].mean() <= 1.2
    assert shares.min() >= 1 / 3


def test_slow_clients_are_chosen_less_but_never_starve():
    seconds = 10.0 ** np.linspace(0, 1, 8)
    shares = simulate(QUBO(2), 8, 60, lambda client, rng: np.ones(SIZE), seconds)
    assert shares[:3].mean() > shares[-3:].mean() + 0.2
    assert shares.min() >= 1 / 3


def test_quality_cost_and_diversity_all_count():
    same, other = torch.ones(4), torch.tensor([1.0, -1, 1, -1])

    def known(success=1.0, seconds=1.0, sketch=same):
        return ClientHistory(1, 0, success, seconds, sketch=sketch)

    history = {0: known(), 1: known(), 2: known(), 3: known(0.5), 4: known(seconds=3.0)}
    assert select(QUBO(3), history, 5, number=2).clients == [0, 1, 2]
    history = {0: known(sketch=other), 1: known(), 2: known(), 3: known(sketch=other)}
    for seed in range(4):
        chosen = select(QUBO(2), history, 4, number=2, seed=seed).clients
        assert len({0, 3} & set(chosen)) == 1


def test_new_clients_are_chosen_by_chance():
    counts = np.zeros(6)
    for seed in range(40):
        counts[select(QUBO(2, solver="greedy"), {}, 6, seed=seed).clients] += 1
    assert counts.min() >= 4  # 13 expected


def test_more_or_fewer_clients_than_k():
    for count in (0, 1, 3, 5):
        selection = select(QUBO(3), {}, count)
        assert len(selection.clients) == min(3, count)
        assert selection.state["solver"] == ("annealing" if count > 3 else "none")


def test_thousands_of_candidates_are_thinned_out(monkeypatch):
    monkeypatch.setattr("hqde_fl.selection.qubo.MAX_CANDIDATES", 20)
    chosen = {client for seed in range(12) for client in select(QUBO(3), {}, 99, seed=seed).clients}
    assert len(chosen) > 20


def test_costs_are_relative_to_the_median():
    costs = relative_seconds(np.array([1.0, 2.0, 4.0, 100.0, np.nan, 2.0]))
    assert costs.tolist() == [0.25, 0.5, 1.0, 1.0, 0.5, 0.5]
    assert relative_seconds(np.full(2, np.nan)).tolist() == [0.5, 0.5]


def test_diversity_is_that_of_sketches_and_no_more_than_typical():
    rows = [torch.tensor(row) for row in ([1.0, 0], [1.0, 1], [0.0, 1], [0.0, 0], [-9.0, -9])]
    pairs = typical_diversity([*rows[:3], None])
    assert pairs[0, 1] == pytest.approx(1 - 0.5**0.5)
    assert pairs[0, 2] == pairs.max() == pairs[0, 3] == pytest.approx(0.6464466)  # a median
    outlier = typical_diversity([*rows[:3], rows[4]])
    assert outlier.max() < 1.3  # 2 without the bound
    assert not typical_diversity([*rows[:3], rows[3]])[3].any()
    assert not typical_diversity([None, rows[0]]).any()
    broken = typical_diversity([rows[0], rows[1], torch.full((2,), torch.nan)])
    assert np.isfinite(broken).all()


def test_a_sampler_chooses_clients_and_the_state_says_so():
    selector = QUBO(3, solver="tabu", solver_options={"num-restarts": 10})
    selection = select(selector, {}, 8)
    assert selection.state["solver"] in ("tabu", "greedy")
    assert selection.state["repaired"] is False
    assert selection.clients == select(selector, {}, 8).clients


def test_qubo_in_a_file():
    table = {"name": "qubo", "k": 3, "diversity": 0, "solver-options": {"num-reads": 5}}
    selector = SELECTORS.build(table | {"solver": "simulated-annealing"})
    assert isinstance(selector, QUBO)
    assert (selector.k, selector.diversity, selector.pairs) == (3, 0, "mean")
    experiment = Experiment(strategy={"selector": QUBO(4, pairs="sum")})
    assert experiment.parts.participation.selector == QUBO(4, pairs="sum")
    assert experiment.parts.sampled == 4
    assert Participation(QUBO(2)).selector.uses_sketches


def test_a_sampler_from_a_program_or_a_file_beside_the_experiment(tmp_path):
    class Recorder(dimod.ExactSolver):
        calls = 0

        def sample(self, model, **options):
            Recorder.calls += 1
            return super().sample(model, **options)

    experiment = Experiment(strategy={"selector": QUBO(3, solver=Recorder())})
    selector = experiment.parts.participation.selector
    assert select(selector, {}, 6).state["solver"] in ("Recorder", "greedy")
    assert Recorder.calls == 1
    (tmp_path / "samplers.py").write_text(
        "def hardware():\n    import dimod\n\n    return dimod.ExactSolver()\n"
    )
    (tmp_path / "study.toml").write_text(
        '[strategy]\nselector = { name = "qubo", k = 3, solver = "samplers.py:hardware" }\n'
    )
    selector = Experiment.load(tmp_path / "study.toml").parts.participation.selector
    assert selector.solver == "samplers.py:hardware"
    assert select(selector, {}, 6).state["solver"] in ("hardware", "greedy")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"k": 0}, r"QUBO\.k must be a whole number >= 1, found 0"),
        ({"k": 2, "cost": -1.0}, "QUBO.cost must be a finite weight >= 0, found -1"),
        ({"k": 2, "pairs": "all"}, "pairs must be 'mean' or 'sum', found 'all'"),
        ({"k": 2, "ceiling": 0.5}, r"QUBO\.ceiling must be >= 1, found 0.5"),
        ({"k": 2, "solver": "annealling"}, r"QUBO\.solver 'annealling': did you mean 'annealing'"),
        ({"k": 2, "solver": 3}, r"QUBO\.solver must be a name or a dimod sampler, found 3"),
        ({"k": 2, "solver_options": {"seed": 1}}, "solver-options are for samplers, found solver"),
    ],
)
def test_impossible_parameters_are_refused(parameters, message):
    with pytest.raises(ConfigError, match=message):
        QUBO(**parameters)
