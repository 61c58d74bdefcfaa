"""Settings of torch are carried whole, and nothing of a client's outlives it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hqde_fl.simulations.engines.flower.app_writer import write_app
from hqde_fl.simulations.engines.torch_settings import (
    TorchSettings,
    kept_torch_settings,
    without_autocast,
)

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def restored():
    with kept_torch_settings():
        yield


def change_all():
    torch.set_default_dtype(torch.float64)
    torch.set_float32_matmul_precision("medium")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.deterministic = True


def test_every_setting_is_carried():
    before = TorchSettings.current()
    change_all()
    found = TorchSettings.current()
    assert found == TorchSettings("float64", "medium", True, True, True)
    before.adopt()
    assert TorchSettings.current() == before
    found.adopt()
    assert TorchSettings.current() == found


def test_what_a_block_changes_is_restored_even_if_it_fails():
    before = TorchSettings.current()

    def fail():
        with kept_torch_settings():
            change_all()
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        fail()
    assert TorchSettings.current() == before


def test_autocast_around_a_block_is_off_in_it():
    x = torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        with without_autocast():
            assert (x @ x).dtype == torch.float32
        assert (x @ x).dtype == torch.bfloat16


def test_torch_is_not_imported_for_its_defaults():
    code = """
import sys
from hqde_fl.simulations.engines.torch_settings import (
    TorchSettings, kept_torch_settings, without_autocast
)
with kept_torch_settings(), without_autocast():
    TorchSettings.current().adopt()
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.slow
def test_a_generated_flower_app_adopts_them(tmp_path):
    change_all()
    write_app(tmp_path / "app", {"config": "{}"})
    code = """
import sys
import torch
import hqde_fl_run
print(torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled())
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "app",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["torch.float64", "True"]
