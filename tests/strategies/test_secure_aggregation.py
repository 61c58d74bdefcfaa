"""Secure aggregation on both ends: sums, drop-outs, hostile clients, hostile servers, refusals."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn
from torch.utils.data import TensorDataset

from hqde_fl.clients.app import ensemble_app
from hqde_fl.clients.initial_state import initial_state
from hqde_fl.clients.message_fields import is_training
from hqde_fl.clients.node_folder import NODE_FOLDER, PEERS, PRIVATE_KEY
from hqde_fl.clients.task import Task
from hqde_fl.clients.training import Training
from hqde_fl.codec import Quantized
from hqde_fl.errors import ConfigError, RunError, SecureAggregationError
from hqde_fl.privacy import CentralDP
from hqde_fl.privacy.analytic_gaussian import gaussian_epsilon
from hqde_fl.privacy.secagg import SecureAggregation
from hqde_fl.privacy.secure_sums import bucket as secure_bucket
from hqde_fl.privacy.secure_sums import client as secure_client
from hqde_fl.privacy.secure_sums import keys as secure_keys
from hqde_fl.protocol.members import uncopied_record
from hqde_fl.protocol.records import from_record, plain_array, to_record
from hqde_fl.protocol.reply_matching import with_nodes
from hqde_fl.protocol.secure_messages import (
    KEYS,
    MASKED,
    SECURE,
    SHARES,
    UNMASK,
    query_type,
)
from hqde_fl.protocol.secure_state import KEPT
from hqde_fl.protocol.wrapped_grid import WrappedGrid
from hqde_fl.rules import ByzantineFilter, FoolsGold, Krum, Mean, Median, Robust, TrimmedMean
from hqde_fl.seeding import Seeds
from hqde_fl.selection import Ensemble, Oort, Uniform
from hqde_fl.simulations.deploy.authority import make_node_key
from hqde_fl.simulations.engines.inline import InlineGrid
from hqde_fl.simulations.recording.detection import Detection
from hqde_fl.strategies.callbacks import RoundRecord
from hqde_fl.strategies.hqde import HQDEStrategy
from hqde_fl.strategies.settings import (
    Aggregation,
    Communication,
    Participation,
    Reporting,
)
from hqde_fl.updates.roles import roles_of
from tests.strategies.federation import Recorder

SETTINGS = SecureAggregation(bucket=4, threshold=3, bits=24)
CLIENTS = 8


def model() -> nn.Module:
    """Return a model with weights, statistics, a counter and a frozen entry."""
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    net[2].bias.requires_grad_(False)
    return net


def examples(number: int, count: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(number)
    return TensorDataset(torch.randn(12, 4, generator=generator), torch.arange(12) % 3)


TASK = Task(model=model, partition=examples)
TRAINING = Training(epochs=2, batch_size=4, lr=0.1)

Change = Callable[[Message, Context, Message], Message]
"""(message, context, honest reply) -> reply."""


class Changed(ClientApp):
    """The clients' app, of which a test changes the replies of some clients at one step."""

    def __init__(self, app: ClientApp, step: str, changes: Mapping[int, Change]) -> None:
        super().__init__()
        self.app, self.step, self.changes = app, step, changes
        self.seen: list[Message] = []

    def __call__(self, message: Message, context: Context) -> Message:
        reply = self.app(message, context)
        kind = message.metadata.message_type
        change = self.changes.get(int(context.node_config["partition-id"]))
        at_step = kind == self.step or (is_training(message) and self.step == "train")
        if change is not None and at_step:
            reply = change(message, context, reply)
        self.seen.append(reply)
        return reply


def run(
    rounds: int = 2,
    secure: SecureAggregation | None = SETTINGS,
    *,
    rule: Any = None,
    step: str = "",
    changes: Mapping[int, Change] | None = None,
    members: int = 1,
    clients: int = CLIENTS,
    client_settings: SecureAggregation | None = None,
    buffers: Any = "merge",
    **communication: Any,
) -> tuple[HQDEStrategy, Recorder, Changed, InlineGrid]:
    app = Changed(
        ensemble_app(
            TASK,
            training=TRAINING,
            members=members,
            secure_aggregation=client_settings or secure,
        ),
        step,
        changes or {},
    )
    grid, recorder = InlineGrid(app, clients, {}, seed=1), Recorder()
    strategy = HQDEStrategy(
        Aggregation(rule or Mean(), secure_aggregation=secure, buffers=buffers),
        communication=Communication(**communication),
        participation=Participation(
            fraction_evaluate=0, min_available_nodes=clients, identify=True
        ),
        ensemble=Ensemble(members),
        reporting=Reporting((recorder,)),
        roles=roles_of(model()),
    )
    strategy.start(grid, to_record(initial_state(TASK, members, Seeds(0))), rounds)
    return strategy, recorder, app, grid


