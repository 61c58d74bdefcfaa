"""Contract of faults and noise over kinds of models: they change weights, each tensor once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from hqde_fl.clients.ensemble import EnsembleClient
from hqde_fl.clients.faults import (
    FAULTS,
    Backdoor,
    BackdoorFault,
    FreeRide,
    Gaussian,
    LabelFlip,
    NaN,
    Partial,
    Scaling,
    SignFlip,
    Stale,
    Statistics,
    Straggle,
    WrongDtype,
    WrongShape,
    Zero,
)
from hqde_fl.clients.initial_state import initial_state
from hqde_fl.clients.mods.entanglement_noise import EntanglementNoiseMod
from hqde_fl.clients.task import Task
from hqde_fl.clients.training import Training
from hqde_fl.errors import ConfigError
from hqde_fl.noise import EntanglementNoise
from hqde_fl.protocol.members import MEMBERS, add_member_prefix
from hqde_fl.protocol.message_roles import role_config
from hqde_fl.protocol.records import from_record, layout_of, to_record
from hqde_fl.protocol.screening import Accepted, Rejected, Screening, SentModel, screen
from hqde_fl.seeding import Seeds
from hqde_fl.updates.layout import Layout
from hqde_fl.updates.roles import roles_of

POISONING = [n for n in FAULTS if n == "label-flip" or issubclass(FAULTS[n], BackdoorFault)]
"""Faults whose training is not the honest one, and so its statistics."""


class Normalised(nn.Sequential):
    """Batch normalisation of the inputs and of a hidden layer."""

    def __init__(self):
        super().__init__(
            nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)
        )


class Backbone(nn.Module):
    """A frozen layer and a constant buffer below a layer that is trained."""

    def __init__(self):
        super().__init__()
        self.below = nn.Sequential(nn.Linear(16, 5), nn.BatchNorm1d(5)).requires_grad_(False)
        self.register_buffer("shift", torch.full((5,), 0.3))
        self.above = nn.Linear(5, 3)

    def forward(self, x):
        return self.above(self.below(x.flatten(1)) + self.shift)


class Tied(nn.Module):
    """Two layers with one weight, and one layer under two names."""

    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(16, 16), nn.Linear(16, 16)
        self.other.weight = self.one.weight
        self.norm = self.again = nn.BatchNorm1d(16)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.again(self.other(self.norm(self.one(x.flatten(1))))))


class Wave(nn.Module):
    """Complex weights, one of them without dimensions."""

    def __init__(self):
        super().__init__()
        self.turn = nn.Parameter(torch.tensor(1 + 0.5j))
        self.wave = nn.Parameter(torch.randn(16, 3, dtype=torch.complex64))
        self.register_buffer("phases", torch.polar(torch.ones(3), torch.arange(3.0)))
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x):
        wide = x.flatten(1).to(torch.complex64) @ self.wave * self.phases * self.turn
        return self.norm(wide.real + wide.imag)


class Half(Normalised):
    """A model in half precision."""

    def __init__(self, dtype=torch.bfloat16):
        super().__init__()
        self.to(dtype)

    def forward(self, x):
        return super().forward(x.to(self[2].weight.dtype)).float()


MODELS = {
    "batch-norm": Normalised,
    "frozen": Backbone,
    "tied": Tied,
    "complex": Wave,
    "bfloat16": Half,
}


def images(number, count):
    generator = torch.Generator().manual_seed(number)
    y = torch.arange(18) % 3
    return TensorDataset(torch.randn(18, 1, 4, 4, generator=generator) + y.view(-1, 1, 1, 1), y)


@dataclass
class Client:
    """A client of a model whose server tells it the roles, as one model or as two members."""

    model: type[nn.Module]
    node: object
    members: int = 1
    told: bool = True

    def __post_init__(self):
        self.task = Task(self.model, images, lambda: images(9, 10), loss=functional.cross_entropy)
        self.start = to_record(initial_state(self.task, self.members, Seeds(0)))
        model = self.model()
        self.layout = layout_of(to_record(model.state_dict()), roles_of(model))
        self.names = {
            prefix + entry.name: entry
            for prefix in ([""] if self.members == 1 else ["member-0/", "member-1/"])
            for entry in self.layout.entries
        }

    def message(self, number=1):
        config = ConfigRecord({"server-round": number})
        told = role_config(self.layout) if self.told else {}
        if self.members > 1:
            config[MEMBERS] = list(range(self.members))
            told = {
                name: value
                for member in range(self.members)
                for name, value in add_member_prefix(member, told).items()
            }
        config.update(told)
        return Message(RecordDict({"arrays": self.start, "config": config}), 1, "train")

    def answer(self, *mods, number=1, context=None):
        """Return the reply that the client's mods send in a round, not packed."""
        training = Training(lr=0.1, batch_size=6)
        call = EnsembleClient(self.task, members=self.members, training=training).train
        for mod in mods:
            call = partial(mod, call_next=call)
        return call(self.message(number), context or self.node())

    def reply(self, *mods, **options):
        """Return the arrays in ``answer``."""
        return self.answer(*mods, **options).content["arrays"]


