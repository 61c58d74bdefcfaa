"""The laws that every aggregation rule obeys, over nasty inputs.

A rule that is added to ``RULES`` is covered as soon as ``rule_examples`` says how to make one.
"""

import io
import pickle
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hqde_fl.errors import BoundError
from hqde_fl.rules import (
    RULES,
    Aggregate,
    Aggregator,
    Cohort,
    Executor,
    SerialExecutor,
    ThreadedExecutor,
    TorchDevice,
    aggregate,
)
from hqde_fl.updates import Updates
from tests.contracts.rule_examples import ALL, EXAMPLES, context_of

N, D, F = 12, 37, 2


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def draw(n: int = N, d: int = D, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    honest = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return (honest + torch.linspace(-1, 1, d, dtype=torch.float64)).to(dtype)


def run(rule: Aggregator, updates: Tensor, **more: object) -> Aggregate:
    cohort: Cohort = more.pop("cohort", Cohort.of(len(updates)))  # type: ignore[assignment]
    cohort = replace(cohort, context=context_of(rule, updates))
    return aggregate(rule, Updates(updates), cohort, **more)  # type: ignore[arg-type]


def check(result: Aggregate, updates: Tensor) -> None:
    """Check the properties of every aggregate."""
    n, d = updates.shape
    assert result.delta.shape == (d,)
    assert result.influence.shape == (n,)
    assert result.filtered.shape == (n,)
    assert result.influence.dtype == torch.float64
    assert result.filtered.dtype == torch.bool
    assert bool(result.delta.isfinite().all())
    assert bool((result.influence >= 0).all())
    assert float(result.influence.sum()) == pytest.approx(1)
    assert not bool(result.filtered.all())


def same(left: Tensor, right: Tensor, scale: Tensor, tolerance: float = 1e-5) -> None:
    size = float(scale.double().abs().max())
    assert float((left.double() - right.double()).abs().max()) <= tolerance * size


def test_every_rule_has_an_example() -> None:
    assert set(EXAMPLES) == set(RULES)


@pytest.mark.parametrize("name", ALL)
class TestEveryRule:
    def test_shape_and_dtype(self, name: str) -> None:
        rule = ALL[name].make(F)
        for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            updates = draw(dtype=dtype)
            result = run(rule, updates)
            check(result, updates)
            wide = torch.float64 if dtype == torch.float64 else torch.float32
            assert result.delta.dtype == wide
            cohort = replace(Cohort.of(N), context=context_of(rule, updates))
            buffers = aggregate(rule, Updates([row.clone() for row in updates]), cohort)
            assert torch.equal(buffers.delta, result.delta)

    def test_one_column(self, name: str) -> None:
        updates = draw(d=1)
        check(run(ALL[name].make(F), updates), updates)

    def test_the_order_of_the_rows_does_not_matter(self, name: str) -> None:
        rule, updates = ALL[name].make(F), draw(dtype=torch.float64)
        ids = tuple(range(N))
        whole = run(rule, updates, cohort=Cohort(ids))
        for seed in range(3):
            order = torch.randperm(N, generator=torch.Generator().manual_seed(seed))
            shuffled = Cohort(tuple(order.tolist()))
            part = run(rule, updates[order], cohort=shuffled)
            same(part.delta, whole.delta, updates, 1e-9)
            torch.testing.assert_close(part.influence, whole.influence[order], rtol=0, atol=1e-7)
            assert torch.equal(part.filtered, whole.filtered[order])

    def test_translation(self, name: str) -> None:
        if not ALL[name].translates:
            return
        rule, updates = ALL[name].make(F), draw(dtype=torch.float64)
        shift = 100 * draw(n=1, dtype=torch.float64, seed=5)[0]
        moved = run(rule, updates + shift).delta
        same(moved - shift, run(rule, updates).delta, shift, 1e-9)

    @pytest.mark.parametrize("factor", [2.0**-90, 2.0**-20, 2.0**50])
    def test_scale(self, name: str, factor: float) -> None:
        if not ALL[name].scales:
            return
        rule, updates = ALL[name].make(F), draw()
        scaled = run(rule, updates * factor)
        same(scaled.delta, run(rule, updates).delta * factor, updates * factor, 1e-6)

    def test_nothing_is_mutated_and_nothing_is_random(self, name: str) -> None:
        rule, updates = ALL[name].make(F), draw(dtype=torch.float64)
        copy = updates.clone()
        first = run(rule, updates)
        assert torch.equal(updates, copy)
        again = run(rule, updates)
        assert torch.equal(first.delta, again.delta)
        assert torch.equal(first.influence, again.influence)

    def test_one_row_or_one_column_in_memory_is_not_mutated(self, name: str) -> None:
        rule = ALL[name].make(0)
        for updates in (draw(n=1, d=5), draw(d=1)):
            if updates.shape[0] >= rule.minimum() and (updates.shape[0] > 4 or name != "monna"):
                copy = updates.clone()
                run(rule, updates)
                assert torch.equal(updates, copy)

    def test_pickles(self, name: str) -> None:
        rule = ALL[name].make(F)
        assert pickle.loads(pickle.dumps(rule)) == rule
        assert hash(rule) == hash(ALL[name].make(F))
        assert "object at" not in repr(rule)

    def test_state_goes_through_a_file(self, name: str) -> None:
        rule = ALL[name].make(F)
        state = None
        for turn in range(3):
            updates = draw(seed=turn)
            cohort = replace(Cohort.of(N), round=turn)
            result = run(rule, updates, cohort=cohort, state=state)
            if state is not None:
                file = io.BytesIO()
                torch.save(state, file)
                file.seek(0)
                again = run(rule, updates, cohort=cohort, state=torch.load(file, weights_only=True))
                assert torch.equal(again.delta, result.delta)
            state = result.state

    @pytest.mark.parametrize(
        "executor",
        [
            SerialExecutor(tile_bytes=1),
            ThreadedExecutor(threads=3, tile_bytes=1),
            TorchDevice("cpu", tile_bytes=1),
            TorchDevice("cpu"),
        ],
        ids=str,
    )
    def test_executors_agree(self, name: str, executor: Executor) -> None:
        rule, updates = ALL[name].make(F), draw(d=2900)
        here = run(rule, updates, executor=SerialExecutor())
        there = run(rule, updates, executor=executor)
        same(there.delta, here.delta, updates, 1e-6)
        torch.testing.assert_close(there.influence, here.influence, rtol=1e-6, atol=1e-9)
        assert torch.equal(there.filtered, here.filtered)

    def test_threads_give_the_same_bits(self, name: str) -> None:
        rule, updates = ALL[name].make(F), draw(d=5000)
        one = run(rule, updates, executor=SerialExecutor(tile_bytes=1))
        many = run(rule, updates, executor=ThreadedExecutor(threads=4, tile_bytes=1))
        assert torch.equal(one.delta, many.delta)
        assert torch.equal(one.influence, many.influence)

    @pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-6, 1e15, 1e30])
    def test_updates_of_any_scale(self, name: str, scale: float) -> None:
        rule, updates = ALL[name].make(F), draw() * scale
        result = run(rule, updates)
        check(result, updates)
        assert float(result.delta.abs().max()) <= 1.001 * float(updates.abs().max())

    @pytest.mark.parametrize("scale", [1e-150, 1e150])
    def test_updates_of_any_scale_in_double_precision(self, name: str, scale: float) -> None:
        rule, updates = ALL[name].make(F), draw(dtype=torch.float64)
        result = run(rule, updates * scale)
        check(result, updates)
        if ALL[name].scales:
            same(result.delta / scale, run(rule, updates).delta, updates, 1e-6)

    @pytest.mark.parametrize("far", [1e3, 1e8, 1e15, 1e30])
    def test_one_distant_update(self, name: str, far: float) -> None:
        rule, updates = ALL[name].make(F), draw()
        updates[3] *= far
        result = run(rule, updates)
        check(result, updates)
        if rule.breakdown(N) >= 1:
            assert float(result.delta.abs().max()) < 10

    def test_as_many_distant_updates_as_it_tolerates(self, name: str) -> None:
        rule = ALL[name].make(F)
        for far in (1e2, 1e6, 1e12):
            for kind in ("same", "apart", "opposite"):
                updates = draw()
                bad = range(5, 5 + rule.breakdown(N))
                for k, row in enumerate(bad):
                    direction = draw(n=1, seed=99 if kind != "apart" else 100 + k)[0]
                    sign = -1 if kind == "opposite" and k % 2 else 1
                    updates[row] = sign * far * direction
                result = run(rule, updates)
                check(result, updates)
                assert float(result.delta.abs().max()) < 25, (far, kind)

    def test_rank_deficient_and_duplicated(self, name: str) -> None:
        rule = ALL[name].make(F)
        line = draw(n=N, d=1) * draw(n=1)
        pairs = draw()[torch.arange(N) // 2]
        alike = draw(n=1).expand(N, D).contiguous()
        for updates in (line, pairs, alike):
            result = run(rule, updates)
            check(result, updates)
        if "clipping" not in name:
            same(result.delta, alike[0], alike)

    def test_at_the_bound_and_below(self, name: str) -> None:
        rule = ALL[name].make(F)
        least = rule.minimum()
        n = max(least, 5) if name == "monna" else least
        updates = draw(n=n)
        check(run(rule, updates), updates)
        if least > 1:
            with pytest.raises(BoundError, match=f"needs at least \\d+ updates, found {least - 1}"):
                run(rule, draw(n=least - 1))

    def test_excluded_clients_lower_the_bound(self, name: str) -> None:
        rule = ALL[name].make(F)
        least = rule.minimum(faulty=F)
        assert least <= rule.minimum()
        n = max(least, 5)
        updates = draw(n=n)
        check(run(rule, updates, cohort=replace(Cohort.of(n), faulty=F)), updates)

    def test_a_thousand_clients(self, name: str) -> None:
        rule, updates = ALL[name].make(20), draw(n=1000, d=20)
        check(run(rule, updates), updates)
