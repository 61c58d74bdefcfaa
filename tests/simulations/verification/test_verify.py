"""A sound run passes verification; whatever is changed in it afterwards is found."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from benchmarks.verification import rewrite_rounds
from hqde_fl.errors import ConfigError
from hqde_fl.protocol.records import from_record
from hqde_fl.simulations.checkpoint import container
from hqde_fl.simulations.checkpoint.store import TREE, Store, file_of
from hqde_fl.simulations.console import command_line
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.recording.round_chain import (
    CHAIN_HASH,
    MODEL_HASH,
    model_hash,
)
from hqde_fl.simulations.recording.weights_file import weights_to_bytes
from hqde_fl.simulations.run import run_experiment
from hqde_fl.simulations.verification.chain_check import (
    Mismatch,
    check_chain,
    check_models,
)
from hqde_fl.simulations.verification.recomputation import Recomputation
from hqde_fl.simulations.verification.spot_check import (
    choose_rounds,
    detection_probability,
    spot_check,
    stretches,
)
from tests.simulations.checkpoint.test_resume import PARTS, TINY

ALL = {"checkpoint": {"keep": 0}}


def record(out: Path, **changes: Any) -> Run:
    run_experiment(Experiment.parse({**TINY, **ALL, **changes}), out, report=False)
    return Run.load(out)


def findings(run: Run) -> list[Mismatch]:
    """Return what a check of everything finds, in the order of the rounds."""
    numbers = [line["round"] for line in run.rounds[1:]]
    recomputation = Recomputation(run)
    computed = spot_check(recomputation, stretches(numbers, recomputation.bases()))
    found = [*check_chain(run), *check_models(run), *computed]
    return sorted(found, key=lambda finding: finding.round)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(command_line.app, [*map(str, arguments)])


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of ten rounds with all its checkpoints."""
    out = tmp_path_factory.mktemp("recorded") / "run"
    record(out, rounds=10, strategy={"rule": "centered-clipping"}, faults=[SIGN_FLIP])
    return out


SIGN_FLIP = {"name": "sign-flip", "clients": [1]}


