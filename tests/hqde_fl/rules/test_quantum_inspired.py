"""The quantum-inspired rules: their formulas as plain loops, and their properties."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.rules import Adaptive, Entanglement, Superposition, Voting
from hqde_fl.rules.aggregation import aggregate
from hqde_fl.rules.base import Rule
from hqde_fl.rules.cohort import Cohort
from hqde_fl.rules.executor import SerialExecutor
from hqde_fl.rules.results import Aggregate
from hqde_fl.seeding import Seeds
from hqde_fl.updates import Updates

RULES: dict[str, Rule] = {
    "superposition": Superposition(),
    "superposition, unbounded": Superposition(longest=0),
    "entanglement": Entanglement(),
    "entanglement by rows": Entanglement(by="row-mean"),
    "entanglement, random": Entanglement(coupling="random"),
    "voting": Voting(),
    "voting on updates": Voting(votes="updates"),
    "adaptive": Adaptive(),
    "adaptive, medium": Adaptive(high=1.0, low=0.0),
    "adaptive, high": Adaptive(high=0.0, low=0.0),
}
LINEAR = {name: rule for name, rule in RULES.items() if name != "voting"}


def draw(n: int, d: int = 40, seed: int = 0, shared: float = 0.7) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n, d, dtype=torch.float64, generator=generator)
    return noise + shared * torch.randn(d, dtype=torch.float64, generator=generator)


def run(rule: Rule, updates: Tensor, cohort: Cohort | None = None) -> Aggregate:
    return aggregate(rule, Updates(updates), cohort, executor=SerialExecutor())


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    return float(x @ y) / math.sqrt(float(x @ x) * float(y @ y))


@pytest.mark.parametrize("name", RULES)
def test_identical_clients_come_back_unchanged(name: str) -> None:
    for n in range(1, 101):
        for scale in (1.0, 1e-12) if n % 10 == 1 else (1.0,):
            one = scale * draw(1, 17, seed=n)[0]
            result = run(RULES[name], one.expand(n, 17).contiguous())
            assert float((result.delta - one).abs().max()) <= 1e-6 * float(one.abs().max())
            assert float(result.influence.sum()) == pytest.approx(1, abs=1e-12)
            if name != "entanglement, random":  # the original's flaw, kept as it was
                assert float((result.influence - 1 / n).abs().max()) < 1e-12
            assert not result.filtered.any()


@pytest.mark.parametrize("name", LINEAR)
def test_weights_sum_to_one(name: str) -> None:
    """So a part common to all clients is kept: Sum w_i (x_i + s) = Sum w_i x_i + s."""
    rule = LINEAR[name]
    for n in (1, 2, 3, 10, 50):
        for seed in range(5):
            updates = draw(n, seed=seed)
            updates[0] *= 10.0 ** (seed % 3)  # some are too long
            alike = updates.clone()
            alike[:, -1] = 1.0
            assert float(run(rule, alike).delta[-1]) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("name", ["entanglement", "entanglement by rows", "voting on updates"])
def test_an_exact_opposite_counts_for_nothing(name: str) -> None:
    for n in (3, 5, 10, 40):
        for where in (0, n // 2, n - 1):
            updates = draw(1).expand(n, 40).clone()
            updates[where] *= -1
            result = run(RULES[name], updates)
            assert result.influence[where] == 0
            assert result.filtered.tolist() == [row == where for row in range(n)]
            torch.testing.assert_close(result.delta, -updates[where])
        noisy = draw(n, seed=n, shared=2.0)
        noisy[n // 2] = -noisy.mean(dim=0)
        assert run(RULES[name], noisy).influence[n // 2] == 0


@pytest.mark.parametrize("name", ["entanglement", "voting on updates"])
def test_a_minority_of_opponents_counts_for_nothing(name: str) -> None:
    for n, f in ((3, 1), (10, 3), (10, 4), (25, 12)):
        updates = draw(n, d=200, seed=f, shared=2.0)
        updates[:f] *= -1
        result = run(RULES[name], updates)
        assert result.filtered.tolist() == [row < f for row in range(n)]
        assert float(result.influence[:f].sum()) == 0


def test_colluders_gain_nothing_by_sending_the_same_update() -> None:
    honest = draw(7, d=300, shared=0.5)
    copied = draw(1, d=300, seed=8).expand(3, 300)
    updates = torch.cat([honest, copied])
    assert float(run(Entanglement(), updates).influence[7:].sum()) < 0.3
    assert float(run(Voting(votes="updates"), updates).influence[7:].sum()) < 0.31
    similar = updates @ updates.T / updates.norm(dim=1)[:, None] / updates.norm(dim=1)
    uncapped = torch.linalg.eigh(similar).eigenvectors[:, -1].abs()
    assert float(uncapped[7:].sum() / uncapped.sum()) > 0.5


@pytest.mark.parametrize("name", RULES)
def test_zero_updates(name: str) -> None:
    nothing = run(RULES[name], torch.zeros(4, 6))
    assert not nothing.delta.any()
    assert nothing.influence.tolist() == pytest.approx([0.25] * 4, abs=0.02)
    some = draw(9, shared=2.0)
    some[4] = 0
    result = run(RULES[name], some)
    assert bool(result.delta.isfinite().all())
    if name in ("entanglement", "entanglement by rows", "voting on updates"):
        assert result.influence[4] == 0


@pytest.mark.parametrize("name", RULES)
def test_two_opposites_cancel(name: str) -> None:
    one = draw(1)[0]
    result = run(RULES[name], torch.stack([one, -one]))
    if "random" not in name:
        assert float(result.delta.abs().max()) < 1e-12
        assert result.influence.tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("name", RULES)
def test_length_buys_no_influence(name: str) -> None:
    if "unbounded" in name:
        return
    updates = draw(11)
    bound = 4 * float(updates.norm(dim=1).max())
    for far in (10.0, 1e6, 1e12):
        for rows in ([3], [0, 3, 5, 6, 9]):
            moved = updates.clone()
            moved[rows] = far * updates.mean(dim=0)
            assert float(run(RULES[name], moved).delta.norm()) < bound


def test_unbounded_rules_have_breakdown_zero() -> None:
    for rule in (Superposition, Entanglement):
        assert rule().breakdown(10) == 4
        assert rule(longest=0).breakdown(10) == 0
    assert Voting().breakdown(9) == 4
    assert Voting(longest=0).breakdown(9) == 4
    assert Voting(votes="updates", longest=0).breakdown(9) == 0
    assert Adaptive().breakdown(9) == 4
    assert Adaptive(superposition=Superposition(longest=0)).breakdown(9) == 0


class TestSuperposition:
    def test_is_its_formula(self) -> None:
        updates = draw(8, seed=3)
        rows = list(updates.numpy())
        centre = sum(rows) / 8
        for _ in range(3000):  # the geometric median
            pull = [1 / math.sqrt(float((x - centre) @ (x - centre))) for x in rows]
            centre = sum(p * x for p, x in zip(pull, rows, strict=True)) / sum(pull)
        for temperature in (0.05, 0.25, 2.0):
            raw = [math.exp(cosine(x, centre) / temperature) for x in rows]
            amplitudes = [math.sqrt(value / sum(raw)) for value in raw]
            expected = sum(a * a * x for a, x in zip(amplitudes, rows, strict=True))
            found = run(Superposition(temperature, longest=0), updates)
            np.testing.assert_allclose(found.delta, expected, atol=1e-7)
            np.testing.assert_allclose(found.influence, np.square(amplitudes), atol=1e-7)

    def test_temperature_from_one_client_to_the_mean(self) -> None:
        updates = draw(8)
        assert float(run(Superposition(1e-4), updates).influence.max()) > 0.99
        torch.testing.assert_close(
            run(Superposition(1e6), updates).delta, updates.mean(dim=0), rtol=0, atol=1e-5
        )


class TestEntanglement:
    def test_random_coupling_is_the_original(self) -> None:
        updates = draw(6, seed=4)
        rows = list(updates.numpy())
        for seed, strength in ((0, 0.1), (5, 0.1), (5, 0.7)):
            drawn = Seeds(seed).numpy("entanglement", 6).standard_normal((6, 6))
            coupling = np.zeros((6, 6))
            for i in range(6):
                for j in range(6):
                    coupling[i, j] = (drawn[i, j] + drawn[j, i]) / 2 * strength if i != j else 1
            diagonal = [
                sum(cosine(rows[i], rows[j]) * coupling[j, i] for j in range(6)) for i in range(6)
            ]
            weights = np.exp(diagonal) / np.exp(diagonal).sum()
            expected = sum(w * x for w, x in zip(weights, rows, strict=True))
            rule = Entanglement(coupling="random", strength=strength)
            found = run(rule, updates, replace(Cohort.of(6), seed=seed))
            np.testing.assert_allclose(found.delta, expected, rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(found.influence, weights, rtol=1e-9)

    def test_random_coupling_belongs_to_the_clients_not_to_the_rows(self) -> None:
        updates, rule = draw(5), Entanglement(coupling="random")
        ids = (10, 11, 12, 13, 2**64 - 1)  # Flower draws node ids from all 64 bits
        found = run(rule, updates, Cohort(ids, round=1))
        order = [3, 0, 4, 1, 2]
        turned = run(rule, updates[order], Cohort(tuple(ids[row] for row in order), round=2))
        torch.testing.assert_close(turned.influence, found.influence[order])

    def test_random_coupling_keeps_the_flaws_of_the_original(self) -> None:
        updates = draw(1).expand(10, 40).clone()
        rule = Entanglement(coupling="random")
        assert float(run(rule, updates).influence.std()) > 0.005
        updates[0] *= -1
        assert float(run(rule, updates).influence[0]) > 0.05

    def test_row_means_are_their_formula(self) -> None:
        updates = draw(7, shared=0.3)
        rows = list(updates.numpy())
        pairs = sorted(abs(cosine(rows[i], rows[j])) for i in range(7) for j in range(i))
        typical = pairs[(len(pairs) - 1) // 2]
        claims = [sum(max(0, min(typical, cosine(x, y))) for y in rows if y is not x) for x in rows]
        found = run(Entanglement(by="row-mean"), updates)
        np.testing.assert_allclose(found.influence, np.array(claims) / sum(claims), rtol=1e-9)

    def test_the_eigenvector_is_that_of_the_capped_cosines(self) -> None:
        updates = draw(9, shared=0.5)
        rows = list(updates.numpy())
        similar = np.array([[cosine(x, y) for y in rows] for x in rows])
        off = np.abs(similar[np.triu_indices(9, 1)])
        typical = np.sort(off)[(len(off) - 1) // 2]
        coupling = np.clip(similar, -typical, typical)
        np.fill_diagonal(coupling, 0)
        vector = np.ones(9)
        for _ in range(5000):
            vector = coupling @ vector + 9 * typical * vector  # shifted: the largest, not |largest|
            vector /= np.linalg.norm(vector)
        claims = np.maximum(vector, 0)
        found = run(Entanglement(), updates)
        np.testing.assert_allclose(found.influence, claims / claims.sum(), atol=1e-9)

    def test_two_orthogonal_groups_of_one_size(self) -> None:
        updates = torch.eye(2, dtype=torch.float64)[[0, 1, 0, 1]]
        torch.testing.assert_close(
            run(Entanglement(), updates).influence, torch.full((4,), 0.25, dtype=torch.float64)
        )


class TestVoting:
    def test_is_its_formula(self) -> None:
        updates = draw(7, d=60, shared=0.3).round(decimals=1)
        updates[updates.abs() < 0.4] = 0  # abstentions, and ties
        found = run(Voting(), updates)
        share = [0.0] * 7
        for j in range(60):
            column = updates[:, j].tolist()
            total = sum(np.exp(1j * math.pi / 2 * float(np.sign(value))) for value in column)
            angle = math.atan2(round(total.imag, 9), round(total.real, 9))
            size = sorted(abs(value) for value in column)[3]
            assert float(found.delta[j]) == pytest.approx(angle / (math.pi / 2) * size, abs=1e-9)
            with_it = [i for i in range(7) if angle == 0 or column[i] * angle > 0]
            for i in with_it:
                share[i] += 1 / len(with_it) / 60
        np.testing.assert_allclose(found.influence, share, atol=1e-9)

    def test_the_majority_wins_whole(self) -> None:
        updates = draw(1).expand(10, 40).clone()
        updates[:4] *= -1
        result = run(Voting(), updates)
        torch.testing.assert_close(result.delta, updates[9])
        assert float(result.influence[:4].sum()) < 1e-12

    def test_even_votes_of_opposite_signs_are_a_tie(self) -> None:
        updates = torch.tensor([[1.0], [2.0], [-3.0], [-4.0]])
        result = run(Voting(), updates)
        assert float(result.delta) == 0
        assert result.influence.tolist() == [0.25] * 4

    def test_votes_on_updates_are_their_formula(self) -> None:
        updates = draw(9, shared=0.2)
        rows = list(updates.numpy())
        won = [sum(np.sign(float(x @ y)) for y in rows) > 0 for x in rows]
        assert 0 < sum(won) < 9
        found = run(Voting(votes="updates"), updates)
        assert found.filtered.tolist() == [not each for each in won]
        np.testing.assert_allclose(found.influence, np.array(won) / sum(won), atol=1e-12)


class TestAdaptive:
    def test_the_entropy_chooses(self) -> None:
        alike = draw(10, shared=20.0)
        middling = draw(10, d=400, shared=1.7)
        apart = draw(10, d=400, shared=0.0)
        for updates, name, rule in (
            (alike, "voting", Voting(votes="updates")),
            (middling, "superposition", Superposition()),
            (apart, "entanglement", Entanglement()),
        ):
            found = run(Adaptive(), updates)
            assert found.diagnostics["adaptive-choice"] == name
            assert 0 <= found.diagnostics["adaptive-entropy"] <= 1
            assert torch.equal(found.delta, run(rule, updates).delta)

    def test_the_thresholds_are_parameters(self) -> None:
        updates = draw(10, shared=1.0)
        uncertainty = run(Adaptive(), updates).diagnostics["adaptive-entropy"]
        for high, low, name in (
            (uncertainty - 0.01, 0.0, "entanglement"),
            (uncertainty + 0.01, uncertainty - 0.01, "superposition"),
            (1.0, uncertainty + 0.01, "voting"),
        ):
            found = run(Adaptive(high, low), updates)
            assert found.diagnostics["adaptive-choice"] == name

    def test_voting_on_coordinates(self) -> None:
        updates = draw(10, shared=20.0)
        found = run(Adaptive(voting=Voting()), updates)
        assert torch.equal(found.delta, run(Voting(), updates).delta)

    def test_no_client_chooses_by_its_length(self) -> None:
        updates = draw(10, shared=0.0, d=400)
        before = run(Adaptive(), updates).diagnostics["adaptive-entropy"]
        updates[3] *= 1e9
        assert run(Adaptive(), updates).diagnostics["adaptive-entropy"] == pytest.approx(before)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Superposition(temperature=0), "temperature > 0, found 0"),
        (lambda: Superposition(longest=-1), "longest >= 0, found -1"),
        (lambda: Entanglement(strength=-0.1), "strength >= 0, found -0.1"),
        (lambda: Entanglement(by="column"), "by among eigenvector, row-mean: 'column'"),
        (lambda: Entanglement(coupling="none"), "coupling among measured, random: 'none'"),
        (lambda: Voting(votes="signs"), "votes among coordinates, updates: 'signs'"),
        (lambda: Adaptive(high=0.1), "0 <= low <= high <= 1, found low=0.2, high=0.1"),
        (lambda: Superposition(temperature=math.nan), "temperature > 0, found nan"),
    ],
)
def test_impossible_parameters(make: object, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        make()  # type: ignore[operator]
    assert message in str(error.value)
