"""Tests of ``HQDESystem`` with several kinds of models, data sets and settings."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

from hqde_fl import create_hqde_system
from hqde_fl.codec import AdaptiveQuantizer, Identity, TopK
from hqde_fl.errors import ConfigError, DataError, RunError, UnknownNameError
from hqde_fl.prediction import SuperpositionVote
from hqde_fl.privacy import CentralDP, SeededGaussian
from hqde_fl.rules import Median
from hqde_fl.simulations.system.settings import Settings
from hqde_fl.strategies.exploration import ExploringOptimizer

CLASSES = 3


def blobs(examples=120, seed=0):
    """Return 1 x 6 x 6 images of three classes, which differ in the bright columns."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(examples) % CLASSES
    x = 0.3 * torch.randn(examples, 1, 6, 6, generator=generator)
    for label in range(CLASSES):
        x[y == label, :, 2 * label : 2 * label + 2] += 1.5
    return TensorDataset(x, y)


class Network(nn.Module):
    """A CNN with batch normalisation, whose state has running statistics and an integer buffer."""

    def __init__(self, classes, width=8):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten()
        )
        self.out = nn.Linear(36 * width, classes)

    def forward(self, x):
        return self.out(self.layers(x))


class Flat(nn.Module):
    """A linear model, which trains fast."""

    def __init__(self, classes=CLASSES):
        super().__init__()
        self.out = nn.Linear(36, classes)

    def forward(self, x):
        return self.out(x.flatten(1))


def system_of(model=Flat, kwargs=None, workers=2, training=None, **options):
    options = {"engine": "inline", "show_progress": False} | options
    training = {"learning_rate": 0.02} | (training or {})
    return create_hqde_system(model, kwargs, workers, training_config=training, **options)


def same(one, other):
    pairs = zip(one.state_dicts(), other.state_dicts(), strict=True)
    return all(torch.equal(a[name], b[name]) for a, b in pairs for name in a)


def test_a_network_with_batch_norm_learns_and_predicts_with_uncertainty():
    system = system_of(Network, {"classes": CLASSES}, workers=3)
    test = DataLoader(blobs(60, seed=1), 16)
    history = system.train(DataLoader(blobs(), 8), 3, test)
    assert [epoch["epoch"] for epoch in history] == [1, 2, 3]
    assert history[-1]["train-loss"] < history[0]["train-loss"]
    assert history[-1]["validation-accuracy"] > 0.9
    assert all(epoch["kept"] == epoch["asked"] == 3 for epoch in history)
    values = system.evaluate(test)
    assert values["accuracy"] == history[-1]["validation-accuracy"]
    assert values["nll"] == pytest.approx(values["loss"], rel=1e-4)
    assert 0 <= values["ece"] <= 1
    prediction = system.predict_proba(test)
    assert torch.equal(system.predict(test), prediction.label)
    assert prediction.probability.shape == (60, CLASSES)
    assert torch.allclose(prediction.probability.sum(dim=1), torch.ones(60))
    assert ((prediction.entropy >= 0) & (prediction.entropy <= 1)).all()
    assert (prediction.label == blobs(60, seed=1).tensors[1]).double().mean() == values["accuracy"]


def test_further_training_continues_from_the_last_epoch():
    loader = DataLoader(blobs(), 8)
    whole, parts = system_of(), system_of()
    history = whole.train(loader, 3)
    parts.monitor = None
    first = parts.train(loader, 1)
    rest = parts.train(loader, 2)
    losses = [epoch["train-loss"] for epoch in history]
    assert [epoch["epoch"] for epoch in first + rest] == [1, 2, 3]
    assert [epoch["train-loss"] for epoch in first + rest] == losses
    assert same(whole, parts)
    assert not same(whole, system_of(seed=1))
    trained = [(r.round, r.client) for r in whole.monitor.records() if r.kind == "reply"]
    assert sorted(trained) == [(epoch, worker) for epoch in (1, 2, 3) for worker in range(2)]
    assert {"round", "aggregate"} <= whole.monitor.summary()["spans"].keys()