def final(strategy: HQDEStrategy) -> dict[str, torch.Tensor]:
    assert strategy.state is not None
    return from_record(strategy.state.arrays())


def dropped(message: Message, context: Context, reply: Message) -> Message:
    return Message(Error(0, "RuntimeError: gone"), reply_to=message)


class TestSums:
    def test_the_mean_is_that_of_plain_updates_up_to_rounding(self):
        """Weights, statistics, counters and frozen entries, after two rounds."""
        secure, plain = final(run()[0]), final(run(secure=None)[0])
        assert secure.keys() == plain.keys()
        for name, value in plain.items():
            torch.testing.assert_close(secure[name], value, atol=2e-5, rtol=0, msg=name)
        assert torch.equal(secure["2.bias"], plain["2.bias"])
        assert torch.equal(secure["1.num_batches_tracked"], plain["1.num_batches_tracked"])

    @pytest.mark.parametrize("gone", [(), (3,), (0, 5)])
    def test_masks_leave_no_trace(self, monkeypatch, gone):
        """With and without masks, whoever drops out, the models are bit-equal."""
        changes = dict.fromkeys(gone, dropped)
        masked = final(run(step="train", changes=changes)[0])
        for module in (secure_client, secure_bucket):
            monkeypatch.setattr(module, "mask", lambda seed, like: like - like)
        plain = final(run(step="train", changes=changes)[0])
        assert all(torch.equal(masked[name], plain[name]) for name in plain)

    def test_fewer_bits(self):
        coarse = final(run(secure=replace(SETTINGS, bits=10, clipping_norm=1.0), rounds=1)[0])
        fine = final(run(rounds=1)[0])
        start = initial_state(TASK, 1, Seeds(0))
        moved = (fine["0.weight"] - start["0.weight"]).norm()
        assert (coarse["0.weight"] - fine["0.weight"]).norm() < 0.05 * moved

    def test_members_of_an_ensemble(self):
        secure, plain = final(run(members=2)[0]), final(run(secure=None, members=2)[0])
        for name, value in plain.items():
            torch.testing.assert_close(secure[name], value, atol=2e-5, rtol=0, msg=name)

    def test_a_packed_downlink(self):
        secure, _, _, _ = run(downlink=Quantized(8))
        plain, _, _, _ = run(secure=None, downlink=Quantized(8))
        for name, value in final(plain).items():
            torch.testing.assert_close(final(secure)[name], value, atol=2e-3, rtol=0, msg=name)

    def test_the_upload_has_as_many_bits_as_the_sum(self):
        secure = replace(SETTINGS, bits=8)
        _, recorder, app, _ = run(secure=secure, rounds=1)
        arrays = [
            reply.content.array_records["arrays"][MASKED]
            for reply in app.seen
            if reply.has_content() and "arrays" in reply.content
        ]
        size = sum(p.numel() for p in model().parameters() if p.requires_grad)
        others = 5 + 5 + 1 + 2  # running mean and variance, the counter, two counts
        assert {len(array.data) for array in arrays} == {8 * others + -(-10 * size // 8)}
        assert recorder.rounds[-1].diagnostics["buckets"] == 2

    def test_an_update_beyond_the_norm_is_clipped_and_counted(self):
        _, recorder, _, _ = run(secure=replace(SETTINGS, clipping_norm=1e-3), rounds=1)
        assert recorder.rounds[-1].diagnostics["clipped"] == 1.0


class TestWhatTheServerSees:
    def test_nothing_but_masked_vectors(self):
        """No reply has metrics, plain arrays or the same bytes twice."""
        _, _, app, _ = run()
        vectors = []
        for reply in app.seen:
            for record in reply.content.array_records.values():
                assert list(record) == [MASKED]
                vectors.append(record[MASKED].data)
            if reply.content.array_records:
                assert dict(reply.content["metrics"]) == {}
        assert len(set(vectors)) == len(vectors) == 2 * CLIENTS

    def test_records_are_those_of_buckets(self):
        _, recorder, _, _ = run(rule=TrimmedMean(f=0))
        record = recorder.rounds[-1]
        by_bucket: dict[int | None, set[tuple[float, bool]]] = {}
        for client in record.clients:
            by_bucket.setdefault(client.bucket, set()).add((client.influence, client.kept))
        assert by_bucket == {0: {(0.125, True)}, 1: {(0.125, True)}}
        assert record.clients_train == {}

    def test_other_buckets_in_each_round(self):
        _, recorder, _, _ = run(rounds=4)
        dealt = {
            tuple(client.bucket for client in record.clients) for record in recorder.rounds[1:]
        }
        assert len(dealt) == 4


STEPS = {
    "keys": query_type(KEYS),
    "shares": query_type(SHARES),
    "train": "train",
    "unmask": query_type(UNMASK),
}


class TestDropOuts:
    @pytest.mark.parametrize("step", STEPS)
    def test_one_client_at_each_step(self, step):
        strategy, recorder, _, _ = run(rounds=1, step=STEPS[step], changes={2: dropped})
        record = recorder.rounds[-1]
        assert not record.void
        assert record.diagnostics["void-buckets"] == 0
        if step == "unmask":  # its update is in the sum
            assert record.kept == CLIENTS
        else:
            assert record.kept == CLIENTS - 1
            assert recorder.client(2).reason == "failed: RuntimeError: gone"
        assert torch.isfinite(final(strategy)["0.weight"]).all()

    @pytest.mark.parametrize("step", STEPS)
    def test_too_few_clients_void_their_bucket(self, step):
        _, whole, _, _ = run(rounds=1)
        first = [c.partition for c in whole.rounds[-1].clients if c.bucket == 0][:2]
        changes = dict.fromkeys(first, dropped)
        _, recorder, _, _ = run(rounds=1, step=STEPS[step], changes=changes)
        record = recorder.rounds[-1]
        assert record.diagnostics["void-buckets"] == 1
        assert record.kept == CLIENTS // 2
        reasons = [c.reason for c in record.clients if c.bucket == 0 and c.partition not in first]
        assert all("its bucket is void: 2 " in reason for reason in reasons)
        assert all("threshold is 3" in reason or "needed are 3" in reason for reason in reasons)

    def test_a_round_without_a_bucket_is_void(self):
        changes = dict.fromkeys(range(CLIENTS - 2), dropped)
        with pytest.raises(RunError, match="no round produced an aggregate"):
            run(rounds=1, step=STEPS["train"], changes=changes)


def with_record(**changes: Any) -> Change:
    def change(message: Message, context: Context, reply: Message) -> Message:
        record = ConfigRecord({**reply.content[SECURE], **changes})
        return Message(RecordDict({SECURE: record}), reply_to=message)

    return change


def with_bytes(data: bytes, stype: str = MASKED) -> Change:
    def change(message: Message, context: Context, reply: Message) -> Message:
        record = uncopied_record({MASKED: plain_array("uint8", (len(data),), stype, data)})
        content = RecordDict({"arrays": record, "metrics": MetricRecord()})
        return Message(content, reply_to=message)

    return change


def plain_update(message: Message, context: Context, reply: Message) -> Message:
    content = RecordDict({"arrays": message.content["arrays"]})
    content["metrics"] = MetricRecord({"num-examples": 3})
    return Message(content, reply_to=message)


def without_content(message: Message, context: Context, reply: Message) -> Message:
    return Message(RecordDict(), reply_to=message)


HOSTILE: dict[str, tuple[str, Change]] = {
    "keys: empty": ("keys", without_content),
    "keys: too short": ("keys", with_record(**{"cipher-keys": [b"x"]})),
    "keys: no bytes": ("keys", with_record(**{"cipher-keys": [1]})),
    "keys: of another": ("keys", with_record(clients=[9])),
    "keys: none": ("keys", with_record(clients=[])),
    "keys: huge": ("keys", with_record(**{"cipher-keys": [bytes(1 << 20)]})),
    "shares: empty": ("shares", without_content),
    "shares: for nobody": ("shares", with_record(receivers=[], shares=[])),
    "shares: for one twice": ("shares", with_record(receivers=[1, 1, 2], shares=[b""] * 3)),
    "shares: for a stranger": ("shares", with_record(receivers=[77], shares=[b""])),
    "shares: no list": ("shares", with_record(receivers=1)),
    "shares: no commitment": ("shares", with_record(commitment="x")),
    "shares: no hashes": (
        "shares",
        with_record(holders=[], **{"seed-hashes": [], "key-hashes": []}),
    ),
    "shares: too few hashes": ("shares", with_record(**{"key-hashes": [b""]})),
    "keys: none of the curve": ("keys", with_record(**{"masking-keys": [bytes(32)]})),
    "masked: in the clear": ("train", plain_update),
    "masked: empty": ("train", with_bytes(b"")),
    "masked: too long": ("train", with_bytes(bytes(10_000))),
    "masked: other type": ("train", with_bytes(b"", "numpy.ndarray")),
    "masked: no record": ("train", without_content),
}


class TestHostileClients:
    @pytest.mark.parametrize("name", HOSTILE)
    def test_who_answers_wrongly_is_rejected_and_the_others_go_on(self, name):
        step, change = HOSTILE[name]
        _, recorder, _, _ = run(rounds=1, step=STEPS[step], changes={2: change})
        assert recorder.rounds[-1].kept == CLIENTS - 1
        reason = recorder.client(2).reason
        assert reason is not None
        assert reason.startswith("rejected: ")

    @pytest.mark.parametrize("key", ["seed-shares", "key-shares", "stayed"])
    def test_wrong_answers_at_the_end_cost_nothing(self, key):
        _, recorder, _, _ = run(
            rounds=1, step=STEPS["unmask"], changes={2: with_record(**{key: [b"x"]})}
        )
        assert recorder.rounds[-1].kept == CLIENTS

    def test_wrong_shares_of_one_client_are_left_out(self):
        def forged(message: Message, context: Context, reply: Message) -> Message:
            record = ConfigRecord(dict(reply.content[SECURE]))
            record["seed-shares"] = [bytes(32)] * len(record["seed-shares"])
            return Message(RecordDict({SECURE: record}), reply_to=message)

        strategy, recorder, _, _ = run(rounds=1, step=STEPS["unmask"], changes={2: forged})
        honest, _, _, _ = run(rounds=1)
        assert recorder.rounds[-1].diagnostics["void-buckets"] == 0
        assert all(torch.equal(final(strategy)[n], v) for n, v in final(honest).items())

    def test_numbers_beyond_the_range_void_the_bucket_or_are_bounded(self):
        """A client that adds whatever it likes moves its bucket's mean by no more than the norm."""

        def shifted(message: Message, context: Context, reply: Message) -> Message:
            data = bytearray(reply.content["arrays"][MASKED].data)
            noise = np.random.default_rng(0).integers(0, 256, len(data) - 8 * 13, dtype=np.uint8)
            changed = np.frombuffer(bytes(data[8 * 13 :]), np.uint8) + noise
            return with_bytes(bytes(data[: 8 * 13]) + changed.tobytes())(message, context, reply)

        secure = SecureAggregation(bucket=4, threshold=3, bits=24, clipping_norm=0.5)
        strategy, recorder, _, _ = run(
            rounds=1, secure=secure, step=STEPS["train"], changes={2: shifted}
        )
        start = initial_state(TASK, 1, Seeds(0))
        moved = sum(
            float((final(strategy)[n] - start[n]).square().sum())
            for n in ("0.weight", "0.bias", "1.weight", "1.bias", "2.weight")
        )
        assert moved**0.5 <= 0.5 + 1e-6
        assert not recorder.rounds[-1].void


class Silent(WrappedGrid):
    """A Grid that loses the replies of some clients to one kind of message."""

    def __init__(self, grid: InlineGrid, kind: str, clients: Collection[int]) -> None:
        super().__init__(grid)
        self.kind, self.clients = kind, clients

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        sent = list(messages)
        for node, reply in with_nodes(sent, self._grid.send_and_receive(sent, timeout=timeout)):
            assert node is not None
            lost = sent[0].metadata.message_type == self.kind
            if not (lost and self._grid.partition_of(node) in self.clients):
                yield reply


class TestWhatAVoidBucketCosts:
    """A void bucket lowers f if a client has lied or failed, and not if it was late."""

    SETTINGS = SecureAggregation(4, 4, bits=24)

    def record(self, step: str, change: Change | None) -> tuple[RoundRecord, str]:
        app = Changed(
            ensemble_app(TASK, training=TRAINING, secure_aggregation=self.SETTINGS),
            STEPS[step],
            {2: change} if change else {},
        )
        grid: Any = InlineGrid(app, 12, {}, seed=1)
        if change is None:
            grid = Silent(grid, STEPS[step], {2})
        recorder = Recorder()
        strategy = HQDEStrategy(
            Aggregation(TrimmedMean(f=1), secure_aggregation=self.SETTINGS),
            participation=Participation(fraction_evaluate=0, min_available_nodes=12, identify=True),
            reporting=Reporting((recorder,)),
        )
        with suppress(RunError):
            strategy.start(grid, start_arrays(), 1)
        return recorder.rounds[-1], str(recorder.client(2).reason)

    @pytest.mark.parametrize("step", STEPS)
    def test_a_client_that_fails_never_stops_a_round(self, step):
        record, reason = self.record(step, dropped)
        assert not record.void
        assert (record.f_used, record.diagnostics["void-buckets"]) == (0, 1)
        assert reason == "failed: RuntimeError: gone"

    def test_nor_does_one_that_reveals_wrong_shares(self):
        def forged(message: Message, context: Context, reply: Message) -> Message:
            record = ConfigRecord(dict(reply.content[SECURE]))
            record["seed-shares"] = [bytes(32)] * len(record["seed-shares"])
            return Message(RecordDict({SECURE: record}), reply_to=message)

        record, _ = self.record("unmask", forged)
        assert (record.void, record.f_used) == (False, 0)

    @pytest.mark.parametrize("step", ["keys", "shares", "unmask"])
    def test_a_late_client_lowers_nothing(self, step):
        record, reason = self.record(step, None)
        assert record.void
        assert reason == "late"
        assert record.note is not None
        assert "TrimmedMean(f=1) needs at least 3 updates, found 2 (3 asked, 1 late)" in record.note


class Server:
    """A server that asks one client whatever a test wants."""

    def __init__(self, settings: SecureAggregation = SETTINGS) -> None:
        self.app = ensemble_app(TASK, training=TRAINING, secure_aggregation=settings)
        InlineGrid(self.app, 1, {}, seed=1)  # makes this process one of a run, as messages need
        config = {"partition-id": 0, "num-partitions": 4}
        self.context = Context(1, 1, config, RecordDict(), {})

    def ask(self, kind: str, record: Mapping[str, Any] | None, arrays: Any = None) -> Message:
        content = RecordDict({"arrays": arrays} if arrays is not None else {})
        content["config"] = ConfigRecord({"server-round": 1})
        if record is not None:
            content[SECURE] = ConfigRecord(dict(record))
        message = Message(content, 1, kind)
        message.metadata.__dict__["_message_id"] = "1"
        return self.app(message, self.context)

    def reason(self, *args: Any) -> str:
        reply = self.ask(*args)
        assert reply.has_error()
        return str(reply.error.reason)


def start_arrays() -> ArrayRecord:
    return to_record(initial_state(TASK, 1, Seeds(0)))


class TestHostileServers:
    """Questions that a client answers only with an error."""

    def test_a_plain_training_message(self):
        assert "without masks" in Server().reason("train", None, start_arrays())

    def test_a_training_message_before_the_keys(self):
        record = {"senders": [], "shares": [], "rotation": 1, "bits": 26}
        assert "keeps no keys" in Server().reason("train", record, start_arrays())

    def test_a_lower_threshold_than_its_own(self):
        server = Server(SecureAggregation(5, 5))
        server.ask(query_type(KEYS), {"session": "s", "number": 1})
        others = [secure_client.SecureClient.new("s", n).public_keys for n in range(2, 6)]
        own = secure_keys.public_key(server.context.state[KEPT]["cipher-key"])
        masking = secure_keys.public_key(server.context.state[KEPT]["masking-key"])
        record = {
            "clients": list(range(1, 6)),
            "cipher-keys": [own, *(k.cipher for k in others)],
            "masking-keys": [masking, *(k.masking for k in others)],
            "signers": [b""] * 5,
            "signatures": [b""] * 5,
            "threshold": 3,
        }
        reason = server.reason(query_type(SHARES), record)
        assert "the server's threshold is 3 among 5 clients, this client's is 5" in reason

    @pytest.mark.parametrize("action", [SHARES, UNMASK])
    def test_a_question_before_the_keys(self, action):
        record = {
            "threshold": 3,
            "stayed": [1],
            "clients": [],
            **{key: [] for key in ("cipher-keys", "masking-keys", "signers", "signatures")},
        }
        assert "keeps no keys" in Server().reason(query_type(action), record)

    @pytest.mark.parametrize("action", [KEYS, SHARES, UNMASK])
    def test_a_question_without_its_record(self, action):
        assert "secure aggregation: " in Server().reason(query_type(action), None)

    def test_other_settings_than_the_clients(self):
        with pytest.raises(RunError, match="the server has 26 bits for a sum over 4"):
            run(rounds=1, client_settings=replace(SETTINGS, bits=22))

    def test_an_app_with_control_variates(self):
        with pytest.raises(ConfigError, match="control variates would leave the client"):
            ensemble_app(
                TASK, training=Training(control_variates=True), secure_aggregation=SETTINGS
            )

    def test_an_app_without_settings(self):
        app = ensemble_app(TASK, training=TRAINING)
        InlineGrid(app, 1, {}, seed=1)
        message = Message(RecordDict(), 1, query_type(KEYS))
        reply = app(message, Context(1, 1, {}, RecordDict(), {}))
        assert "no settings of secure aggregation" in reply.error.reason

    def test_keys_are_forgotten_after_the_round(self):
        _, _, _, grid = run()
        assert all(KEPT not in state for state in grid.contexts(range(CLIENTS)).values())

    def test_an_update_that_is_not_finite_stays_on_the_client(self):
        def with_nan(message: Message, context: Context, call_next: Any) -> Message:
            reply = call_next(message, context)
            if is_training(message):
                state = from_record(reply.content["arrays"])
                state["0.weight"] = torch.full_like(state["0.weight"], float("nan"))
                reply.content["arrays"] = to_record(state)
            return reply

        app = ensemble_app(TASK, training=TRAINING, secure_aggregation=SETTINGS, mods=[with_nan])
        grid = InlineGrid(app, CLIENTS, {}, seed=1)
        recorder = Recorder()
        strategy = HQDEStrategy(
            Aggregation(Mean(), secure_aggregation=SETTINGS),
            participation=Participation(fraction_evaluate=0, min_available_nodes=CLIENTS),
            reporting=Reporting((recorder,)),
        )
        with pytest.raises(RunError, match="not finite"):
            strategy.start(grid, start_arrays(), 1)


class TestSignedKeys:
    """Sites that know each other's keys, and a SuperLink that puts others in their place."""

    def folders(self, path: Path, count: int = CLIENTS) -> dict[int, Path]:
        folders = {}
        for number in range(count):
            folder = path / f"site-{number}"
            folder.mkdir()
            make_node_key(folder / PRIVATE_KEY, folder / "node.pub")
            folders[number] = folder
        keys = b"\n".join((f / "node.pub").read_bytes().strip() for f in folders.values())
        for folder in folders.values():
            (folder / PEERS).write_bytes(keys + b"\n")
        return folders

    def run_with(self, folders: Mapping[int, Path], change: Change | None = None) -> Recorder:
        inner = ensemble_app(TASK, training=TRAINING, secure_aggregation=SETTINGS)
        changed = Changed(inner, STEPS["keys"], {2: change} if change else {})

        class InFolders(ClientApp):
            def __call__(self, message: Message, context: Context) -> Message:
                folder = folders[int(context.node_config["partition-id"])]
                context.node_config[NODE_FOLDER] = str(folder)
                return changed(message, context)

        recorder = Recorder()
        strategy = HQDEStrategy(
            Aggregation(Mean(), secure_aggregation=SETTINGS),
            participation=Participation(
                fraction_evaluate=0, min_available_nodes=CLIENTS, identify=True
            ),
            reporting=Reporting((recorder,)),
        )
        strategy.start(InlineGrid(InFolders(), CLIENTS, {}, seed=1), start_arrays(), 1)
        return recorder

    def test_sites_that_know_each_other(self, tmp_path):
        assert self.run_with(self.folders(tmp_path)).rounds[-1].kept == CLIENTS

    @pytest.mark.parametrize("kind", ["substituted", "unsigned", "replayed", "a stranger's"])
    def test_keys_that_no_site_has_signed_for_this_sum(self, tmp_path, kind):
        folders = self.folders(tmp_path)
        stranger = tmp_path / "stranger"
        stranger.mkdir()
        make_node_key(stranger / PRIVATE_KEY, stranger / "node.pub")

        def forged(message: Message, context: Context, reply: Message) -> Message:
            from hqde_fl.privacy.secure_sums.signatures import SiteIdentity

            record = ConfigRecord(dict(reply.content[SECURE]))
            number = record["clients"][0]
            new = secure_client.SecureClient.new("other session", number)
            session = str(message.content[SECURE]["session"])
            if kind == "unsigned":
                record["signers"], record["signatures"] = [b""], [b""]
            if kind in ("substituted", "a stranger's"):
                record["cipher-keys"] = [new.public_keys.cipher]
            if kind == "a stranger's":
                site = SiteIdentity.of_files(stranger / PRIVATE_KEY, stranger / PEERS)
                keys = replace(new.public_keys, masking=record["masking-keys"][0])
                signed = site.signed(keys, session, number)
                record["signers"], record["signatures"] = [signed.signer], [signed.signature]
            if kind == "replayed":
                site = SiteIdentity.of_files(folders[2] / PRIVATE_KEY, folders[2] / PEERS)
                signed = site.signed(new.public_keys, "round 0", number)
                record["cipher-keys"] = [signed.cipher]
                record["masking-keys"] = [signed.masking]
                record["signatures"] = [signed.signature]
            return Message(RecordDict({SECURE: record}), reply_to=message)

        recorder = self.run_with(folders, forged)
        bucket = recorder.client(2).bucket
        reasons = {
            client.reason or ""
            for client in recorder.rounds[-1].clients
            if client.bucket == bucket and client.partition != 2
        }
        expected = (
            "none of the trusted sites" if kind in ("unsigned", "a stranger's") else "not one"
        )
        assert all(expected in reason or "void" in reason for reason in reasons), reasons
        assert recorder.rounds[-1].kept == CLIENTS // 2


class TestNoise:
    """Noise of the clients, of which each bucket's sum has enough."""

    SETTINGS = SecureAggregation(4, 3, bits=12, clipping_norm=1.0, noise_multiplier=0.5)

    def spread(self, settings: SecureAggregation, clients: int = 40) -> float:
        """Return the deviation of the numbers of a mean of buckets from the one without noise."""
        results = [
            final(run(1, s, clients=clients, buffers="local")[0])
            for s in (settings, replace(settings, noise_multiplier=0.0))
        ]
        names = ("0.weight", "0.bias", "1.weight", "1.bias", "2.weight")
        noise = torch.cat([(results[0][n] - results[1][n]).flatten() for n in names])
        return float(noise.square().mean().sqrt())

    def test_a_sum_has_at_least_the_noise_that_it_needs(self):
        """Deviation of the mean over buckets, where the norm of none is clipped."""
        little = replace(self.SETTINGS, bits=16, noise_multiplier=0.02)
        per_bucket = 0.02 * 2 * 1.0 / 4  # of the mean of four clients
        expected = per_bucket * (4 / 3) ** 0.5 / 10**0.5  # ten buckets; all four stay
        assert self.spread(little) == pytest.approx(expected, rel=0.4)

    def test_epsilon_is_that_of_composed_gaussians(self):
        _, recorder, _, _ = run(3, self.SETTINGS, buffers="local")
        for record in recorder.rounds[1:]:
            mu = record.round**0.5 / self.SETTINGS.noise_multiplier
            assert record.epsilon == pytest.approx(gaussian_epsilon(mu, 1e-5))

    def test_nothing_exact_leaves_a_client(self):
        strategy, recorder, _, _ = run(1, self.SETTINGS, buffers="local")
        assert recorder.rounds[-1].diagnostics["clipped"] == 0.0
        start = initial_state(TASK, 1, Seeds(0))
        for name in ("1.running_mean", "1.running_var", "1.num_batches_tracked"):
            assert torch.equal(final(strategy)[name], start[name])

    def test_too_few_integers_in_a_deviation(self):
        with pytest.raises(SecureAggregationError, match="needs a deviation of 100 integers"):
            run(1, replace(self.SETTINGS, bits=4, noise_multiplier=0.01), buffers="local")

    def test_too_many_bits(self):
        with pytest.raises(SecureAggregationError, match="at most 32: choose fewer bits"):
            run(1, replace(self.SETTINGS, bits=24, noise_multiplier=100.0), buffers="local")

    def test_statistics_would_have_no_noise(self):
        with pytest.raises(ConfigError, match="'local', as merged statistics have no noise"):
            run(1, self.SETTINGS)

    @pytest.mark.parametrize(
        ("other", "text"),
        [
            ({"ensemble": Ensemble(2)}, "needs one model, found 2"),
            ({"participation": Participation(fraction_evaluate=0.5)}, "metrics have no noise"),
        ],
    )
    def test_what_would_leave_without_noise(self, other, text):
        options = {"participation": Participation(fraction_evaluate=0.0), **other}
        with pytest.raises(ConfigError, match=text):
            HQDEStrategy(Aggregation(Mean(), secure_aggregation=self.SETTINGS), **options)


class TestRefusals:
    @pytest.mark.parametrize(
        ("values", "text"),
        [
            ({"bucket": 2}, "bucket must be in 3..64, found 2"),
            ({"bucket": 65}, "bucket must be in 3..64, found 65"),
            ({"bucket": 5, "threshold": 2}, "threshold must be in 3..5"),
            ({"bucket": 8, "threshold": 4}, "threshold must be in 5..8"),
            ({"bucket": 5, "threshold": 6}, "threshold must be in 3..5"),
            ({"bits": 0}, "bits must be in 1..24, found 0"),
            ({"bits": 25}, "bits must be in 1..24, found 25"),
            ({"clipping_norm": 0.0}, "clipping_norm must be finite and > 0"),
            ({"clipping_norm": float("inf")}, "clipping_norm must be finite and > 0"),
            ({"noise_multiplier": -1.0}, "noise_multiplier must be finite and >= 0"),
            ({"delta": 1.0}, "delta must be in"),
            ({"question_deadline": 0.0}, "question_deadline must be in"),
        ],
    )
    def test_settings(self, values, text):
        with pytest.raises(ConfigError, match=text):
            SecureAggregation(**values)

    @pytest.mark.parametrize(
        ("aggregation", "other", "text"),
        [
            ({"rule": Robust()}, {}, "remembers no clients.*Robust with directions=False"),
            ({"rule": ByzantineFilter()}, {}, "remembers no clients.*detectors other than"),
            ({"rule": FoolsGold()}, {}, "remembers no clients"),
            ({"control_variates": True}, {}, "control variates would reach the server"),
            (
                {"privacy": CentralDP(noise_multiplier=1.0)},
                {"participation": Participation(Uniform(), 0.0, 10)},
                "clip single updates",
            ),
            ({}, {"communication": Communication(Quantized(8))}, "packed updates cannot be added"),
            ({}, {"participation": Participation(Oort())}, "knows nothing of the clients' updates"),
        ],
    )
    def test_parts_that_need_single_updates(self, aggregation, other, text):
        settings = Aggregation(**{"rule": Mean(), **aggregation}, secure_aggregation=SETTINGS)
        with pytest.raises(ConfigError, match=text):
            HQDEStrategy(settings, **other)

    def test_a_strategy_around_it(self):
        strategy = HQDEStrategy(Aggregation(Krum(f=1), secure_aggregation=SETTINGS))
        grid = InlineGrid(ensemble_app(TASK), 3, {}, seed=1)
        with pytest.raises(ConfigError, match="cannot be inside of another strategy"):
            strategy.configure_train(1, start_arrays(), ConfigRecord(), grid)

    def test_of_fewer_clients_than_the_threshold_there_is_no_sum(self):
        secure = SecureAggregation(bucket=20, threshold=15)
        assert secure.deal(list(range(14)), np.random.default_rng(0)) == []
        assert [secure.threshold_of(size) for size in (3, 14, 20, 22)] == [15, 15, 15, 17]

    @pytest.mark.parametrize("clients", [*range(4, 24), 100])
    def test_every_bucket_bears_as_many_drop_outs(self, clients):
        secure = SecureAggregation(bucket=5, threshold=4)
        buckets = secure.deal(list(range(clients)), np.random.default_rng(0))
        assert sorted(c for bucket in buckets for c in bucket) == list(range(clients))
        sizes = {len(bucket) for bucket in buckets}
        assert max(sizes) - min(sizes) <= 1
        for size in sizes:
            threshold = secure.threshold_of(size)
            assert threshold >= 3
            assert size < 2 * threshold <= 2 * size
            assert size - threshold == 1 or size == 4


def test_detection_counts_buckets():
    """Two faulty clients in one filtered bucket are one detection, and nobody a false alarm."""

    def line(partition: int, bucket: int | None, fault: str | None, filtered: bool) -> dict:
        return {
            "round": 1,
            "partition": partition,
            "bucket": bucket,
            "fault": fault,
            "kept": not filtered,
            "reason": "filtered" if filtered else None,
            "sleeping": False,
        }

    lines = [line(i, 0, "sign-flip" if i < 2 else None, filtered=True) for i in range(4)]
    lines += [line(i, 1, None, filtered=False) for i in range(4, 8)]
    detection = Detection.of(lines)
    assert (detection.caught, detection.false_alarms) == (1, 0)
    assert (detection.judged.faulty, detection.judged.honest) == (1, 1)


def test_the_median_of_buckets_bears_a_spoiled_one():
    """Under the mean a client that sends ten times the opposite moves the model, not under it."""

    def opposite(message: Message, context: Context, call_next: Any) -> Message:
        reply = call_next(message, context)
        if is_training(message) and context.node_config["partition-id"] == 0:
            sent = from_record(message.content["arrays"])
            state = from_record(reply.content["arrays"])
            weight = sent["0.weight"] - 100 * (state["0.weight"] - sent["0.weight"])
            reply.content["arrays"] = to_record({**state, "0.weight": weight})
        return reply

    moved = {}
    for name, rule, mods in (
        ("honest", Mean(), ()),
        ("mean", Mean(), (opposite,)),
        ("median", Median(), (opposite,)),
    ):
        app = ensemble_app(TASK, training=TRAINING, secure_aggregation=SETTINGS, mods=mods)
        strategy = HQDEStrategy(
            Aggregation(rule, secure_aggregation=SETTINGS),
            participation=Participation(fraction_evaluate=0, min_available_nodes=20),
            roles=roles_of(model()),
        )
        strategy.start(InlineGrid(app, 20, {}, seed=1), start_arrays(), 1)
        moved[name] = final(strategy)["0.weight"]
    distance = {name: float((value - moved["honest"]).norm()) for name, value in moved.items()}
    assert distance["median"] < 0.2 * distance["mean"]
