"""Simulated speeds, bandwidths and drop-outs in experiments; mistakes are one line each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.engines.flower_internals import HttpGrid
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.heterogeneity import LogUniformSpeed, RandomDropOut
from hqde_fl.simulations.run import run_experiment
from hqde_fl.simulations.server_app import serve

TINY = {
    "seed": 7,
    "rounds": 2,
    "task": {"name": "digits", "hidden": 8},
    "clients": {"count": 5, "lr": 0.1},
    "engine": {"name": "inline"},
}
SPEED = {"name": "log-uniform", "seconds-per-example": 0.01, "ratio": 100}

TRACE = """client, round, seconds-per-example, up, down, latency, available
0,, 0.01, 10, 50, 0.1, true
1,, 0.02, 10, 50, 0.1, 1
2,, 0.04, 10, 50, , 1.0
3,, 0.08, 10, 50, 0.1, false
4,, 0.16, 10, 50, 0.1, true
0, 2, 1.0, , , , false
3, 2, , , , , true
"""


def lines(out: Path, name: str = "rounds.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / name).read_text().splitlines()]


def run(out: Path, clients: Mapping[str, Any], **more: Any) -> list[dict[str, Any]]:
    """Run an experiment with these settings of clients; return the rounds' lines."""
    table = {**TINY, **more, "clients": {**TINY["clients"], **clients}}  # type: ignore[dict-item]
    run_experiment(Experiment.parse(table), out, report=False)
    return lines(out)


def turnarounds(out: Path, number: int = 1) -> dict[int, float]:
    found = [line for line in lines(out, "clients.jsonl") if line["round"] == number]
    return {line["partition"]: line["virtual-turnaround"] for line in found}


def reasons(out: Path, number: int = 1) -> dict[int, str | None]:
    found = [line for line in lines(out, "clients.jsonl") if line["round"] == number]
    return {line["partition"]: line["reason"] for line in found}


def test_a_deadline_in_virtual_time_makes_the_slow_ones_late(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", {"speed": SPEED})
    times = turnarounds(tmp_path / "whole")
    assert max(times.values()) > 3 * min(times.values())
    assert whole[1]["virtual-time"] == max(times.values())
    assert whole[2]["virtual-time"] == pytest.approx(2 * max(times.values()))
    deadline = sorted(times.values())[2] + 1e-6
    cut = run(tmp_path / "cut", {"speed": SPEED}, strategy={"deadline": deadline})
    assert cut[2]["virtual-time"] == pytest.approx(2 * deadline)
    late = {client for client, reason in reasons(tmp_path / "cut").items() if reason == "late"}
    assert late == {client for client, seconds in times.items() if seconds > deadline}
    assert len(late) == 2
    assert turnarounds(tmp_path / "cut") == times


def test_without_them_there_is_no_virtual_time(tmp_path: Path) -> None:
    assert [line["virtual-time"] for line in run(tmp_path / "run", {})] == [None] * 3


def test_faults_change_no_virtual_time(tmp_path: Path) -> None:
    slow = {"speed": SPEED, "bandwidth": "constant"}
    run(tmp_path / "honest", slow)
    honest = turnarounds(tmp_path / "honest")
    for fault in (
        {"name": "num-examples", "claim": 1},
        {"name": "num-examples", "claim": 1e9},
        {"name": "num-examples", "claim": -5},
        {"name": "sign-flip"},
        {"name": "ipm"},
    ):
        out = tmp_path / f"{fault['name']}-{fault.get('claim')}"
        run(out, slow, rounds=1, faults=[{**fault, "count": 2}])
        assert turnarounds(out) == honest


def test_a_straggler_is_slow_in_virtual_time_and_nobody_waits(tmp_path: Path) -> None:
    run(tmp_path / "honest", {"speed": SPEED}, rounds=1)
    faults = [{"name": "straggle", "clients": [2], "seconds": 1e6, "start": 2}]
    run(tmp_path / "run", {"speed": SPEED}, faults=faults, strategy={"deadline": 1000})
    honest = turnarounds(tmp_path / "honest")
    assert turnarounds(tmp_path / "run", 1) == honest
    assert turnarounds(tmp_path / "run", 2) == {**honest, 2: honest[2] + 1e6}
    assert reasons(tmp_path / "run", 2)[2] == "late"


def test_packed_messages_take_less_virtual_time(tmp_path: Path) -> None:
    slow = {"bandwidth": {"name": "constant", "up": 0.1, "down": 0.1}}
    quantized = {"name": "quantized", "bits": 4}
    seconds = {
        name: run(tmp_path / name, slow, rounds=3, strategy=strategy)[-1]["virtual-time"]
        for name, strategy in {
            "none": {},
            "up": {"codec": quantized},
            "both": {"codec": quantized, "downlink": quantized},
        }.items()
    }
    # up: three uploads of an eighth; both: two downloads of an eighth, too
    whole = seconds["none"] / 6
    assert seconds["up"] == pytest.approx((3 + 3 / 8) * whole, rel=0.15)
    assert seconds["both"] == pytest.approx((1 + 5 / 8) * whole, rel=0.25)


def test_drop_outs_are_failed_clients(tmp_path: Path) -> None:
    drop_out = {"drop-out": 0.4}
    run(tmp_path / "real", drop_out)
    run(tmp_path / "virtual", {**drop_out, "speed": SPEED})
    run(tmp_path / "crash", drop_out, faults=[{"name": "crash", "count": 1}])
    for number in (1, 2):
        gone = {c for c, reason in reasons(tmp_path / "real", number).items() if reason}
        named = {reasons(tmp_path / "real", number)[client] for client in gone}
        assert named <= {"failed: dropped out (simulated)"}
        assert reasons(tmp_path / "virtual", number) == reasons(tmp_path / "real", number)
        crashed = reasons(tmp_path / "crash", number)
        assert gone <= {client for client, reason in crashed.items() if reason}
    failed = [line["failed"] for line in lines(tmp_path / "real")[1:]]
    assert 0 < sum(failed) < 10
    assert lines(tmp_path / "real")[1]["virtual-time"] is None


def test_a_trace_has_speeds_bandwidths_and_drop_outs_by_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "devices.csv").write_text(TRACE)
    rows = [
        {"client": client, "seconds-per-example": 0.01 * 2**client, "up": 10, "down": 50}
        | {"available": client != 3, **({} if client == 2 else {"latency": 0.1})}
        for client in range(5)
    ]
    rows += [
        {"client": 0, "round": 2, "seconds-per-example": 1, "available": 0},
        {"client": 3, "round": 2, "available": True},
    ]
    (tmp_path / "devices.json").write_text(json.dumps(rows))
    monkeypatch.chdir(tmp_path)
    for kind in ("csv", "json"):
        out, trace = tmp_path / kind, {"name": "trace", "file": f"devices.{kind}"}
        run(out, {"speed": trace, "bandwidth": trace, "drop-out": trace})
        assert {c for c, reason in reasons(out, 1).items() if reason} == {3}
        assert {c for c, reason in reasons(out, 2).items() if reason} == {0}
        first, second = turnarounds(out, 1), turnarounds(out, 2)
        assert (first[1] - 0.1) / first[2] == pytest.approx(0.5, rel=0.02)
        assert second[3] / second[2] == pytest.approx(2, rel=0.02)
        assert {c: second[c] for c in (1, 2, 4)} == {c: first[c] for c in (1, 2, 4)}