class Tokens(Dataset):
    """A data set of sentences of different lengths, whose class is their repeated token."""

    def __init__(self, examples=90):
        generator = torch.Generator().manual_seed(3)
        self.labels = [index % CLASSES for index in range(examples)]
        lengths = torch.randint(3, 9, (examples,), generator=generator).tolist()
        self.rows = [
            torch.full((length,), 1 + label)
            for length, label in zip(lengths, self.labels, strict=True)
        ]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index], self.labels[index]


def padded(examples):
    rows = nn.utils.rnn.pad_sequence([row for row, _ in examples], batch_first=True)
    return rows, torch.tensor([label for _, label in examples])


def as_mapping(examples):
    rows, labels = padded(examples)
    return {"input_ids": rows, "mask": rows > 0, "labels": labels}


class Lstm(nn.Module):
    """A model of token ids with a padding index, so that padding does not change its outputs."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 8, padding_idx=0)
        self.lstm = nn.LSTM(8, 16, batch_first=True)
        self.out = nn.Linear(16, CLASSES)

    def forward(self, tokens):
        return self.out(self.lstm(self.embedding(tokens))[0].mean(dim=1))


class TakesMapping(Lstm):
    """A model whose forward takes the batch as one mapping and returns a mapping with logits."""

    def forward(self, batch):
        return {"logits": super().forward(batch["input_ids"] * batch["mask"])}


class TakesNames(Lstm):
    """A model whose forward takes the batch's entries as keyword arguments."""

    def forward(self, input_ids, mask=None):
        assert mask is not None
        return super().forward(input_ids)


@pytest.mark.parametrize(
    ("model", "collate"), [(Lstm, padded), (TakesMapping, as_mapping), (TakesNames, as_mapping)]
)
def test_a_recurrent_network_on_token_ids(model, collate):
    loader = DataLoader(Tokens(), 8, collate_fn=collate)
    system = system_of(model, training={"learning_rate": 0.03})
    before = system.evaluate(loader)
    system.train(loader, 3)
    after = system.evaluate(loader)
    assert after["loss"] < before["loss"] * 0.7
    assert after["accuracy"] > 0.9
    assert len(system.predict(loader)) == 90


def test_a_custom_loss_trains_a_regression():
    x = torch.linspace(-1, 1, 80)[:, None]
    loader = DataLoader(TensorDataset(x, 3 * x + 1), 8)
    system = system_of(
        nn.Linear,
        {"in_features": 1, "out_features": 1},
        loss_fn=functional.mse_loss,
        training={"optimizer": "sgd", "learning_rate": 0.2, "members": 2},
    )
    system.train(loader, 5)
    assert system.evaluate(loader)["loss"] < 0.05
    assert system.evaluate(loader).keys() == {"loss"}
    assert torch.allclose(system.predict(loader), 3 * x + 1, atol=0.6)
    with pytest.raises(ConfigError, match="predict_proba needs classifiers"):
        system.predict_proba(loader)


