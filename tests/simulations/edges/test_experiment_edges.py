"""Experiments with edges, on the inline engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hqde_fl.errors import ConfigError, RunError
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.run import run_experiment

LINE: dict[str, Any] = {
    "name": "line",
    "seed": 3,
    "rounds": 2,
    "task": {"name": "tests.simulations.line_task:regression"},
    "clients": {"count": 8, "lr": 0.05},
    "engine": {"name": "inline"},
    "monitor": {"enabled": False},
    "checkpoint": {"every": 0},
}
FLIP = {"name": "sign-flip", "scale": 20.0}


def line(**tables: Any) -> Experiment:
    given = {
        name: {**LINE.get(name, {}), **table} if isinstance(table, dict) else table
        for name, table in tables.items()
    }
    return Experiment.parse({**LINE, **given})


def run(out: Path, **tables: Any) -> Run:
    run_experiment(line(**tables), out, report=False)
    return Run.load(out)


def edge_lines(run: Run) -> list[dict[str, Any]]:
    return [json.loads(text) for text in (run.path / "edges.jsonl").read_text().splitlines()]


def rmse(run: Run) -> float:
    value = run.final["rmse"]
    assert value is not None
    return value


def assert_same_model(one: Run, other: Run, tolerance: float) -> None:
    first, second = (load_file(each.path / "model.safetensors") for each in (one, other))
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=0, atol=tolerance)


@pytest.mark.parametrize("groups", [3, [[5, 0], [1], [7, 6, 4, 3, 2]]])
def test_one_round_of_means_is_fedavg(tmp_path: Path, groups: Any) -> None:
    flat = run(tmp_path / "flat")
    assert_same_model(run(tmp_path / "edges", edges={"groups": groups}), flat, 1e-6)


def test_a_run_records_clients_edges_and_the_bytes_of_both_levels(tmp_path: Path) -> None:
    recorded = run(tmp_path / "run", edges={"groups": 4, "rounds": 3})
    assert [line["round"] for line in recorded.rounds] == [0, 1, 2]
    last = recorded.rounds[-1]
    assert (last["asked"], last["kept"]) == (4, 4)
    levels = last["edges"]
    assert levels["rounds"] == 12
    assert levels["edge-cloud"]["bytes-up"] == last["bytes-up"]
    assert 5 < levels["client-edge"]["bytes-up"] / levels["edge-cloud"]["bytes-up"] < 7
    assert [client["round"] for client in recorded.clients] == sorted(8 * list(range(1, 7)))
    assert {(c["partition"], c["edge"]) for c in recorded.clients} == {
        (client, client % 4) for client in range(8)
    }
    shares = [sum(c["influence"] for c in recorded.clients if c["round"] == n) for n in range(1, 7)]
    assert shares == pytest.approx([1.0] * 6)
    lines = edge_lines(recorded)
    assert [(each["round"], each["edge"]) for each in lines] == [
        (number, edge) for number in (1, 2) for edge in range(4)
    ]
    assert [part["round"] for part in lines[-1]["rounds"]] == [4, 5, 6]
    assert recorded.manifest["edges"] == {"count": 4, "rounds": 3, "breakdown": 0, "faulty": {}}


def test_hostile_edges_break_the_mean_and_not_the_median(tmp_path: Path) -> None:
    hostile = [{**FLIP, "count": 1, "level": "edge"}]
    options: dict[str, Any] = {"edges": {"groups": 4, "rounds": 3}}
    clean = rmse(run(tmp_path / "clean", **options))
    mean = run(tmp_path / "mean", faults=hostile, **options)
    median = run(tmp_path / "median", faults=hostile, strategy={"rule": "median"}, **options)
    assert rmse(mean) > 2 * clean
    assert rmse(median) < 1.25 * clean
    (faulty,) = median.manifest["edges"]["faulty"]
    assert {each["edge"] for each in edge_lines(median) if each["fault"]} == {int(faulty)}
    assert not any(client["fault"] for client in median.clients)


def test_faulty_clients_break_their_edge_unless_its_rule_bears_them(tmp_path: Path) -> None:
    options: dict[str, Any] = {"faults": [{**FLIP, "clients": [0, 1]}]}
    groups: dict[str, Any] = {"groups": [[0, 2, 3, 4], [1, 5, 6, 7]], "rounds": 3}
    mean = run(tmp_path / "mean", edges=groups, **options)
    median = run(tmp_path / "median", edges={**groups, "rule": "median"}, **options)
    assert rmse(mean) > 2 * rmse(median)
    assert {c["partition"] for c in median.clients if c["fault"] == "sign-flip"} == {0, 1}


def test_the_schedule_of_a_clients_fault_counts_the_edges_rounds(tmp_path: Path) -> None:
    faults = [{**FLIP, "clients": [0], "start": 2, "stop": 4}]
    recorded = run(tmp_path / "run", edges={"groups": 2, "rounds": 3}, faults=faults)
    assert {c["round"] for c in recorded.clients if c["fault"]} == {2, 3, 4}
    assert recorded.faulty == {0: "sign-flip"}


@pytest.mark.parametrize("level", ["client", "edge"])
def test_attackers_collude_among_the_clients_of_an_edge_or_among_edges(
    tmp_path: Path, level: str
) -> None:
    attack = {"name": "ipm", "epsilon": 50.0, "clients": [0, 1], "level": level}
    edges = {"groups": 4, "rounds": 2}
    clean = run(tmp_path / "clean", edges=edges)
    attacked = run(tmp_path / "attacked", edges=edges, faults=[attack])
    assert rmse(attacked) > 2 * rmse(clean)


def test_attackers_without_an_honest_client_in_their_group_know_the_other_groups(
    tmp_path: Path,
) -> None:
    """Their groups' model is far off; that of the others is not touched."""
    attack = {"name": "ipm", "epsilon": 50.0, "clients": [0, 1]}
    edges: dict[str, Any] = {"groups": [[0, 1], [2, 3], [4, 5], [6, 7]], "rounds": 2}
    clean = run(tmp_path / "clean", edges=edges)
    mean = run(tmp_path / "mean", edges=edges, faults=[attack])
    median = run(tmp_path / "median", edges=edges, faults=[attack], strategy={"rule": "median"})
    assert rmse(mean) > 2 * rmse(clean)
    assert rmse(median) < 1.25 * rmse(clean)