OWN = """
from dataclasses import dataclass

import numpy as np

from hqde_fl.simulations.heterogeneity import Bandwidth, Connection, DropOut, Speed


@dataclass(frozen=True)
class Halves(Speed):
    slow: float = 2.0

    def seconds(self, client, server_round, seeds):
        return np.float32(self.slow) if client % 2 else 1.0


@dataclass(frozen=True)
class Raises(Speed):
    def seconds(self, client, server_round, seeds):
        return {}[client]


@dataclass(frozen=True)
class Negative(Speed):
    def seconds(self, client, server_round, seeds):
        return -1.0


@dataclass(frozen=True)
class Line(Bandwidth):
    def connection(self, client, server_round, seeds):
        return 5


@dataclass(frozen=True)
class Always(DropOut):
    def chance(self, client, server_round, seeds):
        return 2


@dataclass(frozen=True)
class Words(DropOut):
    def chance(self, client, server_round, seeds):
        return "often"
"""


def test_a_speed_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_speed.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    run(tmp_path / "run", {"speed": {"name": "own_speed.py:Halves", "slow": 3}}, rounds=1)
    times = turnarounds(tmp_path / "run")
    assert times[1] / times[0] == pytest.approx(3, rel=0.01)


def test_parts_written_in_python() -> None:
    given = Experiment(
        clients={"speed": LogUniformSpeed(ratio=4.0), "drop_out": RandomDropOut(0.1)}
    )
    read = Experiment.parse(
        {"clients": {"speed": {"name": "log-uniform", "ratio": 4}, "drop-out": 0.1}}
    )
    assert given.to_table() == read.to_table()
    assert Experiment.from_json(read.to_json()).to_table() == read.to_table()
    assert read.parts.heterogeneity.drop_out == RandomDropOut(0.1)


