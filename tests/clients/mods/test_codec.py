"""Tests of ``CodecMod``: packing, replies passed on unpacked, and error feedback."""

import pytest
import torch
from flwr.app import ConfigRecord, Message
from flwr.clientapp import ClientApp

from hqde_fl.clients.faults import Crash, Garbage, NaN, Partial, SignFlip, WrongDtype, WrongShape
from hqde_fl.clients.mods.codec import CodecMod
from hqde_fl.codec import EntropyCoded, ErrorFeedback, Identity, Quantized
from hqde_fl.codec.request import to_json
from hqde_fl.errors import ConfigError
from hqde_fl.protocol.message_size import message_bytes
from hqde_fl.protocol.packed_updates import DELTA, packed_entries
from hqde_fl.protocol.records import from_record, layout_of, to_record
from hqde_fl.protocol.screening import Accepted, Rejected

FEEDBACK = ErrorFeedback(Quantized(2, unbiased=False))


def records(context):
    """Return the client's state as plain values."""
    return {
        name: {
            key: value.data if hasattr(value, "data") else value for key, value in record.items()
        }
        for name, record in context.state.items()
    }


def delta(screened):
    assert isinstance(screened, Accepted), screened
    return screened.delta


def test_a_packed_reply_differs_from_the_plain_one_by_the_codecs_error_alone(train, screened):
    plain = delta(screened(train()))
    assert torch.equal(delta(screened(train(CodecMod(Identity())))), plain)
    packed = screened(train(CodecMod(Quantized(8))))
    assert float((delta(packed) - plain).norm() / plain.norm()) < 0.02
    assert not torch.equal(packed.delta, plain)
    assert int(packed.others["1.num_batches_tracked"]) == 5


def test_what_is_not_trained_and_the_smallest_weights_are_sent_exactly(train):
    record = train(CodecMod(Quantized(4))).content["arrays"]
    statistics = {f"1.{name}" for name in ("num_batches_tracked", "running_mean", "running_var")}
    assert set(record) == {*statistics, DELTA}
    layers = {"weight": 10_000, "bias": 10, "scale": 10, "more": 2}
    layout = layout_of(to_record({name: torch.zeros(size) for name, size in layers.items()}))
    packed = [entry.name for entry in packed_entries(layout)]
    assert packed == ["weight", "scale"]  # without 12 of 10 022; ten more would be too many
    small = layout_of(to_record({"weight": torch.zeros(8), "steps": torch.tensor(3)}))
    assert [entry.name for entry in packed_entries(small)] == ["weight"]


def test_bytes_before_and_after_are_reported(train):
    plain, packed = train(), train(CodecMod(Quantized(4)))
    metrics = packed.content["metrics"]

    def arrays(reply):
        rest = reply.content.copy()
        del rest["metrics"]
        return message_bytes(rest)

    assert metrics["plain-bytes"] == arrays(plain)
    assert metrics["packed-bytes"] == arrays(packed)
    assert metrics["packed-bytes"] < metrics["plain-bytes"] / 2


def test_a_codecs_error_is_sent_with_the_next_update(train, screened, node):
    context, mod = node(), CodecMod(FEEDBACK)
    plain = torch.stack([delta(screened(train(number=n))) for n in range(1, 9)])
    packed = torch.stack(
        [delta(screened(train(mod, number=n, context=context))) for n in range(1, 9)]
    )
    one = float((packed[0] - plain[0]).norm())
    assert one > 0
    assert float((packed.sum(0) - plain.sum(0)).norm()) < 2 * one  # not eight times
    without_feedback = torch.stack([delta(screened(train(mod, number=n))) for n in range(1, 9)])
    assert not torch.equal(packed[1], without_feedback[1])


@pytest.mark.parametrize(
    "fault", [Crash(), WrongShape(), WrongDtype(), NaN(), Garbage(), Partial()]
)
def test_a_reply_that_cannot_be_packed_is_passed_on_and_keeps_the_residual(
    fault, train, screened, node
):
    context, mod = node(), CodecMod(FEEDBACK)
    train(mod, context=context)
    before = records(context)
    assert "hqde.codec.memory" in before
    if isinstance(fault, Crash):
        with pytest.raises(RuntimeError):
            train(mod, fault, number=2, context=context)
    else:
        reply = train(mod, fault, number=2, context=context)
        assert isinstance(screened(reply), Rejected)
        assert DELTA not in reply.content["arrays"]
    assert records(context) == before


def test_faults_act_before_the_codec(train, screened):
    honest = delta(screened(train(CodecMod(Quantized(8, unbiased=False)))))
    flipped = delta(screened(train(CodecMod(Quantized(8, unbiased=False)), SignFlip(scale=4.0))))
    cosine = torch.nn.functional.cosine_similarity(honest, flipped, dim=0)
    assert float(cosine) < -0.99


def test_another_codec_starts_without_a_residual(train, node):
    context = node()
    train(CodecMod(FEEDBACK), context=context)
    other = CodecMod(ErrorFeedback(EntropyCoded(2)))
    fresh = train(other, number=2)
    assert train(other, number=2, context=context).content["arrays"] == fresh.content["arrays"]
    train(CodecMod(Quantized(4)), number=3, context=context)
    assert not context.state


def test_the_server_requests_a_codec_and_the_mods_own_codec_overrides_it(task, ask, node, state):
    def app(mod):
        client = ClientApp(mods=[mod])

        @client.train()
        def train(message, context):
            moved = {
                name: tensor + 1 for name, tensor in from_record(message.content["arrays"]).items()
            }
            content = message.content.copy()
            content["arrays"] = to_record(moved)
            del content["config"]
            return Message(content, reply_to=message)

        return client

    def request(text):
        message = ask(state)
        config = {**message.content["config"], "codec": text}
        message.content["config"] = ConfigRecord(config)
        return message

    def sent(mod, text):
        return len(app(mod)(request(text), node()).content["arrays"][DELTA].data)

    requested = to_json(Quantized(4))
    assert sent(CodecMod(), requested) == sent(CodecMod(Quantized(4)), requested)
    assert sent(CodecMod(Quantized(8)), requested) > sent(CodecMod(), requested)
    assert DELTA not in app(CodecMod())(ask(state), node()).content["arrays"]
    with pytest.raises(ConfigError, match="unknown codec 'quantised': did you mean 'quantized'"):
        sent(CodecMod(), '{"name": "quantised"}')


def test_other_messages_are_passed_on(task, ask, node, state):
    from hqde_fl.clients.app import ensemble_app

    app = ensemble_app(task, mods=[CodecMod(Quantized(4))])
    assert set(app(ask(state, kind="evaluate"), node()).content) == {"metrics"}
    assert set(app(ask({}, kind="query.identity"), node()).content) == {"identity"}


def test_the_same_round_draws_the_same_numbers(train):
    one, other = (train(CodecMod(Quantized(2), seed=5)).content["arrays"] for _ in range(2))
    assert one == other
    assert train(CodecMod(Quantized(2), seed=6)).content["arrays"] != one


def test_the_reply_names_the_models_without_a_residual(train, node):
    context, mod = node(), CodecMod(FEEDBACK)
    assert train(mod, number=3, context=context).content["hqde.feedback"]["none"] == [0]
    assert "hqde.feedback" not in train(mod, number=5, context=context).content
    context.state.clear()
    assert train(mod, number=6, context=context).content["hqde.feedback"]["none"] == [0]
    assert "hqde.feedback" not in train(CodecMod(Quantized(4))).content