@pytest.fixture
def client(node, ask):
    """Return a function that builds a client of a model; ``ask`` lets messages be built at all."""
    return lambda model, **options: Client(model, node, **options)


def fault_of(name):
    built = {
        "backdoor": Backdoor(scale=3.0),
        "free-ride": FreeRide(noise=0.1),
        "label-flip": LabelFlip(classes=3),
        "straggle": Straggle(seconds=0.0),
        "wrong-dtype": WrongDtype("int64"),
    }
    return built.get(name) or FAULTS.build(name)


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("model", list(MODELS))
@pytest.mark.parametrize("name", [n for n in FAULTS if n not in ("crash", "kill", "garbage")])
def test_every_fault_leaves_all_but_the_weights(client, name, model, members):
    own = client(MODELS[model], members=members)
    honest, sent = own.reply(), own.reply(fault_of(name))
    if name != "partial":
        assert list(sent) == list(honest)
    for full_name, array in sent.items():
        entry = own.names[full_name]
        first = full_name.removesuffix(entry.name) + (entry.tied_to or entry.name)
        assert name == "partial" or array == sent[first]
        if entry.role == "frozen":
            assert array == own.start[full_name]
        elif entry.role in ("statistics", "counters"):
            changed = name == "statistics" and entry.is_variance
            if not changed and name not in POISONING:
                assert array in (honest[full_name], own.start[full_name])
            assert not entry.is_variance or bool((from_record({"v": array})["v"] >= 0).all())
    assert name in ("num-examples", "stale", "straggle") or dict(sent) != dict(honest)


@pytest.mark.parametrize("model", list(MODELS))
def test_roles_that_the_server_does_not_tell_are_inferred_by_name(client, model):
    own = client(MODELS[model], told=False)
    honest, sent = own.reply(), from_record(own.reply(SignFlip()))
    state = from_record(honest)
    start = from_record(own.start)
    for entry in layout_of(honest).entries:
        if entry.role == "trainable":
            flipped = start[entry.name] - (state[entry.name] - start[entry.name])
            torch.testing.assert_close(sent[entry.name], flipped, atol=2e-2, rtol=2e-2)
        else:
            assert torch.equal(sent[entry.name], state[entry.name])


def test_complex_weights_are_scaled_and_zeroed_as_numbers(client):
    own = client(Wave)
    start, honest = from_record(own.start), from_record(own.reply())
    scaled, zero = from_record(own.reply(Scaling(4.0))), from_record(own.reply(Zero()))
    for name in ("turn", "wave"):
        assert scaled[name].dtype == torch.complex64
        torch.testing.assert_close(scaled[name], start[name] + 4 * (honest[name] - start[name]))
        assert torch.equal(zero[name], torch.zeros_like(start[name]))


@pytest.mark.parametrize("fault", [Gaussian(0.5), FreeRide(noise=0.5)])
def test_noise_on_complex_weights_has_the_deviation_in_both_parts(client, fault):
    own = client(Wave)
    noise = from_record(own.reply(fault))["wave"] - from_record(own.start)["wave"]
    for part in (noise.real, noise.imag):
        assert 0.3 < float(part.std()) < 0.7
    both = torch.stack([noise.real.flatten(), noise.imag.flatten()])
    assert abs(float(torch.corrcoef(both)[0, 1])) < 0.5


def test_a_nan_hits_one_part_of_a_complex_weight(client):
    own = client(Wave)
    parts = [
        torch.view_as_real(tensor) if tensor.is_complex() else tensor
        for tensor in from_record(own.reply(NaN())).values()
    ]
    assert sum(int(part.isnan().sum()) for part in parts) == 1
    flat, _ = own.layout.flatten(from_record(own.reply(NaN(0.5))))
    assert int(flat.isnan().sum()) == round(0.5 * own.layout.size)


def test_a_large_scale_overflows_to_infinity_in_float16(client):
    own = client(lambda: Half(torch.float16))
    sent = from_record(own.reply(Scaling(1e38)))
    weights = torch.cat([sent[entry.name].flatten().float() for entry in own.layout.weights])
    assert bool(weights.isinf().any())
    assert not bool(weights.isnan().any())