def test_an_adapted_attack_knows_the_rule_of_its_edge(tmp_path: Path) -> None:
    attack = {"name": "fang", "clients": [0, 1]}
    edges = {"groups": 2, "rule": {"name": "trimmed-mean", "f": 1}}
    recorded = run(tmp_path / "run", edges=edges, faults=[attack])
    assert recorded.rounds[-1]["kept"] == 2


FAULTS = [
    "crash",
    "free-ride",
    "garbage",
    "nan",
    "num-examples",
    "partial",
    "scaling",
    "stale",
    "statistics",
    "wrong-dtype",
    "wrong-shape",
    "zero",
    "infinity",
    "gaussian",
]


@pytest.mark.parametrize("fault", FAULTS)
def test_an_edge_may_have_any_fault_of_a_reply(tmp_path: Path, fault: str) -> None:
    faults = [{"name": fault, "clients": [1], "level": "edge"}]
    recorded = run(
        tmp_path / "run", edges={"groups": 4}, faults=faults, strategy={"rule": "median"}
    )
    assert recorded.rounds[-1]["kept"] in (3, 4)
    lines = [each for each in edge_lines(recorded) if each["edge"] == 1]
    assert all(each["fault"] == fault for each in lines)
    if fault in ("crash", "free-ride"):
        assert not any(each["rounds"] for each in lines)


def test_an_error_in_a_faults_own_code_ends_the_run(tmp_path: Path) -> None:
    faults = [{"name": "tests.simulations.edges.broken:Broken", "count": 1, "level": "edge"}]
    with pytest.raises(RunError, match=r"'Broken'.*no luck"):
        run(tmp_path / "run", edges={"groups": 4}, faults=faults)


def test_packed_links_of_both_levels(tmp_path: Path) -> None:
    feedback = {"name": "error-feedback", "inner": {"name": "quantized", "bits": 8}}
    packed = run(
        tmp_path / "packed",
        edges={"groups": 4, "rounds": 2, "codec": feedback, "downlink": "quantized"},
        strategy={"codec": feedback, "downlink": "quantized"},
    )
    plain = run(tmp_path / "plain", edges={"groups": 4, "rounds": 2})
    assert rmse(packed) == pytest.approx(rmse(plain), rel=0.05)
    assert all(line["missing"] == 0 for line in packed.rounds)


TIMED = {"speed": {"name": "log-uniform", "seconds-per-example": 0.01, "ratio": 4.0}}


def test_the_time_of_an_edge_is_the_sum_of_its_rounds_and_its_link(tmp_path: Path) -> None:
    link = {"name": "constant", "up": 1.0, "down": 1.0, "latency": 5.0}
    edges = {"groups": 4, "rounds": 3}
    fast = run(tmp_path / "fast", edges=edges, clients=TIMED)
    slow = run(tmp_path / "slow", edges={**edges, "bandwidth": link}, clients=TIMED)
    flat = run(tmp_path / "flat", clients=TIMED)
    times = [client["virtual-turnaround"] for client in flat.clients if client["round"] == 1]
    by_client = {c["partition"]: c["virtual-turnaround"] for c in flat.clients}
    slowest = [max(by_client[client] for client in (edge, edge + 4)) for edge in range(4)]
    lines = edge_lines(fast)
    assert [each["virtual-turnaround"] for each in lines[:4]] == pytest.approx(
        [3 * seconds for seconds in slowest]
    )
    assert fast.rounds[-1]["virtual-time"] == pytest.approx(2 * 3 * max(times))
    assert 10 < slow.rounds[-1]["virtual-time"] - fast.rounds[-1]["virtual-time"] < 10.1


def test_an_edge_that_straggles_beyond_the_deadline_is_late(tmp_path: Path) -> None:
    faults = [{"name": "straggle", "seconds": 500.0, "clients": [2], "level": "edge"}]
    recorded = run(
        tmp_path / "run",
        edges={"groups": 4},
        clients=TIMED,
        faults=faults,
        strategy={"deadline": 100.0},
    )
    assert [line["late"] for line in recorded.rounds] == [0, 1, 1]
    assert recorded.rounds[-1]["virtual-time"] == pytest.approx(400.0)


