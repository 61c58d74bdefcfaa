"""Roles of model entries: accuracy with statistics, frozen entries' bits, bytes of adapters.

* *columns*: two classes of eight raw columns with scales from .01 to 1000, 5 clients, a network
  that begins with batch normalisation; a good federation reaches about .95.
* *pixels*: handwritten digits with values from 0 to 255, 5 clients, a small CNN likewise.
* *low bits*: 1 to 3 bits and top-k, beside the same network with group normalisation, whose
  inputs are standardised by constants.
* *frozen*: kinds of models of ``tests/contracts/models.py``, 5 rounds, 1 to 16 bits, every noise
  and server optimiser: frozen and tied entries, bit by bit.
* *adapters*: bytes of ``experiments/lora.toml``.
* *statistics*: three of ten clients with the fault ``statistics``, under every rule.

    python benchmarks/roles.py --json roles.json [--quick] [--part columns]
"""

from __future__ import annotations

import argparse
import itertools
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.clientapp.typing import Mod
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.reporting import check, conclude, machine  # noqa: E402
from hqde_fl import create_hqde_system  # noqa: E402
from hqde_fl.clients.app import ensemble_app  # noqa: E402
from hqde_fl.clients.evaluation import evaluate  # noqa: E402
from hqde_fl.clients.faults import FAULTS, only_for  # noqa: E402
from hqde_fl.clients.initial_state import initial_state  # noqa: E402
from hqde_fl.clients.mods.entanglement_noise import EntanglementNoiseMod  # noqa: E402
from hqde_fl.clients.task import Task  # noqa: E402
from hqde_fl.clients.training import Training  # noqa: E402
from hqde_fl.codec import (  # noqa: E402
    AdaptiveQuantizer,
    Codec,
    EntropyCoded,
    ErrorFeedback,
    Identity,
    Quantized,
    Rotated,
    TopK,
)
from hqde_fl.errors import BoundError  # noqa: E402
from hqde_fl.noise import (  # noqa: E402
    EntanglementNoise,
    ExplorationNoise,
    RegularizationNoise,
)
from hqde_fl.protocol.records import from_record, to_record  # noqa: E402
from hqde_fl.rules import Aggregator, Mean  # noqa: E402
from hqde_fl.seeding import Seeds  # noqa: E402
from hqde_fl.simulations.engines.inline import InlineGrid  # noqa: E402
from hqde_fl.simulations.experiment.experiment import Experiment  # noqa: E402
from hqde_fl.simulations.recording.recorded_run import Run  # noqa: E402
from hqde_fl.simulations.run import run_experiment  # noqa: E402
from hqde_fl.strategies.exploration import ExploringOptimizer  # noqa: E402
from hqde_fl.strategies.hqde import HQDEStrategy  # noqa: E402
from hqde_fl.strategies.optimizers import SGD, ServerOptimizer  # noqa: E402
from hqde_fl.strategies.settings import (  # noqa: E402
    Aggregation,
    Communication,
    Participation,
    Reporting,
)
from hqde_fl.updates.roles import roles_of  # noqa: E402
from tests.contracts.all_pairs import all_pairs  # noqa: E402
from tests.contracts.model_runs import (  # noqa: E402
    OPTIMIZERS,
    RULES_AXIS,
    Observed,
    frozen_violations,
)
from tests.contracts.models import KINDS  # noqa: E402
from tests.contracts.rule_examples import EXAMPLES  # noqa: E402

Row = dict[str, Any]

SCALES = torch.tensor([0.01, 0.1, 0.3, 1.0, 3.0, 30.0, 300.0, 1000.0])
CLIENTS, ROUNDS, LONG = 5, 30, 60
MIN_ACCURACY, MAX_LOSS, MAX_README_LOSS = 0.92, 0.03, 0.02
MAX_ADAPTER_RATIO, MESSAGE_BYTES = 1.1, 2048
FAULTY = (0, 3, 6)
FACTORS = (1e6, 1e-6, 0.0)
LORA = ROOT / "experiments" / "lora.toml"

