"""Kill a run with SIGKILL at random moments, resume it, and compare it with an undisturbed run.

Every run is a separate process (``hqde-fl run FILE --resume DIR``), killed at random moments up to
the last round but one, and every fourth time during its start. The result must be the same final
model to the bit, and the same records except for seconds.

    python benchmarks/crashes.py [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from hqde_fl.simulations.experiment.experiment import Experiment

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.reporting import check, conclude, machine  # noqa: E402

FEEDBACK = {
    "codec": {
        "name": "error-feedback",
        "inner": {"name": "quantized", "bits": 4, "unbiased": False},
    },
    "downlink": {"name": "quantized", "bits": 4, "unbiased": False},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "error feedback, downlink": FEEDBACK,
    "kept optimizer": {},
    "control variates": {},
}
"""Variant -> its keys of the table ``[strategy]``."""

CLIENT_KEYS: dict[str, dict[str, Any]] = {
    "kept optimizer": {"epochs": 1, "steps": 200, "dampening": 0.5, "keep-optimizer": True},
    "control variates": {"momentum": 0.0, "control-variates": True},
}
"""Variant -> its keys of the table ``[clients]``."""
TASK: dict[str, Any] = {
    "seed": 5,
    "task": {"name": "digits", "hidden": 16},
    "clients": {"count": 6, "epochs": 40, "lr": 0.1, "momentum": 0.5},  # rounds that last a while
}
RULE = {
    "rule": {"name": "byzantine-filter"},
    "server-optimizer": {"name": "adam"},
    "fraction-train": 0.7,
}
MAX_ROUND_SECONDS = 600.0  # seconds for a round, on a machine that is busy with other things


@dataclass(frozen=True)
class Drill:
    """The result of a run that was killed and resumed repeatedly.

    Parameters
    ----------
    kills : int
        Number of kills.
    rounds : tuple[int, ...]
        Last recorded round at each kill; -1 for none.
    resumed : tuple[int | None, ...]
        Rounds after which the run was resumed, according to its manifest.
    same_model, same_records : bool
        True if the final model, and the records, equal those of the undisturbed run.
    seconds : float
        Duration of both runs in seconds.
    """

    kills: int
    rounds: tuple[int, ...]
    resumed: tuple[int | None, ...]
    same_model: bool
    same_records: bool
    seconds: float


def drill(directory: Path, experiment: Experiment, kills: int, seed: int = 0) -> Drill:
    """Run an experiment undisturbed, and once more with kills, and compare the results.

    Parameters
    ----------
    directory : Path
        Directory for both run directories.
    experiment : Experiment
        The experiment to run.
    kills : int
        Number of kills.
    seed : int, default=0
        Seed of the moments of the kills.
    """
    file, whole, broken = (directory / name for name in ("drill.toml", "whole", "broken"))
    file.write_text(tomli_w.dumps(experiment.to_table()))
    started = time.monotonic()
    undisturbed = _start(file, whole)
    _await_round(whole, 1, undisturbed)
    start = time.monotonic() - started
    assert undisturbed.wait() == 0, "the undisturbed run failed"
    seconds = (time.monotonic() - started - start) / (experiment.rounds - 1)  # of a round
    chance = random.Random(seed)
    moments = sorted(chance.uniform(0.0, experiment.rounds - 2) for _ in range(kills))
    killed_in = []
    for kill, moment in enumerate(moments):
        process = _start(file, broken)
        if kill % 4 == 1:
            # while it starts, mostly; at half of the rounds at the latest, so that it comes in time
            _await_round(broken, experiment.rounds // 2, process, chance.uniform(0.0, start))
        else:
            _await_round(broken, int(moment), process)
            time.sleep(moment % 1 * seconds)
        process.kill()
        if process.wait() == 0:
            break  # the run ended before the kill
        killed_in.append(last_round(broken))
    assert _start(file, broken).wait() == 0, "the last resumption failed"
    manifest = json.loads((broken / "manifest.json").read_text())
    records = ("rounds.jsonl", "clients.jsonl")
    return Drill(
        len(killed_in),
        tuple(killed_in),
        tuple(resumption["round"] for resumption in manifest["resumed"]),
        _bytes(whole) == _bytes(broken),
        all(comparable(whole / name) == comparable(broken / name) for name in records),
        time.monotonic() - started,
    )


def last_round(run: Path) -> int:
    """Return the last recorded round of a run directory; -1 if there is none."""
    lines = comparable(run / "rounds.jsonl")
    return int(lines[-1]["round"]) if lines else -1


def comparable(path: Path) -> list[Any]:
    """Return the complete lines of a JSON Lines file without durations, which differ by run.

    There are none if there is no such file.
    """
    text = path.read_text() if path.exists() else ""
    return [_timeless(json.loads(line)) for line in text[: text.rfind("\n") + 1].splitlines()]


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if not k.endswith("seconds")}
    return [_timeless(entry) for entry in value] if isinstance(value, list) else value


def _bytes(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes()


def _start(file: Path, run: Path) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "hqde_fl.simulations.console.entry",
        "run",
        str(file),
        "--resume",
        str(run),
    ]
    with (run.parent / f"{run.name}.log").open("ab") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def _await_round(
    run: Path, number: int, process: subprocess.Popen[bytes], patience: float = MAX_ROUND_SECONDS
) -> None:
    """Wait until the process has recorded the round ``number`` or a later one, or has ended.

    After ``patience`` seconds the function returns in any case.
    """
    end, before = time.monotonic() + patience, _resumptions(run)
    while process.poll() is None and time.monotonic() < end:
        begun = before is None or (_resumptions(run) or 0) > before  # old lines are cut by then
        if begun and last_round(run) >= number:
            return
        time.sleep(0.005)


def _resumptions(run: Path) -> int | None:
    try:
        return len(json.loads((run / "manifest.json").read_text())["resumed"])
    except FileNotFoundError:
        return None


def checks(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return two checks of each row: same final model, same records as the undisturbed run."""
    results = []
    for row in rows:
        name = f"{row['engine']}, {row['variant']}"
        for key, what in (("same_model", "the final model"), ("same_records", "the records")):
            claim = f"{name}: {what} as without {row['kills']} kills"
            results.append(check(claim, int(row[key]), 1))
    return results


