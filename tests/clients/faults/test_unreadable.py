"""Tests that the server rejects replies which are not the model, and gives the reason."""

import math

import numpy as np
import pytest
import torch

from hqde_fl.clients.faults import Garbage, Infinity, NumExamples, Partial, WrongDtype
from hqde_fl.errors import ConfigError
from hqde_fl.protocol.screening import Accepted, Rejected


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Garbage(), "not the bytes of an .npy array"),
        (Garbage(size=3), "not the bytes of an .npy array"),
        (Infinity(), "non-finite"),
        (Infinity(fraction=1.0, negative=True), "non-finite"),
        (NumExamples(claim=1e18), "num-examples"),
        (NumExamples(claim=-5.0), "num-examples"),
        (NumExamples(claim=math.nan), "num-examples"),
        (NumExamples(claim=math.inf), "num-examples"),
        (Partial("missing"), "missing array '4.bias'"),
        (Partial("truncated"), "bytes"),
        (WrongDtype(), "wrong dtype 'float64' of '0.weight'"),
        (WrongDtype("float16"), "wrong dtype 'float16'"),
        (WrongDtype("int64"), "wrong dtype 'int64'"),
        (WrongDtype("text"), "wrong dtype '<U"),
    ],
)
def test_the_server_gives_the_reason_of_a_rejection(train, screened, fault, reason):
    outcome = screened(train(fault))
    assert isinstance(outcome, Rejected)
    assert reason in outcome.reason


def test_garbage_has_the_models_names_and_shapes_and_differs_by_round(train):
    honest, first = train().content["arrays"], train(Garbage()).content["arrays"]
    assert list(first) == list(honest)
    for name, array in first.items():
        assert (array.dtype, array.shape) == (honest[name].dtype, honest[name].shape)
        assert len(array.data) == len(honest[name].data)
    assert first != train(Garbage(), number=2).content["arrays"]
    assert {len(array.data) for array in train(Garbage(7)).content["arrays"].values()} == {7}


def test_a_partial_reply_is_the_honest_reply_without_its_end(train):
    honest = train().content["arrays"]
    missing = train(Partial("missing")).content["arrays"]
    assert dict(missing) == {name: honest[name] for name in list(honest)[:-1]}
    truncated = train(Partial("truncated")).content["arrays"]
    assert list(truncated) == list(honest)
    last = list(honest)[-1]
    assert truncated[last].shape == honest[last].shape
    assert honest[last].data.startswith(truncated[last].data)
    assert len(truncated[last].data) == len(honest[last].data) // 2


@pytest.mark.parametrize("dtype", ["float16", "float64", "int64", "text"])
def test_another_dtype_keeps_shapes_values_and_buffers(train, weights, weight_names, dtype):
    honest, sent = weights(train()), train(WrongDtype(dtype)).content["arrays"]
    for name, tensor in honest.items():
        if name not in weight_names:
            assert sent[name] == train().content["arrays"][name]
            continue
        values = sent[name].numpy()
        assert values.shape == tuple(tensor.shape)
        if dtype == "text":
            assert np.array_equal(values.astype(float), tensor.double().numpy())
        else:
            assert np.array_equal(values, tensor.double().numpy().astype(dtype))


def test_a_false_number_of_examples_changes_nothing_else(train, weights, same, screened):
    honest, faulty = train(), train(NumExamples(claim=1000.0))
    assert same(weights(faulty), weights(honest))
    assert type(faulty.content["metrics"]["num-examples"]) is int
    outcome = screened(faulty)
    assert isinstance(outcome, Accepted)
    assert outcome.num_examples == 1000
    assert isinstance(screened(train(NumExamples())), Accepted)


def test_infinity_hits_one_weight_or_a_fraction(train, weights, weight_names):
    for fault, value in ((Infinity(), math.inf), (Infinity(0.5, negative=True), -math.inf)):
        sent = weights(train(fault))
        floats = [sent[name] for name in weight_names]
        hit = sum(int((t == value).sum()) for t in floats)
        assert hit == max(1, round(fault.fraction * sum(t.numel() for t in floats)))
        assert not any(torch.isnan(t).any() for t in floats)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Garbage(size=-1), "Garbage.size must be >= 0, found -1"),
        (lambda: Infinity(fraction=-0.1), r"Infinity.fraction must be in \[0, 1\], found -0.1"),
        (lambda: Partial("half"), "'missing' or 'truncated', found 'half'"),
        (lambda: WrongDtype("complex"), "WrongDtype.dtype must be one of float16, .*'complex'"),
    ],
)
def test_impossible_faults_are_refused(build, message):
    with pytest.raises(ConfigError, match=message):
        build()