README_UP, README_DOWN = ErrorFeedback(Quantized(4, unbiased=False)), Quantized(4, unbiased=False)
CODECS: dict[str, Codec] = {
    "identity": Identity(),
    "quantized 4": Quantized(4),
    "quantized 8": Quantized(8),
    "quantized 16": Quantized(16),
    "rotated 4": Rotated(),
    "entropy-coded 4": EntropyCoded(4.0),
    "adaptive-quantizer 8": AdaptiveQuantizer(),
    "adaptive-quantizer 8, importance": AdaptiveQuantizer(allocation="importance"),
    "error-feedback 4": README_UP,
    "error-feedback, entropy-coded 4": ErrorFeedback(EntropyCoded(4.0)),
}
"""Codecs of at least 4 bits."""
LOW_CODECS: dict[str, Codec] = {
    **{f"quantized {bits}": Quantized(bits) for bits in (1, 2, 3)},
    **{f"rotated {b}": Rotated(Quantized(b, levels="lloyd-max")) for b in (1, 2, 3)},
    **{f"entropy-coded {bits}": EntropyCoded(float(bits)) for bits in (1, 2, 3)},
    "adaptive-quantizer 2": AdaptiveQuantizer(2, 1, 3),
    **{
        f"error-feedback, entropy-coded {bits}": ErrorFeedback(EntropyCoded(float(bits)))
        for bits in (1, 2, 3)
    },
    "top-k 0.1": TopK(0.1),
    "top-k 0.25": TopK(0.25),
    "error-feedback, top-k 0.1": ErrorFeedback(TopK(0.1)),
}
FROZEN_KINDS = (
    "lora",
    "lora-bf16",
    "frozen-backbone",
    "frozen-batch-norm",
    "constant-buffers",
    "complex64",
    "tied-transformer",
)
NOISES = ("none", "exploration", "entanglement", "regularization")


# --- data and networks ----------------------------------------------------------------------------


def columns(number: int, seed: int) -> TensorDataset:
    """Return raw columns in two classes, on either side of a plane, with some noise."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(number, len(SCALES), generator=generator)
    signs = torch.tensor([1.0, -1.0]).repeat(4) / 8**0.5
    y = x @ signs + 0.1 * torch.randn(number, generator=generator) > 0
    return TensorDataset((x + 2) * SCALES, y.long())


@cache
def digits() -> tuple[TensorDataset, TensorDataset]:
    """Return scikit-learn's digits with values from 0 to 255: training and test set."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    x = torch.from_numpy(loaded.images * 255 / 16).float().round().unsqueeze(1)
    y = torch.from_numpy(loaded.target).long()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    held, rest = order[:359], order[359:]
    return TensorDataset(x[rest], y[rest]), TensorDataset(x[held], y[held])


class Standardized(nn.Module):
    """A network after the standardisation of its inputs by constants."""

    def __init__(self, centre: Tensor, width: Tensor, network: nn.Module) -> None:
        super().__init__()
        self.register_buffer("centre", centre)
        self.register_buffer("width", width)
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's output."""
        return self.network((x - self.centre) / self.width)  # type: ignore[no-any-return]


def column_network(norm: str) -> nn.Module:
    """Return a perceptron with batch or group normalisation."""
    if norm == "batch":
        hidden: nn.Module = nn.BatchNorm1d(16)
    else:
        hidden = nn.GroupNorm(4, 16)
    layers = [nn.Linear(8, 16), hidden, nn.ReLU(), nn.Linear(16, 2)]
    if norm == "batch":
        return nn.Sequential(nn.BatchNorm1d(8), *layers)
    return Standardized(2 * SCALES, SCALES.clone(), nn.Sequential(*layers))


def pixel_network(norm: str) -> nn.Module:
    """Return a small CNN with batch or group normalisation."""
    hidden: nn.Module = nn.BatchNorm2d(8) if norm == "batch" else nn.GroupNorm(4, 8)
    layers = [
        nn.Conv2d(1, 8, 3, padding=1),
        hidden,
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10),
    ]
    if norm == "batch":
        return nn.Sequential(nn.BatchNorm2d(1), *layers)
    return Standardized(torch.tensor(78.0), torch.tensor(96.0), nn.Sequential(*layers))


