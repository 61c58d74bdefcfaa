"""Roles of entries: found in the model, given by name or pattern, or inferred."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, spectral_norm, weight_norm
from torch.optim.swa_utils import AveragedModel

from hqde_fl.errors import ConfigError, UnknownNameError
from hqde_fl.updates.layout import Layout
from hqde_fl.updates.roles import Roles, inferred_role, roles_of


def letters(model: nn.Module) -> dict[str, str]:
    """Return name -> first letter of its role."""
    return {name: role[0] for name, role in roles_of(model).roles.items()}


class Buffered(nn.Module):
    """A weight and one buffer."""

    def __init__(self, name: str, value: Any, persistent: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer(name, value, persistent=persistent)


class LoRA(nn.Module):
    """A frozen linear layer with a low-rank adapter."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(4, 4).requires_grad_(False)
        self.a = nn.Parameter(torch.zeros(2, 4))
        self.b = nn.Parameter(torch.zeros(4, 2))


class Language(nn.Module):
    """An embedding whose weight is that of the output layer, too."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 3)
        self.out = nn.Linear(3, 7, bias=False)
        self.out.weight = self.embedding.weight


class WithAverage(nn.Module):
    """A network with a moving average of itself."""

    def __init__(self, average: Callable[[nn.Module], nn.Module], name: str) -> None:
        super().__init__()
        self.net = nn.Linear(2, 2)
        self.add_module(name, average(self.net))


def frozen_copy(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module).requires_grad_(False)


# --- what a model shows ---------------------------------------------------------------------------


def test_batch_normalisation_has_statistics_and_a_counter() -> None:
    for affine, shown in ((True, {"weight": "t", "bias": "t"}), (False, {})):
        model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3, affine=affine))
        expected = {"running_mean": "s", "running_var": "s", "num_batches_tracked": "c"} | shown
        found = letters(model)
        assert {name[2:]: role for name, role in found.items() if name[0] == "1"} == expected
        assert (found["0.weight"], found["0.bias"]) == ("t", "t")


def test_parameters_without_gradient_are_frozen() -> None:
    assert letters(LoRA()) == {"a": "t", "b": "t", "base.weight": "f", "base.bias": "f"}
    assert not any(name in roles_of(LoRA()).buffers for name in ("base.weight", "base.bias", "a"))


def test_an_integer_parameter_is_frozen_and_an_integer_buffer_counts() -> None:
    model = Buffered("steps", torch.tensor(3))
    model.quantized = nn.Parameter(torch.zeros(2, dtype=torch.int8), requires_grad=False)
    assert letters(model) == {"weight": "t", "steps": "c", "quantized": "f"}
    assert "quantized" in roles_of(model).buffers  # a counter, should clients change it


def test_two_names_of_one_tensor_are_tied() -> None:
    roles = roles_of(Language())
    assert roles.tied == {"out.weight": "embedding.weight"}
    assert set(roles.roles.values()) == {"trainable"}
    frozen = Language()
    frozen.embedding.weight.requires_grad_(False)
    frozen.more = nn.Linear(1, 1)
    assert letters(frozen)["out.weight"] == "f"
    twice = nn.ModuleList([layer := nn.Linear(2, 2), layer, layer])
    assert roles_of(twice).tied == {
        f"{i}.{n}": f"0.{n}" for i in (1, 2) for n in ("weight", "bias")
    }


def test_a_parameter_that_is_a_buffer_elsewhere_is_trained() -> None:
    model = nn.Module()
    model.view = nn.Module()
    model.weight = nn.Parameter(torch.ones(2))
    model.view.register_buffer("copy", model.weight)
    assert letters(model) == {"weight": "t", "view.copy": "t"}
    assert roles_of(model).tied == {"view.copy": "weight"}


def test_equal_initial_weights_are_not_tied() -> None:
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    state = encoder.state_dict()
    assert torch.equal(state["layers.0.linear1.weight"], state["layers.2.linear1.weight"])
    assert roles_of(encoder).tied == {}
    assert set(letters(encoder).values()) == {"t"}


def test_views_and_empty_tensors_are_not_tied() -> None:
    model = nn.Module()
    model.whole = nn.Parameter(torch.ones(2, 2))
    model.turned = nn.Parameter(model.whole.detach().T)
    model.part = nn.Parameter(model.whole.detach()[0])
    model.none, model.nothing = (nn.Parameter(torch.zeros(0)) for _ in range(2))
    assert roles_of(model).tied == {}


def test_a_buffer_without_a_known_name_is_constant_until_it_changes() -> None:
    for value in (torch.ones(2), torch.ones(2, dtype=torch.complex64)):
        roles = roles_of(Buffered("positions", value))
        assert roles.roles == {"weight": "trainable", "positions": "frozen"}
        assert roles.buffers == {"positions"}
    assert letters(Buffered("mask", torch.tensor([True]))) == {"weight": "t", "mask": "c"}
    assert letters(Buffered("positions", torch.ones(2), persistent=False)) == {"weight": "t"}


@pytest.mark.parametrize(
    ("average", "name"),
    [
        (AveragedModel, "teacher"),
        (AveragedModel, "ema"),
        (frozen_copy, "ema"),
        (frozen_copy, "shadow"),
    ],
)
def test_moving_averages_are_statistics(
    average: Callable[[nn.Module], nn.Module], name: str
) -> None:
    found = letters(WithAverage(average, name))
    own = {n: role for n, role in found.items() if n.startswith(f"{name}.")}
    assert {n: role for n, role in found.items() if n not in own} == {
        "net.weight": "t",
        "net.bias": "t",
    }
    assert own.pop(f"{name}.n_averaged", "c") == "c"
    assert list(own.values()) == ["s", "s"]


def test_an_averaged_model_is_trained_where_it_is_the_model() -> None:
    found = letters(AveragedModel(nn.Linear(2, 2)))
    assert found == {"n_averaged": "c", "module.weight": "t", "module.bias": "t"}


def test_a_frozen_teacher_without_a_known_name_is_frozen() -> None:
    found = letters(WithAverage(frozen_copy, "teacher"))
    assert (found["teacher.weight"], found["net.weight"]) == ("f", "t")


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("wrap", "expected"),
    [
        (weight_norm, {"bias": "t", "weight_g": "t", "weight_v": "t"}),
        (
            parametrizations.weight_norm,
            {
                "bias": "t",
                "parametrizations.weight.original0": "t",
                "parametrizations.weight.original1": "t",
            },
        ),
        (spectral_norm, {"bias": "t", "weight_orig": "t", "weight_u": "s", "weight_v": "s"}),
        (
            parametrizations.spectral_norm,
            {
                "bias": "t",
                "parametrizations.weight.original": "t",
                "parametrizations.weight.0._u": "s",
                "parametrizations.weight.0._v": "s",
            },
        ),
        (
            parametrizations.orthogonal,
            {
                "bias": "t",
                "parametrizations.weight.original": "t",
                "parametrizations.weight.0.base": "f",
            },
        ),
    ],
)
def test_parametrised_weights(wrap: Callable[[nn.Module], nn.Module], expected: Any) -> None:
    assert letters(wrap(nn.Linear(3, 3))) == expected


def test_a_shared_parametrisation_is_tied() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * x

    model, scale = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), Scale()
    for layer in model:
        parametrize.register_parametrization(layer, "weight", scale)
    names = [f"{i}.parametrizations.weight.0.scale" for i in (0, 1)]
    assert roles_of(model).tied == {names[1]: names[0]}


def test_parameters_whose_names_a_hook_changes_are_found() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)

    def rename(module: nn.Module, state: dict[str, Tensor], prefix: str, _: Any) -> None:
        for name in list(state):
            state[f"x.{name}"] = state.pop(name)

    model.register_state_dict_post_hook(rename)
    assert letters(model) == {"x.weight": "t", "x.bias": "f"}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64", "complex64", "complex128"])
def test_every_dtype_of_numbers_can_be_trained(dtype: str) -> None:
    model = nn.Linear(2, 1, dtype=getattr(torch, dtype))
    assert letters(model) == {"weight": "t", "bias": "t"}


# --- what cannot be carried -----------------------------------------------------------------------


class Extra(nn.Linear):
    """A layer with extra state."""

    def __init__(self, extra: Any) -> None:
        super().__init__(2, 2)
        self.extra = extra

    def get_extra_state(self) -> Any:
        return self.extra

    def set_extra_state(self, state: Any) -> None:
        self.extra = state


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            Buffered("scale", torch.ones(2).to(torch.float8_e4m3fn)),
            r"entry 'scale' of the model has dtype torch\.float8_e4m3fn",
        ),
        (Buffered("wide", torch.ones(2, dtype=torch.uint32)), "entry 'wide' .* dtype torch.uint32"),
        (
            nn.Sequential(nn.Linear(2, 2), Extra({"a": 1})),
            r"entry '1\._extra_state' .* \(get_extra_state\)",
        ),
        (Extra(torch.ones(2)), r"entry '_extra_state' of the model is a module's extra state"),
        (Extra(None), "entry '_extra_state'"),
        (nn.Sequential(nn.LazyLinear(3)), r"entry '0\.weight' .* not materialised"),
        (nn.LazyBatchNorm1d(affine=False), "entry 'running_mean' .* not materialised"),
        (Buffered("sparse", torch.eye(2).to_sparse()), "entry 'sparse' .* sparse tensor"),
        (lambda: Buffered("csr", torch.eye(2).to_sparse_csr()), "entry 'csr' .* sparse tensor"),
        (nn.Linear(2, 2, device="meta"), "entry 'weight' .* meta tensor"),
        (
            lambda: Buffered("q", torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)),
            r"entry 'q' .* torch\.qint8",
        ),
        (
            nn.Linear(2, 2).requires_grad_(False),
            r"found 2 entries \(weight float32, bias float32\)",
        ),
        (nn.BatchNorm1d(2, affine=False), "needs a floating-point parameter with requires_grad"),
        (
            nn.ParameterList([nn.Parameter(torch.ones(2, dtype=torch.int32), requires_grad=False)]),
            r"requires_grad, found 1 entries \(0 int32\)",
        ),
        (nn.ParameterList([nn.Parameter(torch.ones(0))]), "needs a floating-point parameter"),
        (nn.ReLU(), "needs a floating-point parameter with requires_grad, found 0 entries"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_an_entry_that_cannot_be_carried_is_named(
    model: nn.Module | Callable[[], nn.Module], message: str
) -> None:
    model = model if isinstance(model, nn.Module) else model()
    with pytest.raises(ConfigError, match=message) as caught:
        roles_of(model)
    assert "\n" not in str(caught.value)


def test_a_lazy_module_can_be_carried_once_it_was_called() -> None:
    model = nn.LazyLinear(3)
    model(torch.ones(1, 2))
    assert letters(model) == {"weight": "t", "bias": "t"}


# --- names, patterns and inference ----------------------------------------------------------------


def test_a_name_goes_before_patterns_and_the_last_pattern_before_others() -> None:
    roles = Roles({"body.out": "trainable", "body.*": "frozen", "*.bias": "statistics"})
    found = {
        name: roles.of(name, "float32")
        for name in ("body.out", "body.in", "body.bias", "head", "head.running_mean")
    }
    assert found == {
        "body.out": "trainable",
        "body.in": "frozen",
        "body.bias": "statistics",
        "head": "trainable",
        "head.running_mean": "statistics",
    }
    assert roles.of("head.steps", "int64") == "counters"


def test_integers_cannot_be_trained() -> None:
    assert Roles({"*": "trainable"}).of("steps", "int64") == "counters"
    assert Roles({"*": "frozen"}).of("steps", "int64") == "frozen"
    with pytest.raises(
        ConfigError, match="'trainable' of 'steps' needs a float dtype, found int64"
    ):
        Roles({"steps": "trainable"}).of("steps", "int64")


ARRAYS = [("a", (2,), "float32"), ("b[0].c", (2,), "float32"), ("d.e", (), "int64")]


@pytest.mark.parametrize(
    "roles",
    [
        Roles({"a": "frozen", "b[0].c": "frozen"}),
        Roles({"d.*": "counters"}),
        Roles({"b[[]0].?": "frozen"}),
        Roles(tied={"b[0].c": "a"}),
    ],
)
def test_known_names_and_patterns_that_fit_are_accepted(roles: Roles) -> None:
    assert len(Layout.of(ARRAYS, roles).entries) == 3


@pytest.mark.parametrize(
    ("roles", "name"),
    [
        (Roles({"aa": "frozen"}), "aa"),
        (Roles({"A": "frozen"}), "A"),
        (Roles({"x.*": "frozen"}), r"x\.\*"),
        (Roles(tied={"b[0].c": "aa"}), "aa"),
        (Roles(tied={"aa": "a"}), "aa"),
        (Roles(tied={"d.*": "a"}), r"d\.\*"),
    ],
)
def test_unknown_names_are_refused(roles: Roles, name: str) -> None:
    with pytest.raises(UnknownNameError, match=f"unknown entry of the model '{name}'"):
        Layout.of(ARRAYS, roles)


def test_a_misspelt_name_gets_the_nearest_one() -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean 'head\.weight'"):
        Roles({"haed.weight": "frozen"}).require_names(["head.weight", "body.weight"])


@pytest.mark.parametrize("tied", [{"a": "a"}, {"a": "b", "b": "c"}])
def test_ties_lead_to_first_names(tied: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"Roles\.tied needs first names as values"):
        Roles(tied=tied)


def test_an_unknown_role_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="unknown role 'trained': did you mean 'trainable'"):
        Roles({"a": "trained"})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("name", "dtype", "role"),
    [
        ("layer.weight", "bfloat16", "trainable"),
        ("phase", "complex64", "trainable"),
        ("bn.running_mean", "float32", "statistics"),
        ("running_var", "float64", "statistics"),
        ("moving_variance", "float32", "statistics"),
        ("my_running_var", "float32", "trainable"),
        ("running_var.scale", "float32", "trainable"),
        ("parametrizations.weight.0._u", "float32", "statistics"),
        ("weight_v", "float32", "trainable"),
        ("ema.layer.weight", "float32", "statistics"),
        ("net_ema.weight", "float32", "statistics"),
        ("schema.weight", "float32", "trainable"),
        ("bn.num_batches_tracked", "int64", "counters"),
        ("mask", "bool", "counters"),
    ],
)
def test_a_role_is_inferred_from_name_and_dtype(name: str, dtype: str, role: str) -> None:
    assert inferred_role(name, dtype) == role


@pytest.mark.parametrize(
    "model", [LoRA(), Language(), nn.BatchNorm1d(2), Buffered("positions", torch.ones(2))]
)
def test_a_layout_of_the_models_roles_has_its_weights_once(model: nn.Module) -> None:
    state = model.state_dict()
    arrays = [(n, tuple(v.shape), str(v.dtype).removeprefix("torch.")) for n, v in state.items()]
    layout = Layout.of(arrays, roles_of(model))
    trained = {p for p in model.parameters() if p.requires_grad}
    assert layout.size == sum(p.numel() for p in trained)
    assert not layout.inferred
    assert {e.name for e in layout.others}.isdisjoint(e.name for e in layout.weights)
