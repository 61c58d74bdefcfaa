"""Short federations of the kinds of models, and what must hold of them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp.typing import ClientAppCallable
from torch import Tensor

from hqde_fl.clients.app import ensemble_app
from hqde_fl.clients.evaluation import evaluate
from hqde_fl.clients.initial_state import initial_state
from hqde_fl.clients.mods.entanglement_noise import EntanglementNoiseMod
from hqde_fl.clients.training import Training
from hqde_fl.codec import (
    AdaptiveQuantizer,
    Codec,
    EntropyCoded,
    ErrorFeedback,
    Identity,
    Quantized,
    Rotated,
    TopK,
)
from hqde_fl.noise import EntanglementNoise, ExplorationNoise, RegularizationNoise
from hqde_fl.protocol.members import split_members
from hqde_fl.protocol.records import from_record, to_record
from hqde_fl.rules import Aggregator, Mean, Median, Robust, TrimmedMean
from hqde_fl.seeding import Seeds
from hqde_fl.selection import Ensemble
from hqde_fl.simulations.checkpoint import container
from hqde_fl.simulations.checkpoint.store import TREE
from hqde_fl.simulations.engines.inline import InlineGrid
from hqde_fl.simulations.engines.ray.packing import pack, unpack
from hqde_fl.strategies.callbacks import Callback, RoundRecord
from hqde_fl.strategies.exploration import ExploringOptimizer
from hqde_fl.strategies.hqde import HQDEStrategy
from hqde_fl.strategies.optimizers import SGD, Adam, ServerOptimizer, Yogi
from hqde_fl.strategies.settings import Aggregation, Communication, Participation, Reporting
from hqde_fl.strategies.state import ServerState
from hqde_fl.updates.roles import roles_of
from tests.contracts.models import BATCH, EXAMPLES, KINDS, Kind, matching

CLIENTS, ROUNDS, RESUMED_AFTER = 4, 3, 1

State = dict[str, Tensor]
"""A model: name -> tensor."""

CODECS_AXIS: dict[str, Codec] = {
    "identity": Identity(),
    "quantized, 1 bit": Quantized(1),
    "quantized, 4 bits": Quantized(4),
    "quantized, 16 bits": Quantized(16),
    "rotated": Rotated(),
    "entropy-coded": EntropyCoded(4.0),
    "adaptive-quantizer": AdaptiveQuantizer(),
    "adaptive-quantizer, importance": AdaptiveQuantizer(2, 1, 4, "importance"),
    "top-k": TopK(0.25),
    "error-feedback": ErrorFeedback(),
    "error-feedback, entropy-coded": ErrorFeedback(EntropyCoded(2.0)),
    "error-feedback, top-k": ErrorFeedback(TopK(0.25, Quantized(4, unbiased=False))),
}
DOWNLINKS: dict[str, Codec] = {"off": Identity(), "4 bits": Quantized(4, unbiased=False)}
OPTIMIZERS: dict[str, ServerOptimizer] = {
    "sgd": SGD(),
    "sgd, momentum": SGD(momentum=0.9),
    "adam": Adam(),
    "yogi": Yogi(),
}
RULES_AXIS: dict[str, Aggregator] = {
    "mean": Mean(weighted=True),
    "median": Median(),
    "trimmed mean": TrimmedMean(1),
    "robust": Robust(),
}
NOISES = ("none", "exploration", "entanglement", "regularization")

AXES: dict[str, tuple[str, ...]] = {
    "kind": tuple(KINDS),
    "codec": tuple(CODECS_AXIS),
    "optimizer": tuple(OPTIMIZERS),
    "rule": tuple(RULES_AXIS),
    "downlink": tuple(DOWNLINKS),
    "roles": ("known", "inferred"),
}
"""The axes of the full product."""
MORE_AXES: dict[str, tuple[str, ...]] = {
    "noise": NOISES,
    "members": ("1", "2"),
    "resumed": ("no", "yes"),
}
"""Further axes of the pairs."""


@dataclass(frozen=True)
class Case:
    """One value of each axis."""

    kind: str
    codec: str = "identity"
    optimizer: str = "sgd"
    rule: str = "mean"
    downlink: str = "off"
    roles: str = "known"
    noise: str = "none"
    members: str = "1"
    resumed: str = "no"

    def __str__(self) -> str:
        return "-".join(value.replace(", ", "+").replace(" ", "_") for value in vars(self).values())

    @property
    def exact(self) -> bool:
        """True if neither updates nor models lose bits on their way."""
        return self.codec == "identity" and self.downlink == "off"


@dataclass
class Observed(Callback):
    """The models, replies and records of a federation's run.

    Parameters
    ----------
    members : int
        Number of members of the ensemble.
    models : list[list[State]]
        The global model of each member, before the first round and after each round.
    received, trained : list[dict[int, list[State]]]
        For each round: partition -> each member as the client received it, and as it trained it.
    records : list[RoundRecord]
        The records of the rounds, without round 0.
    saved : ServerState or None
        The state after round ``RESUMED_AFTER``.
    """

    members: int
    models: list[list[State]] = field(default_factory=list)
    received: list[dict[int, list[State]]] = field(default_factory=list)
    trained: list[dict[int, list[State]]] = field(default_factory=list)
    records: list[RoundRecord] = field(default_factory=list)

    def split(self, record: ArrayRecord) -> list[State]:
        """Return the members in a record, with their own memory."""
        state = {name: tensor.clone() for name, tensor in from_record(record).items()}
        return split_members(state, self.members)

    def on_round(self, record: RoundRecord, arrays: ArrayRecord) -> None:
        """Keep the record and the model."""
        if record.round:
            self.records.append(record)
        self.models.append(self.split(arrays))

    def mod(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """Keep what a client is told and what it trained, inside of all codecs."""
        reply = call_next(message, context)
        if message.metadata.message_type == "train":
            partition = int(context.node_config["partition-id"])
            if not self.received or partition in self.received[-1]:
                self.received.append({})
                self.trained.append({})
            self.received[-1][partition] = self.split(message.content["arrays"])
            self.trained[-1][partition] = self.split(reply.content["arrays"])
        return reply


@dataclass
class Saver(Callback):
    """Keeps the server's state and the clients' after a round, as a checkpoint does."""

    grid: InlineGrid
    path: Path

    def on_state(self, state: ServerState, record: RoundRecord) -> None:
        """Write a checkpoint."""
        if state.round == RESUMED_AFTER:
            contexts = self.grid.contexts(range(CLIENTS))
            packed = {client: pack(context) for client, context in contexts.items()}
            container.write(self.path, TREE, (state, packed))


def federate(case: Case, checkpoint: Path) -> tuple[Observed, Observed | None]:
    """Run the federation of a case.

    Returns
    -------
    tuple[Observed, Observed | None]
        The whole run, and if the case says so another one that was resumed from its checkpoint.
    """
    kind, members = KINDS[case.kind], int(case.members)
    task, seeds = kind.task(), Seeds(3)
    training = Training(
        batch_size=BATCH,
        lr=0.2,
        regularization_noise=RegularizationNoise() if case.noise == "regularization" else None,
    )
    start = to_record(initial_state(task, members, seeds))

    def run(*more: Any, resume: ServerState | None = None, contexts: Any = None) -> Observed:
        observed = Observed(members)
        mods = [observed.mod]
        if case.noise == "entanglement":
            mods.insert(0, EntanglementNoiseMod(EntanglementNoise(), 3))
        app = ensemble_app(task, members=members, training=training, seed=3, mods=mods)
        grid = InlineGrid(app, CLIENTS, {}, seed=3)
        grid.set_contexts(contexts or {})
        callbacks = [observed, *(callback(grid) for callback in more)]
        strategy(case, kind, callbacks).start(grid, start, ROUNDS, resume=resume)
        return observed

    if case.resumed == "no":
        return run(), None
    whole = run(lambda grid: Saver(grid, checkpoint))
    state, packed = container.read(checkpoint, TREE)
    contexts = {client: unpack(context) for client, context in packed.items()}
    return whole, run(resume=state, contexts=contexts)


def strategy(case: Case, kind: Kind, callbacks: list[Callback]) -> HQDEStrategy:
    """Return the strategy of a case."""
    optimizer = OPTIMIZERS[case.optimizer]
    if case.noise == "exploration":
        optimizer = ExploringOptimizer(ExplorationNoise(0.1), optimizer, 3)
    return HQDEStrategy(
        Aggregation(RULES_AXIS[case.rule], optimizer),
        communication=Communication(CODECS_AXIS[case.codec], DOWNLINKS[case.downlink]),
        participation=Participation(fraction_evaluate=0.0),
        ensemble=Ensemble(members=int(case.members)),
        reporting=Reporting(callbacks),
        seed=3,
        roles=roles_of(kind.model()) if case.roles == "known" else None,
    )


# --- what must hold -------------------------------------------------------------------------------


def bits(tensor: Tensor) -> Tensor:
    """Return a tensor's bytes."""
    return tensor.detach().reshape(-1).contiguous().view(torch.uint8)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are equal in dtype, shape and bits."""
    alike = one.dtype == other.dtype and one.shape == other.shape
    return alike and torch.equal(bits(one), bits(other))


def same_models(one: list[State], other: list[State]) -> bool:
    """Return whether all members have the same entries with the same bits."""
    return all(
        list(a) == list(b) and all(same_bits(a[name], b[name]) for name in a)
        for a, b in zip(one, other, strict=True)
    )


def violations(case: Case, checkpoint: Path) -> list[str]:
    """Run the federation of a case and return what does not hold of it, a line each."""
    whole, resumed = federate(case, checkpoint)
    wrong = [*_reply_violations(whole)]
    for member in range(int(case.members)):
        wrong += _model_violations(case, whole, member)
    if resumed is not None and not same_models(whole.models[-1], resumed.models[-1]):
        wrong.append("the resumed run ends with another model")
    return wrong


def _reply_violations(run: Observed) -> Iterator[str]:
    if [record.round for record in run.records] != list(range(1, ROUNDS + 1)):
        yield f"rounds {[record.round for record in run.records]}"
    for record in run.records:
        if record.kept + record.filtered != CLIENTS or record.void:
            reasons = sorted({str(client.reason) for client in record.clients})
            yield f"round {record.round}: {record.kept} kept, {'; '.join(reasons)}"


def _model_violations(case: Case, run: Observed, member: int) -> Iterator[str]:
    kind, start, final = KINDS[case.kind], run.models[0][member], run.models[-1][member]
    names = list(start)
    for name in names:
        value = final[name]
        floating = value.is_floating_point() or value.is_complex()
        if floating and not bool(torch.isfinite(value).all()):
            yield f"{name} is not finite"
    yield from frozen_violations(kind, run, member)
    trained = [name for name in kind.trained(names) if start[name].numel()]
    still = [name for name in trained if same_bits(start[name], final[name])]
    if (still and case.exact) or still == trained:
        yield f"trained, but did not move: {', '.join(still)}"
    for number, (before, trained_states) in enumerate(zip(run.models, run.trained, strict=False)):
        after = run.models[number + 1][member]
        states = [trained_states[client][member] for client in sorted(trained_states)]
        yield from _statistics_violations(case, kind, number + 1, before[member], after, states)
    model = kind.model()
    model.load_state_dict(final)
    loss = evaluate([model], kind.examples(EXAMPLES, 0), kind.task())["loss"]
    if not loss < 1e3:
        yield f"loss {loss}"


def frozen_violations(kind: Kind, run: Observed, member: int) -> Iterator[str]:
    """Check what is frozen and tied, in the global model and in all that clients receive."""
    start = run.models[0][member]
    seen: list[tuple[str, Mapping[str, Tensor]]] = [
        (f"after round {number}", models[member]) for number, models in enumerate(run.models)
    ]
    for number, received in enumerate(run.received, start=1):
        seen += [
            (f"round {number}, received by client {client}", states[member])
            for client, states in sorted(received.items())
        ]
    reported: set[str] = set()
    for where, state in seen:
        drifted = {
            name for name in matching(start, kind.frozen) if not same_bits(start[name], state[name])
        }
        untied = {
            name for name, first in kind.tied.items() if not same_bits(state[name], state[first])
        }
        if new := drifted - reported:
            yield f"{where}: frozen, but other bits: {', '.join(sorted(new))}"
        if new := untied - reported:
            yield f"{where}: tied, but not equal: {', '.join(sorted(new))}"
        reported |= drifted | untied


def _statistics_violations(
    case: Case, kind: Kind, number: int, before: State, after: State, states: list[State]
) -> Iterator[str]:
    patterns = [*kind.statistics, *kind.counters]
    if case.roles == "known":
        patterns += kind.unnamed_statistics
    for name in matching(after, patterns):
        value, clients = after[name], torch.stack([state[name] for state in states])
        wide = clients.to(torch.float64)
        slack = 1e-6 * wide.abs().amax(dim=0) if value.is_floating_point() else 0.0
        low, high = wide.amin(dim=0) - slack, wide.amax(dim=0) + slack
        inside = (low <= value.to(torch.float64)) & (value.to(torch.float64) <= high)
        if not bool(inside.all()):
            yield f"round {number}: {name} is outside of what the clients have"
        if name.endswith("running_var") and bool((value < 0).any()):
            yield f"round {number}: {name} is {float(value.min())}"
        median = case.rule != "mean" or not value.is_floating_point()
        if median and not bool((clients == value).any(dim=0).all()):
            yield f"round {number}: {name} is not a median of what the clients have"


def product_cases(kind: str, codec: str) -> Iterator[Case]:
    """Yield all cases of a kind and a codec; the values of the further axes are drawn by a seed."""
    rest = {axis: values for axis, values in AXES.items() if axis not in ("kind", "codec")}
    rng = random.Random(f"{kind}, {codec}")
    for values in product(*rest.values()):
        more = {axis: rng.choice(own) for axis, own in MORE_AXES.items()}
        yield Case(kind=kind, codec=codec, **dict(zip(rest, values, strict=True)), **more)