def column_part(seed: int, number: int, count: int) -> TensorDataset:
    return columns(200, 1000 * (seed + 1) + number)


def pixel_part(seed: int, number: int, count: int) -> TensorDataset:
    x, y = digits()[0].tensors
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x[order[number::count]], y[order[number::count]])


def task_of(data: str, norm: str, seed: int) -> Task:
    """Return the task "columns" or "pixels" with a network of a kind of normalisation."""
    if data == "columns":
        return Task(
            lambda: column_network(norm),
            lambda number, count: column_part(seed, number, count),
            lambda: columns(2000, 1),
        )
    return Task(
        lambda: pixel_network(norm),
        lambda number, count: pixel_part(seed, number, count),
        lambda: digits()[1],
    )


# --- one federation -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """A federation: its data, its network and the parts of its strategy."""

    data: str = "columns"
    norm: str = "batch"
    codec: Codec = Identity()  # noqa: RUF009
    downlink: Codec = Identity()  # noqa: RUF009
    optimizer: ServerOptimizer = SGD()  # noqa: RUF009
    rule: Aggregator = Mean(weighted=True)  # noqa: RUF009
    rounds: int = ROUNDS
    clients: int = CLIENTS
    seed: int = 0
    mods: tuple[Mod, ...] = ()


def learn(setting: Setting) -> Row:
    """Run a federation; return its accuracy, least running variance, replies lost and seconds."""
    started = time.monotonic()
    task = task_of(setting.data, setting.norm, setting.seed)
    app = ensemble_app(task, training=Training(lr=0.1), seed=setting.seed, mods=setting.mods)
    observed = Observed(1)
    strategy = HQDEStrategy(
        Aggregation(setting.rule, setting.optimizer),
        communication=Communication(setting.codec, setting.downlink),
        participation=Participation(fraction_evaluate=0.0),
        reporting=Reporting([observed]),
        seed=setting.seed,
        roles=roles_of(task.model()),
    )
    start = to_record(initial_state(task, 1, Seeds(setting.seed)))
    grid = InlineGrid(app, setting.clients, {}, seed=setting.seed)
    final = from_record(strategy.start(grid, start, setting.rounds).arrays)
    model = task.model()
    model.load_state_dict(final)
    variances = [
        float(tensor.min())
        for (state,) in observed.models
        for name, tensor in state.items()
        if name.endswith("running_var")
    ]
    return {
        "accuracy": evaluate([model], task.test(), task)["accuracy"],
        "least variance": min(variances, default=0.0),
        "lost replies": sum(
            record.asked - record.kept - record.filtered for record in observed.records
        ),
        "seconds": time.monotonic() - started,
    }


def show(row: Row) -> Row:
    """Print a row and return it."""
    cells = (f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values())
    print("  ".join(cells), flush=True)
    return row


# --- accuracy -------------------------------------------------------------------------------------


def combinations(data: str, quick: bool) -> Iterator[tuple[str, str, str]]:
    """Yield codec, optimiser and rule: all of them for columns, else those that make all pairs."""
    axes = {"codec": tuple(CODECS), "optimizer": tuple(OPTIMIZERS), "rule": tuple(RULES_AXIS)}
    if data == "columns" and not quick:
        yield from itertools.product(*axes.values())
    else:
        for chosen in all_pairs(axes):
            yield chosen["codec"], chosen["optimizer"], chosen["rule"]