def test_an_autoencoder_needs_no_targets_and_two_inputs_are_two_arguments():
    class TwoInputs(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(8, CLASSES)

        def forward(self, left, right):
            return self.out(torch.cat([left, right], dim=1))

    left, right = torch.rand(20, 4), torch.rand(20, 4)
    labels = torch.arange(20) % CLASSES
    pairs = DataLoader(TensorDataset(left, right, labels), 4)
    assert system_of(TwoInputs).train(pairs, 1)[0]["kept"] == 2
    images = DataLoader(TensorDataset(left), 4)
    coder = system_of(nn.Linear, {"in_features": 4, "out_features": 4}, loss_fn=nn.MSELoss())
    history = coder.train(images, 3)
    assert history[-1]["train-loss"] < history[0]["train-loss"]


def test_several_members_predict_together():
    system = system_of(training={"members": 3, "prediction_aggregation": "entanglement"})
    loader = DataLoader(blobs(), 8)
    system.train(loader, 1)
    values = system.evaluate(loader)
    for name in ("accuracy", "nll", "ece"):
        assert {name, f"member-{name}"} <= values.keys()
    assert values["nll"] < values["member-nll"]
    prediction = system.predict_proba(loader)
    assert prediction.diversity == pytest.approx(values["diversity"], rel=1e-9)
    assert values["diversity"] > 0
    assert (prediction.mutual_information > 0).any()
    assert len(system.state_dicts()) == 3


def test_the_loaders_batch_size_and_collate_are_used_and_every_example_is_read_once():
    seen = []

    def collate(examples):
        seen.append(sorted(int(x) for x, _ in examples))
        return torch.tensor([[float(x)] for x, _ in examples]), torch.tensor(
            [y for _, y in examples]
        )

    data = [(index, index % 2) for index in range(23)]
    training = {"batch_assignment": "whole"}
    system = system_of(nn.Linear, {"in_features": 1, "out_features": 2}, training=training)
    system.train(DataLoader(data, 4, collate_fn=collate), 1)
    seen = seen[1:]  # the first batch is that of the check before the training
    assert sorted(x for batch in seen for x in batch) == list(range(23))
    assert sorted(map(len, seen)) == [3, 4, 4, 4, 4, 4]


def test_saved_weights_can_be_loaded_and_trained_on(tmp_path):
    loader = DataLoader(blobs(), 8)
    stateless = {"aggregation_config": {"server_optimizer": "sgd"}}
    one, other = system_of(**stateless), system_of(**stateless)
    one.train(loader, 1)
    one.save(tmp_path / "model.safetensors")
    other.load(tmp_path / "model.safetensors")
    assert same(one, other)
    assert other.epochs == 1
    assert one.train(loader, 1)[0]["epoch"] == other.train(loader, 1)[0]["epoch"] == 2
    assert same(one, other)


def test_a_file_without_the_systems_weights_is_refused(tmp_path):
    system = system_of()
    with pytest.raises(DataError, match=r"cannot be loaded"):
        system.load(tmp_path / "absent")
    (tmp_path / "text").write_text("not a model")
    with pytest.raises(DataError, match=r"cannot be loaded"):
        system.load(tmp_path / "text")
    system_of(Network, {"classes": CLASSES}).save(tmp_path / "other")
    with pytest.raises(DataError, match=r"holds other models"):
        system.load(tmp_path / "other")
    system_of(Flat, {"classes": 4}).save(tmp_path / "wider")
    with pytest.raises(DataError, match=r"'out\.\w+' is \(4.*expected \(3"):
        system.load(tmp_path / "wider")


def test_the_quantization_config_determines_the_bytes_that_workers_send():
    loader = DataLoader(blobs(), 8)
    sizes = {}
    for name, config in {
        "full": {"name": "identity"},
        "usual": None,
        "fewer": {"base_bits": 4, "min_bits": 2},
        "top": {"name": "top-k", "fraction": 0.05},
    }.items():
        system = system_of(Network, {"classes": CLASSES}, quantization_config=config)
        sizes[name] = system.train(loader, 1)[0]["bytes-up"]
    assert sizes["full"] > 3 * sizes["usual"] > 4 * sizes["fewer"]
    assert sizes["top"] < sizes["fewer"]


def test_settings_are_built_from_configurations():
    settings = Settings.of(
        {"base_bits": 6},
        {"rule": "median", "noise_scale": 0.005, "exploration_factor": 0.2},
        {
            "optimizer": "sgd",
            "momentum": 0.9,
            "members": 2,
            "prediction_aggregation": "superposition",
        },
        seed=5,
    )
    assert settings.codec == AdaptiveQuantizer(base_bits=6)
    assert settings.rule == Median()
    assert isinstance(settings.server_optimizer, ExploringOptimizer)
    assert (settings.server_optimizer.noise.scale, settings.server_optimizer.noise.decay) == (
        0.005,
        0.2,
    )
    assert settings.server_optimizer.seed == 5
    assert (settings.training.lr, settings.training.momentum, settings.members) == (0.05, 0.9, 2)
    assert settings.predictor.vote == SuperpositionVote()
    assert Settings.of(None, None, None) == Settings()
    assert Settings.of(Identity(), {"rule": Median()}, {}).codec == Identity()
    assert Settings.of({"name": "top_k".replace("_", "-"), "fraction": 0.5}, {}, {}).codec == TopK(
        0.5
    )


def test_the_workers_data_are_private_and_the_budget_ends_the_training():
    privacy = {"noise_multiplier": 4.0, "max_epsilon": 3.0, "noise": "seeded-gaussian"}
    system = system_of(aggregation_config={"rule": "mean", "privacy": privacy})
    loader = DataLoader(blobs(24), 12)
    assert len(system.train(loader, 1)) == 1
    assert len(system.train(loader, 2)) == 1  # a third epoch would cost more
    assert system.train(loader, 1) == []
    assert [epoch["train-loss"] for epoch in system.history] == [None, None]
    again = CentralDP(4.0, max_epsilon=3.0, noise=SeededGaussian())
    assert Settings.of(None, {"privacy": privacy}, None).privacy == again


@pytest.mark.parametrize(
    ("quantization", "aggregation", "training", "message"),
    [
        ({"base_bitz": 8}, {}, {}, "unknown key of quantization_config 'base_bitz'.*'base_bits'"),
        ({"base_bits": "8"}, {}, {}, "base_bits.*found '8'"),
        ({"min_bits": 9}, {}, {}, "min_bits <= base_bits"),
        ({}, {"noise": 1}, {}, "unknown key of aggregation_config 'noise'"),
        ({}, {"rule": "medain"}, {}, "unknown rule 'medain'.*'median'"),
        ({}, {"rule": {"name": "nnm", "f": 1}}, {}, "feeds a rule"),
        ({}, {"rule": 3}, {}, "a rule is one, its name or a table, found 3"),
        ({}, {"noise_scale": -1}, {}, "scale >= 0"),
        ({}, {"noise_scale": True}, {}, "must be a number, found True"),
        ({}, {"exploration_factor": 0.1}, {}, "needs noise_scale > 0"),
        ({}, {"privacy": 1.0}, {}, "must be a CentralDP or its parameters, found float"),
        ({}, {"privacy": {"noise_multiplyer": 1.0}}, {}, "did you mean 'noise-multiplier'"),
        ({}, {"privacy": {"noise_multiplier": 1.0}}, {}, "rule must be one of bounded sensitivity"),
        ({}, {}, {"learning_rat": 1}, "unknown key of training_config 'learning_rat'"),
        ({}, {}, {"lr": 1}, "no 'lr'.*'learning_rate'"),
        ({}, {}, {"batch_size": 8}, "the loader says it"),
        ({}, {}, {"learning_rate": "high"}, "must be a number, found 'high'"),
        ({}, {}, {"optimizer": "adamax"}, "unknown optimizer 'adamax'.*'adam'"),
        ({}, {}, {"momentum": 0.5}, "momentum must be 0 with optimizer 'adamw'"),
        ({}, {}, {"threads": "two"}, "threads.*found 'two'"),
        ({}, {}, {"members": 0}, "members.*>= 1, found 0"),
        ({}, {}, {"prediction_aggregation": "mean"}, "unknown vote 'mean'"),
        ({}, {}, {"prediction_aggregation": None}, "a vote is one, its name or a table"),
        ({}, {}, {"optimizer": ["sgd"]}, "optimizer.*found"),
        ({}, {}, {"device": "cuda:99"}, "'cuda:99' cannot be used"),
        ("identity", {}, {}, "quantization_config must be a dictionary, found 'identity'"),
        ({}, "median", {}, "aggregation_config must be a dictionary, found 'median'"),
        ({}, {}, [1], r"training_config must be a dictionary, found \[1\]"),
    ],
)
def test_impossible_configurations_are_refused_before_any_start(
    quantization, aggregation, training, message
):
    with pytest.raises(ConfigError, match=message):
        create_hqde_system(Flat, {}, 2, quantization, aggregation, training, engine="inline")


def test_impossible_arguments_are_refused():
    with pytest.raises(ConfigError, match="num_workers must be a whole number >= 1, found 0"):
        system_of(workers=0)
    for workers in ("4", 2.5, True):
        with pytest.raises(ConfigError, match=f"whole number >= 1, found {workers!r}"):
            system_of(workers=workers)
    for seed in (None, -1, 1.5):
        with pytest.raises(ConfigError, match=f"seed must be a whole number >= 0, found {seed}"):
            system_of(seed=seed)
    with pytest.raises(ConfigError, match="loss_fn needs to be a function, found 'mse'"):
        system_of(loss_fn="mse")
    with pytest.raises(ConfigError, match=r"model_class needs to be a class.*found Flat"):
        system_of(Flat())
    with pytest.raises(ConfigError, match="model_class must return a torch module, found a dict"):
        system_of(dict)
    with pytest.raises(ConfigError, match=r"model_kwargs must be a dictionary, found \[1\]"):
        system_of(kwargs=[1])
    with pytest.raises(DataError, match="cannot be written"):
        system_of().save("/dev/null/model")
    with pytest.raises(DataError, match="at least 1 batch, found 0"):
        system_of().predict([])
    with pytest.raises(UnknownNameError, match="unknown engine 'rai'"):
        system_of(engine="rai")
    with pytest.raises(ConfigError, match="num_workers >= 5, found 2"):
        system_of(aggregation_config={"rule": {"name": "krum", "f": 1}})
    with pytest.raises(ConfigError, match="num_epochs must be a whole number >= 1, found 0"):
        system_of().train(DataLoader(blobs(), 8), 0)


class Stream(IterableDataset):
    def __iter__(self):
        yield from blobs()


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ([blobs()[:8]], "needs a torch DataLoader, found list"),
        (DataLoader(Stream(), 8), "map-style data set.*found Stream"),
        (DataLoader(blobs(), batch_size=None), "needs a loader with a batch_size"),
        (
            DataLoader(blobs(), 8, sampler=WeightedRandomSampler([1.0] * 120, 60)),
            "WeightedRandomSampler would not act",
        ),
        (DataLoader(blobs(1), 8), "at least 1 example for each of 2 workers, found 1"),
    ],
)
def test_a_loader_that_cannot_be_divided_is_refused(loader, message):
    with pytest.raises(ConfigError, match=message):
        system_of().train(loader, 1)