MISTAKES = {
    "a near name": ("clients.speed=log-unifrom", "unknown speed 'log-unifrom': did you mean"),
    "a near key": ("clients.sped=log-uniform", "did you mean 'speed'?"),
    "a near parameter": (
        'clients.speed={name="log-uniform",ration=4}',
        "parameter 'ration' does not belong to speed 'log-uniform': did you mean 'ratio'?",
    ),
    "a ratio below 1": (
        'clients.speed={name="log-uniform",ratio=0.5}',
        "LogUniformSpeed.ratio must be finite and >= 1, found 0.5",
    ),
    "no time": (
        'clients.speed={name="log-uniform",seconds-per-example=0}',
        "LogUniformSpeed.seconds_per_example must be finite and > 0, found 0.0",
    ),
    "a negative jitter": (
        'clients.speed={name="log-uniform",jitter=-1}',
        "jitter must be in [0, 10]",
    ),
    "no line": ('clients.bandwidth={name="constant",up=0}', "ConstantBandwidth.up must be"),
    "a negative latency": (
        'clients.bandwidth={name="log-uniform",latency=-1}',
        "LogUniformBandwidth.latency must be finite and >= 0, found -1.0",
    ),
    "a text for a number": ('clients.bandwidth={name="constant",up="10"}', "valid number, found"),
    "a bandwidth without a name": ("clients.bandwidth={up=10}", "clients.bandwidth needs a name"),
    "a probability above 1": ("clients.drop-out=1.5", "must be in [0, 1], found 1.5"),
    "a probability that is none": (
        "clients.drop-out=true",
        "clients.drop-out needs to be a name or a table",
    ),
    "drop-outs without a chance": ("clients.drop-out=random", "'random' needs probability"),
    "no such file": (
        'clients.speed={name="trace",file="devcies.csv"}',
        "speed 'trace': there is no file 'devcies.csv' in ",
    ),
    "a trace of too few": (
        'clients.speed={name="trace",file="few.csv"}',
        "speed 'trace': few.csv needs seconds-per-example of every client, of 4, found none of "
        "client 2",
    ),
    "an unknown column": (
        'clients.speed={name="trace",file="column.csv"}',
        "unknown column in speed 'trace': column.csv, row 1: 'speeed'",
    ),
    "a bad value": (
        'clients.drop-out={name="trace",file="value.csv"}',
        "value.csv, row 2: available must be in [0, 1], found '1.5'",
    ),
    "no JSON": ('clients.speed={name="trace",file="no.json"}', "no.json cannot be read: "),
    "another JSON": ('clients.speed={name="trace",file="a.json"}', "needs to be a list of objects"),
    "a client twice": (
        'clients.drop-out={name="trace",file="twice.csv"}',
        "row 2: a second available of client 0 from round 1",
    ),
    "more values than columns": (
        'clients.speed={name="trace",file="more.csv"}',
        "more.csv cannot be read: row 2 has more values than there are columns",
    ),
    "an error of one's own": (
        "clients.speed=own_speed.py:Raises",
        "speed Raises() raised KeyError: 3 (own_speed.py, line 20, in seconds)",
    ),
    "a negative speed": ("clients.speed=own_speed.py:Negative", "a finite number >= 0, found -1.0"),
    "no connection": ("clients.bandwidth=own_speed.py:Line", "must return a Connection, found 5"),
    "an own chance above 1": ("clients.drop-out=own_speed.py:Always", "must be in [0, 1], found 2"),
    "a chance in words": ("clients.drop-out=own_speed.py:Words", "in [0, 1], found 'often'"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mistakes")
    files = {
        "own_speed.py": OWN,
        "few.csv": "client,seconds-per-example\n0,1\n1,1\n3,1\n",
        "column.csv": "client,speeed\n0,1\n",
        "value.csv": "client,available\n0,1\n1,1.5\n",
        "no.json": "{",
        "a.json": '{"client": 0}',
        "twice.csv": "client,available\n0,1\n0,0\n",
        "more.csv": "client,seconds-per-example\n0,1\n1,0,5\n",
        "run.toml": "[clients]\ncount = 4\n[engine]\nname = 'inline'\n",
    }
    for name, content in files.items():
        (folder / name).write_text(content)
    return folder


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_before_anything_starts(folder: Path, mistake: str) -> None:
    setting, message = MISTAKES[mistake]
    with pytest.raises(ConfigError) as caught:
        Experiment.load(folder / "run.toml", [setting]).try_parts()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("setting", ["speed", "bandwidth", "drop-out"])
def test_real_nodes_have_their_own_speed(tmp_path: Path, setting: str) -> None:
    value = {"speed": "log-uniform", "bandwidth": "constant", "drop-out": 0.5}[setting]
    experiment = Experiment.parse({"clients": {setting: value}, "engine": {"name": "flower"}})
    says = rf"clients\.{setting} is for simulated clients: real nodes have their own"
    with pytest.raises(ConfigError, match=says):
        run_experiment(experiment, tmp_path / "run", superlink="federation")
    grid = HttpGrid("127.0.0.1:1", insecure=True, token="secret")
    with pytest.raises(ConfigError, match=says):
        serve(grid, experiment, experiment.load_task(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