def accuracies(data: str, quick: bool) -> tuple[list[Row], list[Row]]:
    """Return rows and checks of every codec of at least 4 bits, optimiser and rule."""
    rows = []
    for codec, optimizer, rule in combinations(data, quick):
        setting = Setting(
            data, codec=CODECS[codec], optimizer=OPTIMIZERS[optimizer], rule=RULES_AXIS[rule]
        )
        labels = {"part": data, "codec": codec, "optimizer": optimizer, "rule": rule}
        rows.append(show(labels | learn(setting)))
    plain = learn(Setting(data))["accuracy"]
    readme = learn(Setting(data, codec=README_UP, downlink=README_DOWN))
    rows.append(show({"part": data, "codec": "4 bits up and down"} | readme))
    what = f"{data}, BatchNorm, {CLIENTS} clients, "
    worst = min(rows, key=lambda row: row["accuracy"])
    where = f"(worst: {worst['codec']}, {worst.get('optimizer')}, {worst.get('rule')})"
    every = f"{what}{len(rows)} of codec >= 4 bits x optimizer x rule: "
    return rows, [
        check(f"{every}least accuracy {where}", worst["accuracy"], MIN_ACCURACY),
        check(
            f"{every}runs below {MIN_ACCURACY}",
            sum(row["accuracy"] < MIN_ACCURACY for row in rows),
            0,
            upper=True,
        ),
        check(f"{every}least running variance", min(row["least variance"] for row in rows), 0.0),
        check(f"{every}replies lost", sum(row["lost replies"] for row in rows), 0, upper=True),
        check(
            f"{what}README's 4 bits up and down: accuracy lost",
            plain - readme["accuracy"],
            MAX_README_LOSS,
            upper=True,
        ),
    ]


def defaults(quick: bool) -> tuple[list[Row], list[Row]]:
    """Return a row and a check of ``create_hqde_system`` with all its defaults."""
    x, y = (
        torch.cat(parts)
        for parts in zip(*(column_part(0, i, 4).tensors for i in range(CLIENTS)), strict=True)
    )
    with create_hqde_system(
        column_network, {"norm": "batch"}, show_progress=False, engine="inline"
    ) as system:
        system.train(DataLoader(TensorDataset(x, y), 32), ROUNDS)
        accuracy = system.evaluate(DataLoader(columns(2000, 1), 500))["accuracy"]
    row = show({"part": "defaults", "epochs": ROUNDS, "accuracy": accuracy})
    claim = f"columns, create_hqde_system with all defaults, {ROUNDS} epochs: accuracy"
    return [row], [check(claim, accuracy, MIN_ACCURACY)]


def low_bits(data: str, quick: bool) -> tuple[list[Row], list[Row]]:
    """Return rows and checks of codecs of 1 to 3 bits and top-k, with batch and group norm."""
    seeds = (0,) if quick else (0, 1, 2)
    rules = ("mean",) if quick or data == "pixels" else ("mean", "median")
    rows, checks = [], []
    rounds = LONG if data == "columns" else ROUNDS
    for codec, rule in itertools.product(LOW_CODECS, rules):
        row: Row = {"part": f"low bits, {data}", "codec": codec, "rule": rule}
        for norm in ("batch", "group"):
            runs = [
                learn(
                    Setting(
                        data,
                        norm,
                        LOW_CODECS[codec],
                        rule=RULES_AXIS[rule],
                        rounds=rounds,
                        seed=seed,
                    )
                )
                for seed in seeds
            ]
            row[norm] = statistics.mean(run["accuracy"] for run in runs)
            row[f"{norm}, deviation"] = statistics.pstdev(run["accuracy"] for run in runs)
            row[f"{norm}, least variance"] = min(run["least variance"] for run in runs)
        rows.append(show(row))
        claim = f"{data}, {codec}, {rule}: accuracy of BatchNorm behind GroupNorm"
        checks.append(check(claim, row["group"] - row["batch"], MAX_LOSS, upper=True))
    claim = f"{data}, 1 to 3 bits and top-k: least running variance"
    return rows, [*checks, check(claim, min(row["batch, least variance"] for row in rows), 0.0)]


# --- frozen entries -------------------------------------------------------------------------------


def codecs_by_bits(quick: bool) -> dict[str, Codec]:
    """Return every codec with each number of bits from 1 to 16 that it knows."""
    codecs: dict[str, Codec] = {"identity": Identity()}
    for bits in (1, 2, 4, 16) if quick else range(1, 17):
        codecs[f"quantized {bits}"] = Quantized(bits)
        codecs[f"entropy-coded {bits}"] = EntropyCoded(float(bits))
        codecs[f"adaptive-quantizer {bits}"] = AdaptiveQuantizer(bits, 1, 16)
        codecs[f"top-k, quantized {bits}"] = TopK(0.25, Quantized(bits))
        codecs[f"error-feedback, quantized {bits}"] = ErrorFeedback(Quantized(bits, unbiased=False))
        if bits <= 8:
            codecs[f"rotated {bits}"] = Rotated(Quantized(bits, levels="lloyd-max"))
    return codecs