def test_a_subset_of_tensors_is_read_as_those_tensors():
    whole = blobs()
    few = Subset(Subset(whole, range(0, 120, 2)), range(30))
    system = system_of()
    system.train(DataLoader(few, 8), 1)
    other = system_of()
    other.train(DataLoader(TensorDataset(*whole[torch.arange(0, 60, 2)]), 8), 1)
    assert same(system, other)


def test_an_error_of_the_model_is_raised_and_keeps_the_weights():
    class Broken(Flat):
        def forward(self, x):
            if self.training:
                raise ValueError("no such layer")
            return super().forward(x)

    system = system_of(Broken)
    before = system.state_dicts()
    with pytest.raises(ConfigError, match=r"training data: the model \(Broken\).*no such layer"):
        system.train(DataLoader(blobs(), 8), 2)
    after = system.state_dicts()
    assert all(torch.equal(before[0][name], tensor) for name, tensor in after[0].items())
    assert system.epochs == 0


@pytest.mark.parametrize("validated", [False, True])
def test_an_epoch_without_a_kept_update_is_an_error(validated):
    class Endless(Flat):
        def forward(self, x):
            return super().forward(x) * 1e39

    system, loader = system_of(Endless), DataLoader(blobs(), 8)
    with pytest.raises(RunError, match=r"epoch 1: no worker could train.*"):
        system.train(loader, 2, loader if validated else None)


@pytest.mark.parametrize("validated", [False, True])
def test_a_loss_of_many_numbers_is_refused_before_training(validated):
    system, loader = (
        system_of(loss_fn=nn.CrossEntropyLoss(reduction="none")),
        DataLoader(blobs(), 8),
    )
    with pytest.raises(ConfigError, match=r"the loss must return one number.*take the mean"):
        system.train(loader, 1, loader if validated else None)
    assert system.epochs == 0


def test_progress_is_one_line_per_epoch(capsys):
    system = system_of(show_progress=True)
    system.train(DataLoader(blobs(), 8), 2, DataLoader(blobs(30, 1), 8))
    lines = capsys.readouterr().out.strip().splitlines()
    assert [line.split("  ")[0] for line in lines] == ["round 1/2", "round 2/2"]
    assert "accuracy" in lines[0]
