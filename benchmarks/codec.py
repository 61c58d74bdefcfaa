"""Codecs: error against bytes, compared with the bound and published errors, and their speed.

Bits are counted on whole payloads. The error is normalised: |decoded - x|^2 / |x|^2. The bound is
the rate-distortion function of Gaussian numbers, 2^-2R; the column "over" is the error's distance
from it in dB, the column "published" its ratio to the published error at that number of bits. Speed
is MB of float32 per second of one core's time, the median of several runs. On a vector of 40 MB
it is measured by the clock besides, with one thread and two in turns. Real updates are those
of one of ten clients in rounds 1 and 10, on the digits and, if its files exist (``--data-dir`` or
HQDE_FL_DATA), on Fashion-MNIST (perceptron).

    python benchmarks/codec.py --json codec.json [--quick]
"""

from __future__ import annotations

import argparse
import math
import operator
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable
from torch import Tensor

from hqde_fl.clients.app import ensemble_app
from hqde_fl.clients.initial_state import initial_state
from hqde_fl.clients.message_fields import array_record, server_round
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
from hqde_fl.protocol.records import from_record, layout_of, to_record
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.engines.inline import InlineGrid
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.strategies.hqde import HQDEStrategy
from hqde_fl.strategies.settings import Participation

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.reporting import check, conclude, machine  # noqa: E402

SEEDS = Seeds(5)
SIZE = 1 << 20
LARGE = 10_000_000
THREADS = (1, 2)
RATES = (1.3, 1.6, 2, 2.5, 3, 4, 5, 6, 7, 8)
EDEN = dict(enumerate((0.571, 0.133, 0.0358, 0.0096, 0.00251, 0.000645, 0.000164, 0.0000412), 1))
LLOYD_MAX = {1: 0.3634, 2: 0.1175, 3: 0.0345, 4: 0.0095}
MIN_MAX = {2: 0.79, 4: 0.0315, 8: 1.1e-4}


def lloyd_max(bits: int, *, unbiased: bool = True) -> Rotated:
    return Rotated(Quantized(bits, levels="lloyd-max", unbiased=unbiased))


def codecs() -> Iterator[tuple[str, Codec, float | None]]:
    """Yield (name, codec, published error for Gaussian numbers, or None) of each codec measured."""
    yield "identity", Identity(), None
    for bits in (1, 2, 3, 4, 6, 8, 12, 16):
        yield f"quantized {bits}", Quantized(bits), MIN_MAX.get(bits)
    for bits in (2, 4, 8):
        yield f"quantized {bits}, nearest", Quantized(bits, unbiased=False), None
    for bits in range(1, 9):
        yield f"rotated lloyd-max {bits}", lloyd_max(bits), EDEN[bits]
    for bits, published in LLOYD_MAX.items():
        yield f"rotated lloyd-max {bits}, biased", lloyd_max(bits, unbiased=False), published
    for bits in (2, 4, 8):
        yield f"adaptive {bits}", AdaptiveQuantizer(bits, 0, 16), None
    yield "adaptive 8, hqde's bounds", AdaptiveQuantizer(), None
    yield "adaptive, importance", AdaptiveQuantizer(allocation="importance"), None
    for rate in RATES:
        yield f"entropy-coded {rate:g}", EntropyCoded(rate), None
    yield "rotated entropy-coded 2", Rotated(EntropyCoded(2)), None
    for fraction in (0.01, 0.1):
        yield f"top-k {fraction:g}", TopK(fraction), None
    yield "top-k 0.1, quantized 4", TopK(0.1, Quantized(4, unbiased=False)), None
    yield "error feedback, quantized 4", ErrorFeedback(), None


def sources() -> dict[str, Tensor]:
    """Return name -> random vector of ``SIZE`` numbers to encode."""
    rng = SEEDS.numpy("student")
    return {
        "N(0, 1)": torch.randn(SIZE, generator=SEEDS.torch("gaussian")),
        "Student-t(3)": torch.from_numpy(rng.standard_t(3, SIZE)).float(),
        "40 dB blocks": blocks(),
    }


