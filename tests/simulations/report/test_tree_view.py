"""The tree on the page of a run: of a rule's nodes, and of edges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hqde_fl.rules.tree_plan import Node, grow
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.experiment.hierarchy import HierarchyBound, bound_text
from hqde_fl.simulations.recording.comparison import Comparison
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.report import render
from hqde_fl.simulations.report.tree_view import MAX_DRAWN, tree_view
from hqde_fl.simulations.run import run_experiment

LINE: dict[str, Any] = {
    "name": "line",
    "seed": 3,
    "rounds": 2,
    "task": {"name": "tests.simulations.line_task:regression"},
    "clients": {"count": 9, "lr": 0.05},
    "engine": {"name": "inline"},
    "monitor": {"enabled": False},
}
MEDIANS = {"name": "tree", "leaf": "median", "root": "median", "fanout": 3}


def run(out: Path, rounds: int = 2, resume: bool = False, **tables: Any) -> Run:
    experiment = Experiment.parse({**LINE, "rounds": rounds, **tables})
    run_experiment(experiment, out, report=False, resume=resume)
    return Run.load(out)


def lines_of(run: Run, name: str) -> list[dict[str, Any]]:
    return [json.loads(text) for text in (run.path / name).read_text().splitlines()]


def test_every_node_of_a_tree_is_recorded_in_every_round_and_drawn(tmp_path: Path) -> None:
    recorded = run(tmp_path / "run", strategy={"rule": MEDIANS})
    lines = lines_of(recorded, "tree.jsonl")
    assert [(line["round"], line["node"]) for line in lines] == [
        (number, node) for number in (1, 2) for node in ("0/0", "0/1", "0/2", "0")
    ]
    size = 4 * 4  # numbers of the model, in float32
    assert {(line["children"], line["bytes"]) for line in lines} == {(3, 3 * size)}
    assert all(line["seconds"] > 0 for line in lines)
    view = tree_view(recorded)
    assert view is not None
    assert [(level.name, level.nodes) for level in view.levels] == [("root", 1), ("leaf nodes", 3)]
    assert (len(view.boxes), len(view.dots), view.clients) == (4, 9, 9)
    assert "tree" not in recorded.rounds[-1]
    assert "over 9 clients bears 3 faulty ones" in render(Comparison.of(recorded))


def test_a_resumed_run_has_each_round_of_its_tree_once(tmp_path: Path) -> None:
    run(tmp_path / "run", rounds=1, strategy={"rule": MEDIANS}, checkpoint={"every": 1})
    with (tmp_path / "run" / "tree.jsonl").open("a") as file:
        file.write('{"round": 2}\n')  # of a round that ended before its checkpoint
    recorded = run(
        tmp_path / "run", resume=True, strategy={"rule": MEDIANS}, checkpoint={"every": 1}
    )
    assert [line["round"] for line in lines_of(recorded, "tree.jsonl")] == [1] * 4 + [2] * 4


def test_edges_are_drawn_with_their_clients_and_bytes(tmp_path: Path) -> None:
    flip = [{"name": "sign-flip", "level": "edge", "clients": [2]}]
    edges = {"groups": 3, "rounds": 2, "rule": "median"}
    recorded = run(tmp_path / "run", edges=edges, strategy={"rule": "median"}, faults=flip)
    view = tree_view(recorded)
    assert view is not None
    server, clients = view.levels
    levels = recorded.rounds[-1]["edges"]
    assert (server.name, clients.name, clients.nodes) == ("server", "edges", 3)
    assert server.size == levels["edge-cloud"]["bytes-up"]
    assert clients.size == levels["client-edge"]["bytes-up"]
    assert clients.seconds > 0
    assert [box.bad for box in view.boxes] == [False, False, False, True]
    assert "hostile: sign-flip" in view.boxes[-1].title
    assert len(view.dots) == 9
    last = lines_of(recorded, "edges.jsonl")[-1]
    assert last["client-seconds"] > 0
    assert "<svg" in render(Comparison.of(recorded)).partition("Edges of the last round")[2]


def test_a_run_without_a_tree_draws_none(tmp_path: Path) -> None:
    recorded = run(tmp_path / "run")
    assert tree_view(recorded) is None
    assert not (recorded.path / "tree.jsonl").exists()
    assert "hierarchy" not in recorded.manifest
    assert "of the last round" not in render(Comparison.of(recorded))


def _lines(node: Node, path: str = "0") -> list[dict[str, Any]]:
    assert not isinstance(node, int)
    below = [_lines(c, f"{path}/{k}") for k, c in enumerate(node) if not isinstance(c, int)]
    level = 1 + below[0][-1]["level"] if below else 0
    own = {"member": 0, "node": path, "level": level, "children": len(node)}
    own |= {"round": 1, "bytes": 8 * len(node), "seconds": 0.1}
    return [line for lines in below for line in lines] + [own]


@pytest.mark.parametrize("n", [1, 2, 5, 64, 256, 1000])
def test_every_size_is_drawn_within_the_page(tmp_path: Path, n: int) -> None:
    text = "".join(json.dumps(line) + "\n" for line in _lines(grow(n, 4)))
    (tmp_path / "tree.jsonl").write_text(text)
    view = tree_view(Run(tmp_path, {}, (), ()))
    assert view is not None
    assert view.clients == n
    assert sum(level.nodes for level in view.levels) == text.count("\n")
    assert all(box.x >= 0 and box.x + box.width <= 1120 for box in view.boxes + view.bars)
    assert len(view.bars) == sum(level.nodes > MAX_DRAWN for level in view.levels)
    assert len(view.dots) == (n if n <= 256 else 0)


@pytest.mark.parametrize(
    ("clients", "tables", "borne", "hostile", "flat"),
    [
        (64, {"strategy": {"rule": {**MEDIANS, "fanout": 4}}}, 7, None, {"median": 31}),
        (9, {"strategy": {"rule": {"name": "tree"}}}, 0, None, {"mean": 0}),
        (16, {"edges": {"groups": 4, "rule": "median"}}, 1, 0, {"median": 7, "mean": 0}),
        (
            16,
            {"edges": {"groups": 4}, "strategy": {"rule": "median"}},
            1,
            1,
            {"mean": 0, "median": 7},
        ),
        (
            16,
            {"edges": {"groups": 4, "rule": "median"}, "strategy": {"rule": "median"}},
            3,
            1,
            {"median": 7},
        ),
        (
            9,
            {
                "edges": {"groups": [[0], [1, 2, 3], [4, 5, 6, 7, 8]], "rule": "median"},
                "strategy": {"rule": "median"},
            },
            2,
            1,
            {"median": 4},
        ),
    ],
    ids=["tree", "tree-of-means", "edges-alone", "root-alone", "both", "uneven"],
)
def test_the_bound_of_a_hierarchy_stands_beside_that_of_its_rules_over_all_clients(
    clients: int, tables: dict[str, Any], borne: int, hostile: int | None, flat: dict[str, int]
) -> None:
    experiment = Experiment.parse({**LINE, "clients": {"count": clients}, **tables})
    bound = HierarchyBound.of(experiment.parts)
    assert bound is not None
    table = bound.to_table()
    assert (bound.breakdown, table.get("hostile-edges"), dict(bound.flat)) == (borne, hostile, flat)
    text = bound_text(table)
    assert f"over {clients} clients" in text
    assert all(f"{rule} {bears}" in text for rule, bears in flat.items())
