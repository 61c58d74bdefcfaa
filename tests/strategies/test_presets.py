"""Presets have the parts and the defaults that their documentation states."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hqde_fl.codec import EntropyCoded, ErrorFeedback, Identity, Quantized
from hqde_fl.errors import ConfigError
from hqde_fl.privacy import CentralDP
from hqde_fl.rules import (
    Adaptive,
    Aggregator,
    ByzantineFilter,
    Entanglement,
    GeometricMedian,
    Mean,
    Median,
    Robust,
    Superposition,
    Tree,
    TrimmedMean,
)
from hqde_fl.selection import Uniform
from hqde_fl.strategies import presets
from hqde_fl.strategies.hqde import HQDEStrategy
from hqde_fl.strategies.optimizers import SGD, Adam, Yogi
from hqde_fl.strategies.presets import byzantine_filter, packing, quantized, robust
from hqde_fl.strategies.settings import Aggregation, Communication, Participation

FEDAVG = Mean(weighted=True)
RULES: dict[str, tuple[HQDEStrategy, Aggregator]] = {
    "fedavg": (presets.fedavg(), FEDAVG),
    "median": (presets.median(), Median()),
    "trimmed_mean": (presets.trimmed_mean(3), TrimmedMean(3)),
    "geometric_median": (presets.geometric_median(), GeometricMedian()),
    "byzantine_filter": (presets.byzantine_filter(), ByzantineFilter()),
    "byzantine_filter, a fifth": (presets.byzantine_filter(0.2), ByzantineFilter(fraction=0.2)),
    "robust": (presets.robust(), Robust()),
    "hierarchical": (presets.hierarchical(), Tree(FEDAVG, FEDAVG, 4)),
    "hierarchical, own rules": (
        presets.hierarchical(3, Median(), TrimmedMean(1)),
        Tree(Median(), TrimmedMean(1), 3),
    ),
    "quantum_superposition": (presets.quantum_superposition(), Superposition()),
    "quantum_entanglement": (presets.quantum_entanglement(), Entanglement()),
    "adaptive_quantum": (presets.adaptive_quantum(), Adaptive()),
    "quantized": (presets.quantized(), FEDAVG),
    "quantized, own rule": (presets.quantized(8, Median()), Median()),
}


@pytest.mark.parametrize("name", RULES)
def test_a_preset_has_the_rule_with_the_rules_own_defaults(name: str) -> None:
    strategy, rule = RULES[name]
    assert strategy.settings.aggregation == Aggregation(rule)
    assert strategy.settings.aggregation.server_optimizer == SGD()


def test_presets_with_a_server_optimiser() -> None:
    for preset, optimizer in (
        (presets.fedadam(), Adam(lr=0.01)),
        (presets.fedyogi(), Yogi(lr=0.01)),
        (presets.fedadam(0.1), Adam(lr=0.1)),
    ):
        assert preset.settings.aggregation == Aggregation(FEDAVG, optimizer)


def test_a_preset_passes_other_options_on() -> None:
    assert presets.median(quorum=7).settings.aggregation == Aggregation(Median(), quorum=7)


def test_the_codec_for_a_number_of_bits() -> None:
    codec = presets.quantized().settings.communication.codec
    assert codec == ErrorFeedback(Quantized(4, unbiased=False))
    assert presets.packing(32) == Identity()
    for bits in (4, 8, 16):
        assert presets.packing(bits) == ErrorFeedback(Quantized(bits, unbiased=False))
    for rate in (0.1, 1, 3.99):
        assert presets.packing(rate) == ErrorFeedback(EntropyCoded(rate))
    for wrong in (0, -1, 4.5, 17, 31, 33):
        with pytest.raises(ConfigError, match="bits must be in"):
            presets.packing(wrong)


def test_presets_are_compositions() -> None:
    strategy = byzantine_filter(fraction=0.2, quorum=3)
    assert strategy.settings.aggregation == Aggregation(ByzantineFilter(fraction=0.2), quorum=3)
    assert robust(quorum=4).settings.aggregation == Aggregation(Robust(), quorum=4)
    assert presets.fedadam(quorum=4).settings.aggregation == Aggregation(
        server_optimizer=Adam(), quorum=4
    )
    packed = byzantine_filter(communication=Communication(packing(2), deadline=9.0)).settings
    assert quantized(2, ByzantineFilter(), communication=Communication(deadline=9.0)).settings == (
        packed
    )
    for bits, codec in (
        (4, ErrorFeedback(Quantized(4, unbiased=False))),
        (2, ErrorFeedback(EntropyCoded(2))),
        (32, Identity()),
    ):
        assert quantized(bits).settings.communication.codec == codec
    with pytest.raises(ConfigError, match=r"bits must be .* found 4\.5"):
        quantized(4.5)


@pytest.mark.parametrize(
    "preset", [presets.fedavg, presets.fedadam, presets.fedyogi, presets.quantized]
)
def test_means_are_equal_ones_with_differential_privacy(
    preset: Callable[..., HQDEStrategy],
) -> None:
    privacy, everyone = CentralDP(noise_multiplier=1.0), Participation(Uniform(), 0.0, 10)
    settings = preset(privacy=privacy, participation=everyone).settings
    assert settings.aggregation.rule == Mean()
    assert settings.aggregation.privacy == privacy


def test_a_tree_of_means_can_be_private_and_edges_and_robust_rules_cannot() -> None:
    options = {
        "privacy": CentralDP(noise_multiplier=1.0),
        "participation": Participation(Uniform(), 0.0, 10),
    }
    assert isinstance(presets.hierarchical(**options), HQDEStrategy)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="edges have no differential privacy"):
        presets.hierarchical(groups=2, **options)  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match="rule must be one of bounded sensitivity"):
        presets.median(**options)  # type: ignore[arg-type]
