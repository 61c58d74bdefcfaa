"""Files of weights: what is loaded has the bits that were saved, and damage is one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save_file
from torch import Tensor, nn

from hqde_fl import create_hqde_system
from hqde_fl.errors import DataError
from hqde_fl.protocol.omitted_entries import same_bits
from hqde_fl.protocol.records import from_record, to_record
from hqde_fl.simulations.recording.weights_file import read_weights, weights_to_bytes
from hqde_fl.simulations.system.model_file import load_weights, save_weights

COMPLEX = [complex(1, -2), complex(float("nan"), -0.0)]
STATE: dict[str, Tensor] = {
    "single": torch.tensor([[1.0, float("nan")], [-0.0, float("inf")]]),
    "half": torch.tensor([1.5, -2.0], dtype=torch.float16),
    "brain": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "double": torch.tensor([0.1], dtype=torch.float64),
    "pairs": torch.tensor([COMPLEX, COMPLEX], dtype=torch.complex64),
    "wide": torch.tensor(COMPLEX, dtype=torch.complex128),
    "scalar": torch.tensor(1j, dtype=torch.complex64),
    "none": torch.zeros(0, 3, dtype=torch.complex128),
    "count": torch.tensor(7),
    "mask": torch.tensor([True, False]),
}


def test_every_dtype_comes_back_with_the_same_bits(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(weights_to_bytes(STATE, {"epochs": 3}))
    state, facts = read_weights(file)
    assert facts == {"epochs": 3}
    assert state.keys() == STATE.keys()
    for name, tensor in STATE.items():
        assert same_bits(state[name], tensor), name


def test_entries_that_share_memory_are_stored_apart() -> None:
    tied, column = torch.arange(4.0), torch.randn(3, 2)
    state = {"a": tied, "b": tied, "part": tied[1:], "all": column, "first": column[0]}
    opened = load(weights_to_bytes(state))
    assert all(torch.equal(opened[name], tensor) for name, tensor in state.items())


def test_other_readers_see_pairs_of_reals_and_the_rest_as_it_is() -> None:
    opened = load(weights_to_bytes(STATE))
    assert (opened["wide"].dtype, opened["wide"].shape) == (torch.float64, (2, 2))
    assert (opened["scalar"].dtype, opened["scalar"].tolist()) == (torch.float32, [0, 1])
    assert opened["brain"].dtype == torch.bfloat16


def test_the_same_values_give_the_same_bytes() -> None:
    turned = STATE | {"pairs": STATE["pairs"].T.contiguous().T}
    assert weights_to_bytes(turned) == weights_to_bytes(STATE)
    real = {name: tensor for name, tensor in STATE.items() if not tensor.is_complex()}
    assert b"__metadata__" not in weights_to_bytes(real)


def test_a_system_saves_and_loads_every_dtype(tmp_path: Path) -> None:
    arrays = to_record(STATE)
    save_weights(tmp_path / "file", arrays, 4, 1, (0,))
    loaded, epochs, voters = load_weights(tmp_path / "file", arrays, 1)
    assert (epochs, voters) == (4, (0,))
    for name, tensor in from_record(loaded).items():
        assert same_bits(tensor, STATE[name])


@pytest.mark.parametrize(
    ("metadata", "epochs"),
    [
        (None, 0),
        ({}, 0),
        ({"hqde-fl": '{"epochs": "12", "members": "1"}'}, 12),
        ({"hqde-fl": '{"epochs": 12, "later": [1]}'}, 12),
    ],
)
def test_files_of_other_origin_and_older_ones_load(
    tmp_path: Path, metadata: dict[str, str] | None, epochs: int
) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "file", metadata=metadata)
    assert load_weights(tmp_path / "file", to_record({"w": torch.zeros(2)}), 1)[1] == epochs


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "malformed metadata (JSONDecodeError"),
        ("[1]", "malformed metadata ("),
        ("3", "malformed metadata (AttributeError"),
        ("[" * 100_000, "malformed metadata (RecursionError"),
        (json.dumps({"complex": 3}), "malformed metadata (TypeError: complex needs a list"),
        (json.dumps({"complex": ["no"]}), "malformed metadata (KeyError: 'no'"),
        (json.dumps({"complex": [["w"]]}), "malformed metadata (TypeError"),
        (json.dumps({"complex": ["w"]}), "malformed metadata (RuntimeError"),
        (json.dumps({"complex": ["n", "n"]}), "malformed metadata (RuntimeError"),
        *[
            (json.dumps({"epochs": epochs}), "epochs needs a number >= 0, found ")
            for epochs in (-1, 1.5, "x", "-3", "9" * 5000, None, [3], True)
        ],
    ],
)
def test_malformed_metadata_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    state = {"w": torch.ones(3), "n": torch.ones(2)}
    save_file(state, tmp_path / "file", metadata={"hqde-fl": text})
    with pytest.raises(DataError, match=r"^.* cannot be loaded: ") as caught:
        load_weights(tmp_path / "file", to_record(state), 1)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value).removeprefix(str(tmp_path))) < 200


def test_a_file_that_is_none_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no weights")
    for name in ("text", "absent", "."):
        with pytest.raises(DataError, match="cannot be loaded"):
            read_weights(tmp_path / name)
    with pytest.raises(DataError, match="cannot be written"):
        save_weights("/dev/null/model", to_record({"w": torch.ones(1)}), 0, 1, (0,))


class Tied(nn.Module):
    """A language model whose output layer has the embedding's weights, and complex rotations."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(4, 3)
        self.out = nn.Linear(3, 4, bias=False)
        self.out.weight = self.embedding.weight
        self.register_buffer("turns", torch.polar(torch.ones(3), torch.arange(3.0)))

    def forward(self, x: Any) -> Any:
        return self.out(self.embedding(x) * self.get_buffer("turns").real)


def test_tied_names_of_a_system_load_equal(tmp_path: Path) -> None:
    one, other = (
        create_hqde_system(
            Tied,
            num_workers=2,
            training_config={"members": 2},
            seed=seed,
            engine="inline",
            show_progress=False,
        )
        for seed in (1, 2)
    )
    one.save(tmp_path / "file")
    other.load(tmp_path / "file")
    for saved, loaded in zip(one.state_dicts(), other.state_dicts(), strict=True):
        assert same_bits(loaded["embedding.weight"], loaded["out.weight"])
        assert all(same_bits(saved[name], loaded[name]) for name in saved)
