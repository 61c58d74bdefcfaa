"""Codecs: accuracy and bytes of federated learning with packed updates.

Ten clients with Dirichlet(0.5) partitions learn handwritten digits (also with three sign-flipping
clients and the Byzantine filter as rule) and, if its files exist (``--data-dir`` or HQDE_FL_DATA),
Fashion-MNIST; the same experiment for every number of bits. Bytes are those of the serialised
training messages of all rounds.

    python benchmarks/codec_accuracy.py --json accuracy.json [--quick] [--model mlp]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any

import torch

from hqde_fl.codec import ErrorFeedback, Identity
from hqde_fl.codec.request import to_json
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.run import run_experiment
from hqde_fl.strategies.presets import packing

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.reporting import check, conclude, machine  # noqa: E402

CLIENTS = {"count": 10, "partition": {"name": "dirichlet", "alpha": 0.5}}
DEMO = {"rounds": 15, "clients": {**CLIENTS, "epochs": 3, "lr": 0.2}}
FLIPS = [{"name": "sign-flip", "count": 3, "scale": 4.0}]
LONG = {"rounds": 20, "clients": {**CLIENTS, "lr": 0.1}}
MAX_ACCURACY_LOSS = {4: 0.01, 2: 0.015}
MIN_COMPRESSION = {4: 7.5, 2: 12.0}


def experiments(data_dir: str, model: str, quick: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (name, tables) of each experiment to be run with every codec.

    Fashion-MNIST is left out if ``data_dir`` is empty or ``quick``.
    """
    yield "digits", {"task": {"name": "digits"}, **DEMO}
    if not quick:
        yield "digits, 512 hidden", {"task": {"name": "digits", "hidden": 512}, **DEMO}
    attacked = {"faults": FLIPS, "strategy": {"rule": "byzantine-filter"}}
    yield "digits, attacked", {"task": {"name": "digits"}, **DEMO, **attacked}
    if data_dir and not quick:
        task = {"name": "fashion-mnist", "data-dir": data_dir, "model": model}
        yield f"fashion-mnist, {model}", {"task": task, **LONG}


def measure(experiment: Mapping[str, Any], bits: float, both_ways: bool) -> dict[str, Any]:
    """Run an experiment with updates packed to ``bits``, and the models too if ``both_ways``.

    Return its accuracy, loss, megabytes up and down, and seconds.
    """
    codec = packing(bits)
    downlink = codec.inner if both_ways and isinstance(codec, ErrorFeedback) else Identity()
    parts = {"codec": codec, "downlink": downlink}
    tables = {key: json.loads(to_json(part)) for key, part in parts.items()}
    strategy = {**experiment.get("strategy", {}), **tables}
    tables = {**experiment, "seed": 7, "engine": {"name": "inline"}, "strategy": strategy}
    rounds: list[Mapping[str, Any]] = []
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        run = run_experiment(
            Experiment.parse(tables), Path(directory) / "run", on_round=rounds.append
        )
    return {
        "bits": bits,
        "accuracy": run.final["accuracy"],
        "loss": run.final["loss"],
        "up": sum(line["bytes-up"] for line in rounds) / 1e6,
        "down": sum(line["bytes-down"] for line in rounds) / 1e6,
        "seconds": time.monotonic() - started,
    }


def checks(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the checks of lost accuracy and saved bytes, for rows with packed updates only."""
    for row in (row for row in rows if not row["both ways"]):
        if row["task"] == "digits, attacked" and row["bits"] == 4:
            yield check("digits, attacked, 4 bits: accuracy lost", row["lost"], 0.03, upper=True)
        elif row["bits"] in MAX_ACCURACY_LOSS and row["task"] != "digits, attacked":
            where = f"{row['task']}, {row['bits']:g} bits"
            yield check(
                f"{where}: accuracy lost", row["lost"], MAX_ACCURACY_LOSS[row["bits"]], upper=True
            )
            yield check(f"{where}: fewer bytes up", row["smaller"], MIN_COMPRESSION[row["bits"]])


def main() -> int:
    """Run every experiment with every codec, print the table, write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--quick", action="store_true", help="only the digits, at 32, 4 and 2 bits")
    parser.add_argument("--data-dir", default=os.environ.get("HQDE_FL_DATA", ""))
    parser.add_argument("--model", choices=("cnn", "mlp"), default="cnn", help="Fashion-MNIST's")
    parser.add_argument("--bits", type=float, nargs="+", help="32 has to be the first")
    parser.add_argument("--task", default="", help="only experiments whose name starts so")
    options = parser.parse_args()
    torch.set_num_threads(1)
    getLogger("flwr").setLevel(ERROR)
    levels = options.bits or ([32, 4, 2] if options.quick else [32, 16, 8, 4, 2, 1])
    rows: list[dict[str, Any]] = []
    print(
        f"{'task':<30}{'bits':>6}{'accuracy':>10}{'lost':>9}{'loss':>8}{'MB up':>9}{'smaller':>9}"
        f"{'MB down':>9}{'MB':>9}{'smaller':>9}{'seconds':>9}\n{'-' * 117}"
    )
    for name, experiment in experiments(options.data_dir, options.model, options.quick):
        if not name.startswith(options.task):
            continue
        plain = None
        for bits, both_ways in (
            *((bits, False) for bits in levels),
            *((bits, True) for bits in (4, 2) if bits in levels),
        ):
            row = measure(experiment, bits, both_ways)
            plain = plain or row
            row["both ways"] = both_ways
            row["task"], row["lost"] = name, plain["accuracy"] - row["accuracy"]
            row["smaller"] = plain["up"] / row["up"]
            row["total"] = row["up"] + row["down"]
            row["all smaller"] = (plain["up"] + plain["down"]) / row["total"]
            rows.append(row)
            label = f"{name}{', both ways' * both_ways}"
            print(
                f"{label:<30}{bits:6g}{row['accuracy']:10.4f}{row['lost']:9.4f}{row['loss']:8.4f}"
                f"{row['up']:9.3f}{row['smaller']:9.2f}{row['down']:9.3f}{row['total']:9.3f}"
                f"{row['all smaller']:9.2f}{row['seconds']:9.1f}",
                flush=True,
            )
    return conclude(rows, checks(rows), options.json, machine())


if __name__ == "__main__":
    sys.exit(main())