def frozen(quick: bool) -> tuple[list[Row], list[Row]]:
    """Return rows and checks of frozen and tied entries after 5 rounds, and of their drift."""
    rows: list[Row] = []
    codecs, down = codecs_by_bits(quick), itertools.cycle(range(1, 17))
    crossed = list(itertools.product(NOISES, OPTIMIZERS))
    turns = itertools.cycle(crossed)
    for kind in FROZEN_KINDS:
        cases = [(codec, *next(turns)) for codec in codecs]
        cases += [("error-feedback, quantized 4", *pair) for pair in crossed]
        wrong: list[str] = []
        for codec, noise, optimizer in cases:
            downlink = Quantized(next(down), unbiased=False) if codec != "identity" else Identity()
            lines = frozen_run(kind, codecs[codec], downlink, noise, OPTIMIZERS[optimizer])
            wrong += [f"{codec}, {noise}, {optimizer}: {line}" for line in lines]
        rows.append(
            show({"part": "frozen", "kind": kind, "runs": len(cases), "wrong": len(wrong)})
            | {"first": wrong[:3]}
        )
    return rows, [
        check(
            f"{row['kind']}, 5 rounds, {row['runs']} of codec x 1-16 bits up and down x noise x "
            "optimizer: frozen or tied entries with other bits",
            row["wrong"],
            0,
            upper=True,
        )
        for row in rows
    ]


def frozen_run(
    name: str, codec: Codec, downlink: Codec, noise: str, optimizer: ServerOptimizer
) -> list[str]:
    """Return what is wrong with frozen and tied entries after five rounds of a kind of model."""
    kind, observed = KINDS[name], Observed(1)
    task = kind.task()
    mods: list[Mod] = [observed.mod]
    if noise == "entanglement":
        mods.insert(0, EntanglementNoiseMod(EntanglementNoise()))
    if noise == "exploration":
        optimizer = ExploringOptimizer(ExplorationNoise(0.1), optimizer)
    regularization = RegularizationNoise() if noise == "regularization" else None
    training = Training(batch_size=8, lr=0.1, regularization_noise=regularization)
    strategy = HQDEStrategy(
        Aggregation(server_optimizer=optimizer),
        communication=Communication(codec, downlink),
        participation=Participation(fraction_evaluate=0.0),
        reporting=Reporting([observed]),
        roles=roles_of(kind.model()),
    )
    grid = InlineGrid(ensemble_app(task, training=training, mods=mods), 3, {})
    strategy.start(grid, to_record(initial_state(task, 1, Seeds(0))), 5)
    lost = [record.round for record in observed.records if record.kept < 3]
    return [
        *frozen_violations(kind, observed, 0),
        *(f"round {number}: replies lost" for number in lost),
    ]


# --- adapters -------------------------------------------------------------------------------------


