"""The public names of ``hqde_fl``, and the cost of importing it."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import hqde_fl

ROOT = Path(__file__).parent.parent

NAMES = """
    ARC Adam Adaptive AdaptiveClipping AdaptiveQuantizer Aggregate Aggregation Aggregator BoundError
    Bucketing Bulyan ByzantineFilter CAF Callback Candidates CenteredClipping CentralDP Chain
    ClientHistory ClientRecord Clipping Codec CodecError CodecMod Cohort CohortError Communication
    ConfigError DataError DistributedWeightStore DnC DownlinkMod EnsembleClient Ensemble
    EnsemblePredictor Entanglement EntropyCoded ErrorFeedback Experiment GeometricMedian HQDEError
    HQDEStrategy HQDESystem Identity InlineGrid Krum MDA MapReduce Meamed Mean Median MoNNA
    MonitorCallback MultiKrum NNM NoiseSource Participation PerformanceMonitor Poisson QUBO
    Quantized RayGrid Reporting Resources Robust Roles Rotated RoundRecord Rule RunError RunResult
    SGD Screening SecureAggregation SecureAggregationMod SecureGaussian SeededGaussian Seeds
    Selection Selector SignGuard Superposition
    SweepResult Task TopK Training Tree TrimmedMean Uniform UnknownNameError Updates Voting Yogi
    __version__ adaptive_quantum aggregate byzantine_filter create_hqde_system ensemble_app fedadam
    fedavg fedyogi from_record geometric_median hierarchical median packing quantized
    quantum_entanglement quantum_superposition record_training_metric robust roles_of run
    run_experiment span sweep to_record trimmed_mean
    FLAME FLDetector FLTrust FedRDF FoolsGold LASA NormalisedMean RoundContext SMEA
"""
PUBLIC = NAMES.split()


def test_the_exported_names_are_these() -> None:
    assert sorted(hqde_fl.__all__) == sorted(PUBLIC)
    assert dir(hqde_fl) == sorted(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_name_resolves_to_the_object_of_that_name(name: str) -> None:
    value = getattr(hqde_fl, name)
    assert getattr(value, "__name__", name) == name


def test_the_stub_gives_every_name_a_type() -> None:
    stub = ast.parse((ROOT / "hqde_fl" / "__init__.pyi").read_text())
    homes = {
        alias.asname: node.module
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert homes == hqde_fl._HOMES


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'hqde_fl' has no attribute 'Krumm'"):
        _ = hqde_fl.Krumm  # type: ignore[attr-defined]


def test_the_version_is_that_of_the_project() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        assert hqde_fl.__version__ == tomllib.load(file)["project"]["version"]


def test_the_import_alone_loads_nothing_heavy() -> None:
    code = "import hqde_fl, sys; print({'flwr', 'ray', 'torch'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
