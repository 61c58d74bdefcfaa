"""Numbers recorded from byzfl 0.0.11, for the rules that it defines alike.

Its Krum and Multi-Krum sum the n - f - 1 nearest, ours the paper's n - f - 2: its f is our f + 1.
"""

import pytest
import torch

from hqde_fl.rules import (
    ARC,
    MDA,
    NNM,
    Aggregator,
    CenteredClipping,
    Chain,
    Clipping,
    Krum,
    Meamed,
    Mean,
    Median,
    MoNNA,
    MultiKrum,
    TrimmedMean,
    aggregate,
)
from hqde_fl.updates import Updates

UPDATES = [
    [6.683, 3.981, 1.584, 2.434],
    [3.027, 4.408, 4.991, 3.646],
    [0.66, -0.789, -0.963, 0.736],
    [-1.999, 0.462, 1.83, 0.579],
    [-0.117, -1.777, -1.032, 1.531],
    [0.415, 2.32, 1.233, -1.771],
    [0.172, -1.046, -0.372, 1.325],
    [0.283, 2.878, 1.845, -1.45],
    [0.127, -2.539, -1.856, 0.972],
    [1.318, 2.95, 0.842, -2.344],
    [0.054, -1.092, -0.216, 1.021],
]

NINE = [0.1014444444, 0.1518888889, 0.1456666667, 0.0665555556]  # the mean of all but the first two

GOLDEN: list[tuple[Aggregator, list[float]]] = [
    (Mean(), [0.9657272727, 0.8869090909, 0.7169090909, 0.6071818182]),
    (Median(), [0.283, 0.462, 0.842, 0.972]),
    (TrimmedMean(2), [0.4327142857, 0.8118571429, 0.5625714286, 0.6734285714]),
    (Meamed(2), [0.1014444444, 0.1518888889, 0.5278888889, 1.1993333333]),
    (Krum(1), [0.054, -1.092, -0.216, 1.021]),
    (MultiKrum(1, m=9), NINE),
    (Krum(0), [0.66, -0.789, -0.963, 0.736]),
    (MultiKrum(0, m=10), [0.394, 0.5775, 0.6302, 0.4245]),
    (MultiKrum(2, m=8), [-0.050625, -0.197875, 0.058625, 0.367875]),
    (MoNNA(2, trusted=3), NINE),
    (MDA(2), NINE),
    (
        CenteredClipping(tau=1.5, relative=False, iterations=3),
        [0.3603010441, -0.0168863309, 0.1112043193, 0.5485694009],
    ),
    (Chain(NNM(2), Median()), NINE),
    (Chain(ARC(2), Median()), [0.283, 0.462, 0.7104548524, 0.972]),
    (Chain(Clipping(2.0), Median()), [0.172, 0.3288779819, 0.3815365158, 0.5901167833]),
]


@pytest.mark.parametrize(("rule", "expected"), GOLDEN, ids=lambda value: str(value)[:40])
def test_golden(rule: Aggregator, expected: list[float]) -> None:
    updates = Updates(torch.tensor(UPDATES, dtype=torch.float64))
    found = aggregate(rule, updates).delta
    torch.testing.assert_close(
        found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-9
    )