@pytest.mark.parametrize("factor", [1e6, 1e-6, 0.0])
@pytest.mark.parametrize("model", [Normalised, Tied, Half])
def test_false_statistics_are_the_variances_times_the_factor(client, model, factor):
    own = client(model)
    honest, sent = from_record(own.reply()), from_record(own.reply(Statistics(factor)))
    variances = [name for name in honest if name.endswith("running_var")]
    assert len(variances) == 2
    for name, tensor in honest.items():
        expected = (tensor.double() * factor).to(tensor.dtype) if name in variances else tensor
        assert torch.equal(sent[name], expected)


@pytest.mark.parametrize(
    ("dtype", "factor", "outcome"),
    [
        (torch.float16, 1e6, Rejected),
        (torch.float16, 0.0, Accepted),
        (torch.bfloat16, 1e6, Accepted),
        (torch.float32, 1e6, Accepted),
        (torch.float32, 1e-6, Accepted),
    ],
)
def test_screening_rejects_false_statistics_only_if_they_overflow(client, dtype, factor, outcome):
    own = client(lambda: Half(dtype))
    sent = SentModel(own.layout, *own.layout.flatten(from_record(own.start)))
    screened = screen(own.answer(Statistics(factor)), sent, Screening())
    assert isinstance(screened, outcome)
    if outcome is Accepted:
        honest = screen(own.answer(), sent, Screening())
        assert torch.equal(screened.delta, honest.delta)
        expected = (honest.others["1.running_var"].double() * factor).to(dtype)
        assert torch.equal(screened.others["1.running_var"], expected)


@pytest.mark.parametrize("factor", [-1.0, float("inf"), float("nan")])
def test_an_impossible_factor_is_refused(factor):
    with pytest.raises(ConfigError, match=f"Statistics.factor must be finite and >= 0.* {factor}"):
        Statistics(factor)


def test_what_is_malformed_is_a_weight_where_there_is_one(client):
    own = client(Backbone)
    honest = own.reply()
    shapes = own.reply(WrongShape())
    assert {n for n in honest if shapes[n].shape != honest[n].shape} == {"above.weight"}
    missing = own.reply(Partial())
    assert set(honest) - set(missing) == {"above.bias"}
    dtypes = own.reply(WrongDtype())
    assert {n for n in honest if dtypes[n].dtype != honest[n].dtype} == {
        "above.weight",
        "above.bias",
    }


def test_a_wrong_dtype_of_complex_weights_holds_their_real_parts(client):
    own = client(Wave)
    honest, sent = from_record(own.reply()), from_record(own.reply(WrongDtype("float32")))
    for name in ("turn", "wave"):
        assert torch.equal(sent[name], honest[name].real)


def test_a_stale_client_keeps_no_frozen_entries_and_sends_those_that_it_received(client, node):
    own, context = client(Backbone), node()
    first = own.reply(Stale(2), number=1, context=context)
    kept = [dict(context.state[name]) for name in context.state]
    assert [set(record) for record in kept] == [
        {entry.name for entry in own.layout.entries if entry.role != "frozen"}
    ]
    own.start["below.0.weight"] = to_record({"w": torch.ones(5, 16)})["w"]
    second = own.reply(Stale(2), number=2, context=context)
    assert second["above.weight"] == first["above.weight"]
    assert second["below.0.weight"] == own.start["below.0.weight"]


@pytest.mark.parametrize("model", list(MODELS))
def test_entanglement_noise_is_on_the_weights_once_and_cancels(node, ask, model):
    mod = EntanglementNoiseMod(EntanglementNoise(scale=0.5))
    totals, size = 0.0, 0
    for partition in range(3):
        own = Client(MODELS[model], lambda partition=partition: node(partition))
        honest, sent = own.reply(), own.reply(mod)
        for entry in own.layout.entries:
            if entry.tied_to is not None:
                assert sent[entry.name] == sent[entry.tied_to]
            elif entry.role != "trainable":
                assert sent[entry.name] == honest[entry.name]
        noise = _weights(own.layout, sent) - _weights(own.layout, honest)
        assert 0.2 < float(noise.std()) < 1.0
        totals, size = totals + noise, len(noise)
    assert size == own.layout.size
    assert float(totals.abs().max()) < (0.1 if model == "bfloat16" else 1e-5)


def _weights(layout: Layout, record):
    return layout.flatten(from_record(record))[0].double()


def test_an_unknown_entry_of_a_reply_is_left_as_it_is(client, node):
    own = client(Normalised)
    odd = to_record({"other": torch.ones(2), "2.bias": torch.ones(7)})
    message = own.message()
    answer = Message(RecordDict({"arrays": odd}), reply_to=message)
    for fault in (SignFlip(), Gaussian(), NaN(), Statistics()):
        sent = fault(message, node(), lambda *_, a=answer: a)
        assert dict(sent.content["arrays"]) == dict(odd)