@pytest.fixture
def forged(recorded: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be changed."""
    return Path(shutil.copytree(recorded, tmp_path / "forged"))


MORE_PARTS: dict[str, dict[str, Any]] = PARTS | {
    "seeded privacy": {
        "privacy": {"clipping-norm": 1.0, "noise-multiplier": 1.0, "noise": "seeded-gaussian"},
        "strategy": {"rule": "mean"},
    },
    "frozen entries": {"task": {"name": "tests.simulations.odd_tasks:frozen_backbone"}},
}


@pytest.mark.parametrize("part", MORE_PARTS)
def test_runs_of_every_kind_are_computed_again_to_the_bit(part: str, tmp_path: Path) -> None:
    run = record(tmp_path / "run", **MORE_PARTS[part])
    assert findings(run) == []


def test_the_chain_is_the_same_on_every_engine_and_after_a_resumption(
    recorded: Path, tmp_path: Path
) -> None:
    whole = Run.load(recorded)
    experiment = Experiment.parse(whole.manifest["experiment"])
    first = Experiment.parse({**whole.manifest["experiment"], "rounds": 4})
    run_experiment(first, tmp_path / "run", report=False)
    run_experiment(experiment, tmp_path / "run", engine="ray", report=False, resume=True)
    resumed = Run.load(tmp_path / "run")
    hashes = [(line[MODEL_HASH], line[CHAIN_HASH]) for line in whole.rounds]
    assert [(line[MODEL_HASH], line[CHAIN_HASH]) for line in resumed.rounds] == hashes


@pytest.mark.parametrize("key", ["kept", "server", "f", MODEL_HASH, CHAIN_HASH, "round"])
def test_a_changed_line_breaks_the_chain(forged: Path, key: str) -> None:
    def change(line: dict[str, Any]) -> None:
        if line["round"] == 4:
            line[key] = {"accuracy": 0.99} if key == "server" else 7

    rewrite_rounds(forged, change, chained=False)
    found = {finding.round for finding in check_chain(Run.load(forged))}
    assert (7 if key == "round" else 4) in found


def test_a_removed_round_or_client_breaks_the_chain(forged: Path) -> None:
    lines = (forged / "rounds.jsonl").read_text().splitlines(keepends=True)
    (forged / "rounds.jsonl").write_text("".join(lines[:5] + lines[6:]))
    assert Mismatch(6, "stands where round 5 should") in [*check_chain(Run.load(forged))]
    (forged / "rounds.jsonl").write_text("".join(lines))
    clients = (forged / "clients.jsonl").read_text().splitlines(keepends=True)
    (forged / "clients.jsonl").write_text("".join(clients[1:]))
    assert [finding.round for finding in check_chain(Run.load(forged))] == [1]


def test_a_run_that_was_cut_off_is_noticed(forged: Path) -> None:
    """The last two rounds are taken away, with their clients and checkpoints."""
    lines = (forged / "rounds.jsonl").read_text().splitlines(keepends=True)
    (forged / "rounds.jsonl").write_text("".join(lines[:-2]))
    clients = (forged / "clients.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in clients if json.loads(line)["round"] <= 8]
    (forged / "clients.jsonl").write_text("".join(kept))
    shutil.rmtree(forged / "checkpoint")
    run = Run.load(forged)
    assert [finding.what for finding in [*check_chain(run), *check_models(run)]] == [
        "is the last one, of 10, though the run has finished",
        "its metrics are not the final ones in manifest.json",
        "model.safetensors has another model-sha256",
    ]


def test_a_run_that_goes_on_is_refused(forged: Path) -> None:
    manifest = json.loads((forged / "manifest.json").read_text())
    (forged / "manifest.json").write_text(json.dumps({**manifest, "status": "running"}))
    result = invoke("verify", forged)
    assert result.exit_code == 2
    assert "is a run that goes on" in result.output


def test_durations_are_not_chained(forged: Path) -> None:
    rewrite_rounds(forged, lambda line: line.update(seconds=1e6), chained=False)
    assert [*check_chain(Run.load(forged))] == []


def test_three_forged_rounds_in_a_new_chain_are_computed_again(forged: Path) -> None:
    """The forger has made the whole chain anew, so that only other results betray them."""

    def change(line: dict[str, Any]) -> None:
        if line["round"] in (3, 6, 9):
            line["server"]["accuracy"] = 0.999

    rewrite_rounds(forged, change, chained=True)
    run = Run.load(forged)
    assert [*check_chain(run), *check_models(run)] == []
    assert findings(run) == [
        Mismatch(number, "computed again, differs in server") for number in (3, 6, 9)
    ]
    result = invoke("verify", forged)
    assert result.exit_code == 1
    assert "round 6: computed again, differs in server" in result.output


def forge_model(path: Path, number: int) -> None:
    """Change the model after a round, its checkpoint and its line, and make the chain anew."""
    store = Store(path)
    snapshot = store.snapshot(number)
    model = snapshot.state.models[0]
    model = replace(model, flat=model.flat + 0.01)
    state = replace(snapshot.state, models=(model, *snapshot.state.models[1:]))
    container.write(store.path / file_of("round", number), TREE, replace(snapshot, state=state))

    def change(line: dict[str, Any]) -> None:
        if line["round"] == number:
            line[MODEL_HASH] = model_hash(state.arrays())

    rewrite_rounds(path, change, chained=True)


def test_a_forged_model_is_found_in_its_round_and_the_next(forged: Path) -> None:
    forge_model(forged, 5)
    run = Run.load(forged)
    assert [*check_chain(run), *check_models(run)] == []
    assert {finding.round for finding in findings(run)} == {5, 6}
    assert Mismatch(5, "its checkpoint holds other models") in findings(run)


def test_a_checkpoint_or_final_model_of_another_run_is_named(
    forged: Path, recorded: Path, tmp_path: Path
) -> None:
    other = record(tmp_path / "other", rounds=10, seed=8)
    name = file_of("round", 5)
    shutil.copyfile(other.path / "checkpoint" / name, forged / "checkpoint" / name)
    weights = from_record(Store(other.path).snapshot(10).state.arrays())
    (forged / "model.safetensors").write_bytes(weights_to_bytes(weights))
    assert [*check_models(Run.load(forged))] == [
        Mismatch(5, "its checkpoint's model has another model-sha256"),
        Mismatch(10, "model.safetensors has another model-sha256"),
    ]
    (forged / "checkpoint" / name).write_bytes(b"torn")
    (forged / "model.safetensors").write_bytes(b"torn")
    found = [*check_models(Run.load(forged))]
    assert [finding.round for finding in found] == [5, 10]
    assert "torn" in found[0].what


def test_without_checkpoints_rounds_are_computed_from_the_beginning(
    recorded: Path, forged: Path
) -> None:
    shutil.rmtree(forged / "checkpoint")
    result = invoke("verify", forged, "--spot", 2, "--seed", 1)
    assert result.exit_code == 0, result.output
    chosen = choose_rounds(Run.load(forged), 2, 1)
    assert f"{chosen[-1]} rounds have to be computed for these 2" in result.output
    assert "2 of 10 rounds computed again: all fits" in result.output


def test_a_run_without_a_chain_is_refused(forged: Path) -> None:
    rewrite_rounds(forged, lambda line: line.pop(CHAIN_HASH), chained=False)
    result = invoke("verify", forged)
    assert result.exit_code == 2
    assert "has no chain of hashes: it was recorded by an earlier version" in result.output


def test_a_run_without_rounds_is_refused(forged: Path) -> None:
    (forged / "rounds.jsonl").write_text("")
    result = invoke("verify", forged)
    assert result.exit_code == 2
    assert "has no rounds yet" in result.output


OWN_TASK = """
from hqde_fl.simulations.tasks.digits import Digits
from hqde_fl.simulations.tasks.partition import PARTITIONERS


def task(partitions, seed, partition):
    return Digits(hidden=8).build(PARTITIONERS.build(partition), seed)
"""


def test_a_run_with_an_own_task_is_verified_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tmp_path / "study"
    study.mkdir()
    (study / "own_verified_task.py").write_text(OWN_TASK)
    (study / "own.toml").write_text(
        'name = "own"\nrounds = 2\ntask = "own_verified_task:task"\n[clients]\ncount = 3\n'
    )
    monkeypatch.chdir(tmp_path)
    made = invoke("run", "study/own.toml", "--engine", "inline", "--out", tmp_path / "run")
    assert made.exit_code == 0, made.output
    monkeypatch.chdir("/")
    result = invoke("verify", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "2 of 2 rounds computed again: all fits" in result.output


def test_of_a_run_of_whoever_was_registered_only_the_chain_is_checked(forged: Path) -> None:
    manifest = json.loads((forged / "manifest.json").read_text())
    manifest["experiment"]["clients"]["registered"] = True
    (forged / "manifest.json").write_text(json.dumps(manifest))
    result = invoke("verify", forged)
    assert result.exit_code == 0
    assert "no round is computed again: only the registered nodes have its data" in result.stdout


def test_noise_from_a_secure_generator_cannot_be_computed_again(tmp_path: Path) -> None:
    secure = {"epsilon": 8.0, "noise": "secure-gaussian"}
    run = record(tmp_path / "run", rounds=1, clients={"count": 4, "local-dp": secure})
    with pytest.raises(ConfigError, match="noise came from a secure generator"):
        Recomputation(run)
    assert invoke("verify", run.path, "--spot", 0).exit_code == 0


def test_each_round_is_computed_from_the_last_checkpoint_before_it() -> None:
    found = stretches([2, 3, 7, 12], [0, 2, 5, 6, 10])
    assert [(stretch.base, stretch.last) for stretch in found] == [(0, 2), (2, 3), (6, 7), (10, 12)]
    assert [(s.base, s.last) for s in stretches([3, 8], [0])] == [(0, 8)]


def test_forty_four_rounds_find_a_tenth_with_a_probability_of_99_percent() -> None:
    assert detection_probability(44, 10**6) == pytest.approx(1 - 0.9**44, abs=1e-3)
    assert detection_probability(44, 500) > 0.99
    assert detection_probability(5, 5) == 1.0
    assert detection_probability(0, 5) == 0.0


def test_chosen_rounds_differ_unless_they_are_seeded(recorded: Path) -> None:
    run = Run.load(recorded)
    assert choose_rounds(run, 4, 3) == choose_rounds(run, 4, 3)
    assert len({tuple(choose_rounds(run, 4)) for _ in range(20)}) > 1
    assert choose_rounds(run, 100) == [*range(1, 11)]


# --- replay ---------------------------------------------------------------------------------------


def test_a_replay_without_nobody_is_the_run(recorded: Path, tmp_path: Path) -> None:
    result = invoke("replay", recorded, "--out", tmp_path / "again")
    assert result.exit_code == 0, result.output
    assert "final model: the same to the bit" in result.output
    assert "records of all rounds: the same to the bit" in result.output


def test_a_replay_leaves_clients_out_and_nothing_else(recorded: Path, tmp_path: Path) -> None:
    """In the first round the others send what they sent; the attacker among those left is out."""
    result = invoke("replay", recorded, "--without", "1,3", "--out", tmp_path / "again")
    assert result.exit_code == 0, result.output
    assert "final model: others" in result.output
    before, after = Run.load(recorded), Run.load(tmp_path / "again")
    assert {line["partition"] for line in after.clients} == {0, 2}
    sent = {line["partition"]: line["bytes-up"] for line in before.clients if line["round"] == 1}
    assert all(line["bytes-up"] == sent[line["partition"]] for line in after.clients[:2])
    assert before.rounds[0] | {"seconds": 0} == after.rounds[0] | {"seconds": 0}
    assert after.manifest["experiment"]["clients"]["without"] == [1, 3]


def test_left_out_clients_do_not_change_who_is_chosen(tmp_path: Path) -> None:
    parts = {"rounds": 5, "strategy": {"rule": "mean", "fraction-train": 0.5}}
    clients = {"count": 8, "lr": 0.1}
    whole = record(tmp_path / "whole", clients=clients, **parts)
    less = record(tmp_path / "less", clients={**clients, "without": [2, 5]}, **parts)

    def chosen(run: Run) -> set[tuple[int, int]]:
        return {(line["round"], line["partition"]) for line in run.clients}

    assert chosen(less) == {pair for pair in chosen(whole) if pair[1] not in (2, 5)}
    assert len(chosen(less)) < len(chosen(whole))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clients": {"count": 4, "without": [4]}}, "below clients.count = 4, found 4"),
        (
            {
                "clients": {"count": 5, "without": [0, 1]},
                "strategy": {"rule": {"name": "trimmed-mean", "f": 2}},
            },
            r"needs at least 5 updates, found 3 \(5 clients, .*clients.without = \[0, 1\]",
        ),
        ({"clients": {"count": 4, "without": [0]}, "edges": {"groups": 2}}, "edges.groups"),
    ],
)
def test_clients_that_cannot_be_left_out_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Experiment.parse({**TINY, **changes})


def test_a_list_that_is_none_is_refused(recorded: Path) -> None:
    result = invoke("replay", recorded, "--without", "one")
    assert result.exit_code == 2
    assert "--without must be partition ids such as 3,5, found 'one'" in result.output