def real_updates(data_dir: str) -> dict[str, Tensor]:
    """Return name -> a client's update in rounds 1 and 10 of plain averaging.

    The data are the digits and, if ``data_dir`` is not empty, the Fashion-MNIST in it.
    """
    partition = {"name": "dirichlet", "alpha": 0.5}
    tasks: dict[str, dict[str, Any]] = {"digits": {"name": "digits"}}
    if data_dir:
        tasks["fashion"] = {"name": "fashion-mnist", "data-dir": data_dir, "model": "mlp"}
    updates: dict[str, Tensor] = {}
    for name, task in tasks.items():
        experiment = Experiment.parse(
            {"seed": 7, "task": task, "clients": {"partition": partition, "lr": 0.1}}
        )

        def record(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
            reply = call_next(message, context)
            number = server_round(message)
            if context.node_config["partition-id"] == 0 and number in (1, 10):
                start, trained = array_record(message)[1], array_record(reply)[1]
                layout = layout_of(start)
                flats = [layout.flatten(from_record(record))[0] for record in (trained, start)]
                updates[f"{name}, {number}"] = flats[0] - flats[1]  # noqa: B023  # used within the loop
            return reply

        built = experiment.load_task()
        app = ensemble_app(built, training=experiment.parts.training, seed=7, mods=[record])
        strategy = HQDEStrategy(participation=Participation(fraction_evaluate=0.0, identify=True))
        start = to_record(initial_state(built, 1, experiment.parts.seeds))
        strategy.start(InlineGrid(app, 10, {}, 7), start, 10)
    return updates


def blocks() -> Tensor:
    """Return 1024 shuffled blocks of Gaussian numbers, with variances spread over 40 dB."""
    order = torch.randperm(1024, generator=SEEDS.torch("order"))
    numbers = torch.randn(1024, SIZE // 1024, generator=SEEDS.torch("blocks"))
    return (numbers * torch.logspace(-2, 0, 1024)[order, None]).flatten()


def once(codec: Codec, delta: Tensor) -> tuple[bytes, float]:
    """Encode a vector; return the payload and |decoded - vector|^2 / |vector|^2."""
    payload, _ = codec.encode(delta, {}, SEEDS.numpy("encode"))
    error = (codec.decode(payload, len(delta)) - delta).double().square().sum()
    return payload, float(error / delta.double().square().sum())


def speed(work: Callable[[], object], size: int, repeats: int) -> float:
    """Run ``work`` on ``size`` float32 numbers repeatedly; return its median MB per CPU second."""
    seconds = []
    for _ in range(repeats):
        started = time.thread_time()
        work()
        seconds.append(time.thread_time() - started)
    return 4e-6 * size / statistics.median(seconds)


def measure(
    source: str, name: str, codec: Codec, delta: Tensor, published: float | None, repeats: int
) -> dict[str, Any]:
    """Measure a codec on a vector, and return its row of the table."""
    size = len(delta)
    payload, error = once(codec, delta)
    rate = codec.payload_bits(payload) / size
    rng = SEEDS.numpy("speed")
    return {
        "source": source,
        "codec": name,
        "bits": rate,
        "smaller": 32 / rate,
        "error": error,
        "over": 10 * math.log10(error * 4**rate) if error else None,
        "published": error / published if published and source == "N(0, 1)" else None,
        "encode": speed(lambda: codec.encode(delta, {}, rng), size, repeats),
        "decode": speed(lambda: codec.decode(payload, size), size, repeats),
    }


def large_codecs() -> dict[str, Codec]:
    """Return name -> the codecs that are measured by the clock on a long vector."""
    return {
        "entropy-coded 2": EntropyCoded(2),
        "entropy-coded 4": EntropyCoded(4),
        "rotated lloyd-max 4": lloyd_max(4),
        "rotated lloyd-max 1": lloyd_max(1),
        "quantized 4": Quantized(4),
        "quantized 4, nearest": Quantized(4, unbiased=False),
    }


def on_threads(repeats: int) -> Iterator[dict[str, Any]]:
    """Yield a row for each codec and direction: MB per second with one thread and with two.

    The two take turns, so that what else the machine does slows both; medians, and the ratio's.
    """
    delta = torch.randn(LARGE, generator=SEEDS.torch("large"))
    for name, codec in large_codecs().items():
        payload, _ = codec.encode(delta, {}, SEEDS.numpy("large"))
        codec.decode(payload, LARGE)  # whatever has to be compiled is compiled now
        work: dict[str, Callable[[], object]] = {
            "encode": lambda codec=codec: codec.encode(delta, {}, SEEDS.numpy("large")),
            "decode": lambda codec=codec, payload=payload: codec.decode(payload, LARGE),
        }
        for direction, call in work.items():
            seconds: dict[int, list[float]] = {threads: [] for threads in THREADS}
            for _ in range(repeats):
                for threads in THREADS:
                    torch.set_num_threads(threads)
                    started = time.perf_counter()
                    call()
                    seconds[threads].append(time.perf_counter() - started)
            torch.set_num_threads(1)
            one, two = (statistics.median(seconds[threads]) for threads in THREADS)
            yield {
                "source": "40 MB",
                "codec": name,
                "direction": direction,
                "one": 4e-6 * LARGE / one,
                "two": 4e-6 * LARGE / two,
                "ratio": statistics.median(map(operator.truediv, *seconds.values())),
            }


def thread_checks(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the checks of the speed on two cores, results of ``check``."""
    table = {(row["codec"], row["direction"]): row for row in rows}
    for name in ("entropy-coded 2", "rotated lloyd-max 4"):
        for direction in ("encode", "decode"):
            ratio = table[name, direction]["ratio"]
            yield check(f"{name}, 40 MB: {direction}, two cores / one", ratio, 1.7)
    for direction in ("encode", "decode"):
        found = table["rotated lloyd-max 4", direction]["two"]
        yield check(f"rotated lloyd-max 4, 40 MB: {direction} MB/s on two cores", found, 600)


def table_line(row: dict[str, Any]) -> str:
    over = f"{row['over']:9.2f}" if row["over"] is not None else f"{'exact':>9}"
    published = f"{row['published']:11.3f}" if row["published"] else f"{'':>11}"
    return (
        f"{row['source']:<14}{row['codec']:<30}{row['bits']:8.3f}{row['smaller']:9.1f}"
        f"{row['error']:11.3e}{over}{published}{row['encode']:9.0f}{row['decode']:9.0f}"
    )


def overhead(rate: float, size: int) -> float:
    """Return the fraction of ``size`` encoded Gaussian numbers beyond their indices' entropy."""
    delta = torch.randn(size, generator=SEEDS.torch("overhead"))
    payload, _ = EntropyCoded(rate).encode(delta, {}, SEEDS.numpy("overhead"))
    step = float(np.frombuffer(payload, "<f4", 1, 17)[0])
    chances = torch.unique(torch.round(delta / step), return_counts=True)[1].double() / size
    return 1 + float((chances * chances.log2()).sum()) * size / 8 / len(payload)


def fall_of_the_mean(codec: Codec, messages: int) -> float:
    """Return n x the error of the mean of n decoded messages / the error of one; 1 if unbiased."""
    delta = torch.from_numpy(SEEDS.numpy("mean").standard_t(3, 1 << 14)).float()
    rng, total, single = SEEDS.numpy("messages"), torch.zeros(1 << 14).double(), 0.0
    for _ in range(messages):
        decoded = codec.decode(codec.encode(delta, {}, rng)[0], len(delta))
        total += decoded
        single += float((decoded - delta).double().square().sum())
    return float((total / messages - delta).square().sum()) * messages / (single / messages)


def checks(rows: list[dict[str, Any]], quick: bool) -> Iterator[dict[str, Any]]:
    """Yield the checks of the codecs' errors and speeds against bounds, results of ``check``."""
    table = {(row["source"], row["codec"]): row for row in rows}
    coded = [table["N(0, 1)", f"entropy-coded {rate:g}"] for rate in RATES]
    over = max(row["over"] for row in coded)
    yield check("entropy-coded, 1.3 to 8 bits: dB over the bound", over, 1.7, upper=True)
    largest = max(overhead(rate, 100_000) for rate in RATES)
    yield check("entropy-coded, d = 1e5: overhead", largest, 0.01, upper=True)
    for source in ("N(0, 1)", "Student-t(3)"):
        worst = max(
            table[source, f"rotated lloyd-max {bits}"]["error"] / EDEN[bits] for bits in EDEN
        )
        claim = f"rotated lloyd-max, 1 to 8 bits, {source}: error / EDEN's"
        yield check(claim, worst, 1.05, upper=True)
    unequal = sources()["40 dB blocks"]
    heuristic, importance = once(AdaptiveQuantizer(2, 0, 12, allocation="importance"), unequal)
    budget = 8 * len(heuristic) / SIZE - 70 / 1024  # equal bytes: scales and map take 69 bits
    filled, distortion = once(AdaptiveQuantizer(budget, 0, 16), unequal)
    assert len(filled) <= len(heuristic)
    gain = 10 * math.log10(importance / distortion)
    claim = f"40 dB blocks, {8 * len(filled) / SIZE:.2f} bits: dB gained on importance"
    yield check(claim, gain, 10)
    for bits in (1, 4):
        fall = fall_of_the_mean(lloyd_max(bits), 64 if quick else 512)
        claim = f"rotated lloyd-max {bits}: n x error of the mean of n / error of one"
        yield check(claim, fall, 1.2, upper=True)
    yield check("entropy-coded: encode MB/s", min(row["encode"] for row in coded), 150)
    yield check("entropy-coded: decode MB/s", min(row["decode"] for row in coded), 80)
    four = table["N(0, 1)", "quantized 4"]
    yield check("quantized 4: encode MB/s", four["encode"], 400)
    yield check("quantized 4: decode MB/s", four["decode"], 400)


def main() -> int:
    """Measure every codec on every source, print the table, write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--data-dir", default=os.environ.get("HQDE_FL_DATA", ""))
    options = parser.parse_args()
    torch.set_num_threads(1)
    getLogger("flwr").setLevel(ERROR)
    rows = []
    print(
        f"{'source':<14}{'codec':<30}{'bits':>8}{'smaller':>9}{'error':>11}{'over dB':>9}"
        f"{'/ published':>11}{'enc MB/s':>9}{'dec MB/s':>9}\n{'-' * 110}"
    )
    for source, delta in (sources() | real_updates(options.data_dir)).items():
        for name, codec, published in codecs():
            row = measure(source, name, codec, delta, published, 5 if options.quick else 15)
            rows.append(row)
            print(table_line(row), flush=True)
    print(f"\n{'40 MB, by the clock':<44}{'one core':>12}{'two cores':>12}{'ratio':>8}")
    large = []
    for row in on_threads(7 if options.quick else 21):
        large.append(row)
        figures = f"{row['one']:>7.0f} MB/s{row['two']:>7.0f} MB/s{row['ratio']:>8.2f}"
        print(f"{row['codec']:<34}{row['direction']:<10}{figures}", flush=True)
    about = machine() | {"constriction": version("constriction")}
    results = [*checks(rows, options.quick), *thread_checks(large)]
    return conclude(rows + large, results, options.json, about)


if __name__ == "__main__":
    sys.exit(main())