def main() -> int:
    """Run the drills, print the table, write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--quick", action="store_true", help="4 kills, error feedback only")
    parser.add_argument("--engine", choices=("inline", "ray"), help="only this one")
    parser.add_argument("--variant", choices=tuple(VARIANTS), help="only this one")
    parser.add_argument("--kills", type=int, default=20)
    options = parser.parse_args()
    kills = 4 if options.quick else options.kills
    rows: list[dict[str, Any]] = []
    print(f"{'engine':<8}{'variant':<26}{'kills':>6}  {'model':<10}{'records':<10}{'seconds':>8}")
    for engine in (options.engine,) if options.engine else ("inline", "ray"):
        for variant, strategy in VARIANTS.items():
            if (options.quick and not strategy) or options.variant not in (None, variant):
                continue
            table: dict[str, Any] = {
                "name": "drill",
                "rounds": 10,
                "strategy": {**RULE, **strategy},
                **TASK,
            }
            table["clients"] = {**TASK["clients"], **CLIENT_KEYS.get(variant, {})}
            experiment = Experiment.parse({**table, "engine": {"name": engine}})
            with tempfile.TemporaryDirectory() as directory:
                result = drill(Path(directory), experiment, kills)
            rows.append({"engine": engine, "variant": variant, **vars(result)})
            verdicts = [
                "same" if same else "DIFFERS" for same in (result.same_model, result.same_records)
            ]
            print(
                f"{engine:<8}{variant:<26}{result.kills:>6}  {verdicts[0]:<10}{verdicts[1]:<10}"
                f"{result.seconds:>8.1f}\n        killed in round {list(result.rounds)}\n"
                f"        went on after {list(result.resumed)}",
                flush=True,
            )
    return conclude(rows, checks(rows), options.json, machine())


if __name__ == "__main__":
    sys.exit(main())