def test_the_honest_mean_is_that_of_the_honest_edges(tmp_path: Path) -> None:
    faults = [{**FLIP, "count": 1, "level": "edge"}]
    recorded = run(
        tmp_path / "run",
        edges={"groups": 4},
        faults=faults,
        metrics={"honest-mean": True},
        strategy={"rule": "median"},
    )
    assert recorded.rounds[-1]["honest-mean"]["ratio"] < 10


CONFLICTS: list[tuple[dict[str, Any], str]] = [
    ({"edges": {"groups": "x"}}, "edges.groups needs to be an integer or a list of lists"),
    ({"edges": {"groups": [[0, "1"]]}}, "edges.groups needs to be an integer or a list of lists"),
    ({"edges": {"groups": [[0], [1, 2]]}}, "each client needs an edge, found none for client 3"),
    ({"edges": {"rounds": 3}}, "edges.rounds needs edges.groups, found none"),
    ({"edges": {"groups": 2, "rounds": 0}}, "edges.rounds must be a whole number >= 1, found 0"),
    ({"faults": [{**FLIP, "count": 1, "level": "edge"}]}, "level = 'edge' needs edges.groups"),
    (
        {"edges": {"groups": 4}, "faults": [{"name": "kill", "count": 1, "level": "edge"}]},
        "fault 'kill' is one of clients",
    ),
    (
        {"edges": {"groups": 4}, "faults": [{**FLIP, "count": 9, "level": "edge"}]},
        "faults need 9 edges in all, found 4 edges",
    ),
    (
        {"edges": {"groups": 4}, "faults": [{**FLIP, "count": 1, "level": "egde"}]},
        "unknown faults.0.level 'egde': did you mean 'edge'?",
    ),
    (
        {"edges": {"groups": 4, "rule": {"name": "krum", "f": 2}}},
        "edges.rule .* needs at least 7 updates in each group, found 2",
    ),
    (
        {"edges": {"groups": 4}, "strategy": {"rule": {"name": "trimmed-mean", "f": 2}}},
        "needs at least 5 edges, found 4",
    ),
    ({"edges": {"groups": 4}, "strategy": {"quorum": 5}}, "quorum = 5 needs as many edges"),
    (
        {"edges": {"groups": 4, "bandwidth": "constant"}},
        "edges.bandwidth is in virtual time: it needs clients.speed",
    ),
    (
        {"edges": {"groups": 4}, "clients": {"members": 2, "assignment": "round-robin"}},
        "edges need clients that train all members",
    ),
    (
        {"edges": {"groups": 4, "rule": {"name": "nnm", "f": 0}}},
        "edges.rule .* is a pre-aggregation",
    ),
    (
        {"edges": {"groups": "node"}},
        "edges.count must be >= 1 where .*, found 0",
    ),
    ({"edges": {"count": 2}}, "edges.count needs edges.groups, found none"),
    ({"edges": {"groups": "node", "count": 9}}, "each of 9 edges needs at least 1 of 8 clients"),
    (
        {"edges": {"groups": "node", "count": 2, "nodes": True}},
        "edges.groups = 'node' needs edges.nodes = false",
    ),
    ({"edges": {"groups": 2, "rule": "nope"}}, "^edges.rule: unknown rule 'nope'"),
    ({"edges": {"groups": 2, "rule": {"name": "tree", "fanout": 1}}}, "^edges.rule: Tree needs"),
    ({"edges": {"groups": 2, "rule": {"name": "median", "f": 1}}}, "^edges.rule: parameter 'f'"),
    ({"edges": {"groups": 2, "codec": {"name": "quantized", "bits": 99}}}, "^edges.codec: Quanti"),
    ({"edges": {"groups": 2, "downlink": "nope"}}, "^edges.downlink: unknown codec 'nope'"),
    ({"edges": {"groups": 2, "bandwidth": "nope"}}, "^edges.bandwidth: unknown bandwidth"),
]


@pytest.mark.parametrize(("tables", "message"), CONFLICTS)
def test_tables_that_do_not_go_together_are_refused(tables: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        line(**tables)


def test_simulated_clients_are_dealt_where_nodes_would_name_their_edges(tmp_path: Path) -> None:
    named = run(tmp_path / "named", edges={"groups": "node", "count": 3, "rounds": 2})
    dealt = run(tmp_path / "dealt", edges={"groups": 3, "rounds": 2})
    assert_same_model(named, dealt, 0.0)
    assert {c["partition"]: c["edge"] for c in named.clients} == {p: p % 3 for p in range(8)}


def test_edges_that_are_nodes_need_real_nodes(tmp_path: Path) -> None:
    experiment = line(edges={"groups": 2, "nodes": True})
    with pytest.raises(ConfigError, match=r"edges\.nodes needs real nodes .* found simulated"):
        run_experiment(experiment, tmp_path / "run", report=False)
    assert not (tmp_path / "run").exists()