def adapters(quick: bool) -> tuple[list[Row], list[Row]]:
    """Return rows and checks of the bytes of each message of ``experiments/lora.toml``."""
    if not LORA.exists():
        print(f"{LORA.name} is not there: no bytes of adapters")
        return [], []
    rows, checks = [], []
    for name, faults in (("clean", []), ("ALIE", [{"name": "alie", "count": 3, "z": 1.5}])):
        tables = Experiment.load(LORA).to_table()
        experiment = Experiment.parse(
            {**tables, "rounds": 5, "faults": faults, "engine": {"name": "inline"}}
        )
        with tempfile.TemporaryDirectory() as directory:
            run_experiment(experiment, Path(directory) / "run", report=False)
            run = Run.load(Path(directory) / "run")
        if faults:
            faulty = experiment.faulty
            influence = statistics.mean(
                line["influence"] for line in run.clients if line["partition"] in faulty
            )
            rows.append(show({"part": "adapters", "run": name, "influence": influence}))
            claim = "lora.toml, ALIE: mean influence of an attacker"
            checks.append(check(claim, influence, 0.0, strict=True))
            continue
        model = experiment.load_task().model()
        numbers = sum(p.numel() for p in model.parameters() if p.requires_grad)
        total = sum(p.numel() for p in model.parameters())
        for way, codec in (
            ("up", experiment.parts.communication.codec),
            ("down", experiment.parts.communication.downlink),
        ):
            payload, _ = codec.encode(torch.randn(numbers), {}, np.random.default_rng(0))
            largest = max(line[f"bytes-{way}"] for line in run.clients if line["round"] >= 2)
            bound = MAX_ADAPTER_RATIO * len(payload) + MESSAGE_BYTES
            row = {"part": "adapters", "run": name, "way": way, "largest message": largest}
            rows.append(
                show({**row, "packed adapters": len(payload), "numbers": numbers, "of": total})
            )
            claim = f"lora.toml, rounds 2 to 5: bytes of the largest message {way}"
            checks.append(check(claim, largest, bound, upper=True))
    return rows, checks


# --- false statistics -----------------------------------------------------------------------------


def rule_for_ten(make: Callable[[int], Aggregator]) -> tuple[Aggregator, int]:
    """Return a rule for three faulty clients of ten, or for as many as it can, and their number."""
    for f in (3, 2, 1, 0):
        try:
            rule = make(f)
            if rule.minimum() <= 10:
                return rule, f
        except (BoundError, ValueError):
            continue
    raise AssertionError("no rule fits ten clients")


def false_statistics(quick: bool) -> tuple[list[Row], list[Row]]:
    """Return rows and checks of every rule with the fault ``statistics``, in 3 of 10 clients."""
    if "statistics" not in list(FAULTS):
        print("there is no fault statistics")
        return [], []
    rows, checks = [], []
    names = ["median", "trimmed-mean", "krum", "clipping", "robust"] if quick else list(EXAMPLES)
    for name in ["mean", *(name for name in names if name != "mean")]:
        rule, f = rule_for_ten(EXAMPLES[name].make)
        setting = Setting(rule=rule, clients=10, rounds=20)
        row: Row = {"part": "statistics", "rule": name, "f": f}
        row["clean"] = learn(setting)["accuracy"]
        for factor in FACTORS:
            fault = FAULTS.build({"name": "statistics", "factor": factor})
            attacked = learn(replace(setting, mods=(only_for(fault, FAULTY),)))
            row[f"x {factor:g}"] = attacked["accuracy"]
        rows.append(show(row))
        if name == "mean":
            continue  # it is not robust
        lost = row["clean"] - min(row[f"x {factor:g}"] for factor in FACTORS)
        claim = f"{name} (f = {f}), fault statistics in 3 of 10: accuracy lost"
        checks.append(check(claim, lost, MAX_LOSS, upper=True))
    return rows, checks


# --- all ------------------------------------------------------------------------------------------

Part = Callable[[bool], tuple[list[Row], list[Row]]]
PARTS: Mapping[str, Sequence[Part]] = {
    "columns": [lambda quick: accuracies("columns", quick), defaults],
    "pixels": [lambda quick: accuracies("pixels", quick)],
    "low": [
        lambda quick: low_bits("columns", quick),
        lambda quick: ([], []) if quick else low_bits("pixels", quick),
    ],
    "frozen": [frozen],
    "adapters": [adapters],
    "statistics": [false_statistics],
}


def main() -> int:
    """Run the parts, print their rows and checks, write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--quick", action="store_true", help="fewer combinations, seeds and rules")
    parser.add_argument("--part", choices=tuple(PARTS), nargs="+", default=list(PARTS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    rows: list[Row] = []
    checks: list[Row] = []
    for name in options.part:
        for part in PARTS[name]:
            new_rows, new_checks = part(options.quick)
            rows += new_rows
            checks += new_checks
    return conclude(rows, checks, options.json, machine())


if __name__ == "__main__":
    sys.exit(main())
