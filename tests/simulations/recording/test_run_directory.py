import json
import math

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord

from hqde_fl.clients.objective import Objective
from hqde_fl.errors import ConfigError, UnknownNameError
from hqde_fl.protocol.records import to_record
from hqde_fl.simulations.recording.manifest import record_end
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.recording.run_directory import RunDirectory
from hqde_fl.simulations.recording.strict_json import to_json_value
from hqde_fl.strategies.callbacks import RoundRecord


def no_constants(text):
    raise AssertionError(f"not strict JSON: {text}")


def test_all_files_are_strict_json_with_sorted_kebab_case_keys(tmp_path, tiny, record):
    odd = RoundRecord(
        round=0,
        server={"loss": math.nan, "accuracy": math.inf},
        diagnostics={"scores": {2: torch.tensor(0.5), 1: np.float32(-math.inf)}, "set": (1, 2)},
    )
    record(tmp_path / "run", tiny, [odd])
    line = (tmp_path / "run" / "rounds.jsonl").read_text()
    read = json.loads(line, parse_constant=no_constants)
    assert read["server"] == {"loss": None, "accuracy": None}
    assert read["diagnostics"] == {"scores": {"1": None, "2": 0.5}, "set": [1, 2]}
    assert list(read) == sorted(read)
    assert not any("_" in key for key in read)
    json.loads((tmp_path / "run" / "manifest.json").read_text(), parse_constant=no_constants)


def test_to_json_value_copies_and_keeps_plain_values():
    value = {"a": [1, 2.5, True, None, "x"], "b": {"c": torch.arange(2)}}
    assert to_json_value(value) == {"a": [1, 2.5, True, None, "x"], "b": {"c": [0, 1]}}
    assert type(to_json_value({"t": True})["t"]) is bool


def test_a_finished_run_can_be_read(tmp_path, filtering, record):
    run = record(tmp_path / "run", filtering)
    assert run.manifest["status"] == "finished"
    assert run.manifest["experiment"] == filtering.to_table()
    assert run.manifest["final"] == {"accuracy": pytest.approx(0.7), "loss": 1.0}
    assert run.manifest["versions"]["torch"] == torch.__version__
    assert run.manifest["hardware"]["threads"] >= 1
    assert run.manifest["started"] <= run.manifest["ended"]
    assert run.faulty == filtering.faulty
    assert len(run.faulty) == 1
    assert [line["round"] for line in run.rounds] == [0, 1, 2]
    assert len(run.clients) == 8
    assert run.primary == pytest.approx(0.7)
    assert run.seconds == 1.0
    assert (run.detection.caught, run.detection.faulty) == (1, 2)


def test_the_same_model_is_saved_with_the_same_bytes(tmp_path, tiny):
    arrays = to_record({"w": torch.arange(6.0).reshape(2, 3).T, "n": torch.tensor(3)})
    saved = []
    for name in ("a", "b"):
        directory = RunDirectory(tmp_path / name, tiny)
        with directory.recording():
            directory.on_end(arrays)
        saved.append((tmp_path / name / "model.safetensors").read_bytes())
    assert saved[0] == saved[1]
    from safetensors.torch import load

    assert torch.equal(load(saved[0])["w"], torch.arange(6.0).reshape(2, 3).T)


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (KeyboardInterrupt(), "interrupted", None),
        (SystemExit(0), "interrupted", None),
        (ValueError("broken"), "failed", "ValueError: broken"),
    ],
)
def test_a_run_that_does_not_finish_records_its_status_and_keeps_its_lines(
    tmp_path, tiny, error, status, text
):
    def run_it():
        directory = RunDirectory(tmp_path / "run", tiny)
        with directory.recording():
            directory.on_round(RoundRecord(round=0), ArrayRecord())
            assert Run.load(tmp_path / "run").manifest["status"] == "running"
            raise error

    with pytest.raises(type(error)):
        run_it()
    run = Run.load(tmp_path / "run")
    assert (run.manifest["status"], run.manifest["error"]) == (status, text)
    assert len(run.rounds) == 1
    record_end(tmp_path / "run", "failed", "too late")
    assert Run.load(tmp_path / "run").manifest["error"] == text


def test_an_incomplete_last_line_is_left_out(tmp_path, tiny, record):
    record(tmp_path / "run", tiny)
    with (tmp_path / "run" / "rounds.jsonl").open("a") as file:
        file.write('{"round": 3, "ser')
    assert len(Run.load(tmp_path / "run").rounds) == 3


@pytest.mark.parametrize(
    "line", [b"\0" * 300, b'{"torn', b'{"round": \xff}', b"3"], ids=["zeros", "torn", "byte", "3"]
)
def test_a_damaged_line_is_an_error_with_its_number(tmp_path, tiny, record, line):
    record(tmp_path / "run", tiny)
    with (tmp_path / "run" / "rounds.jsonl").open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(ConfigError, match=r"rounds\.jsonl, line 4: damaged"):
        Run.load(tmp_path / "run")


def test_a_directory_with_a_run_is_refused_and_one_without_cannot_be_read(tmp_path, tiny, record):
    record(tmp_path / "run", tiny)
    with pytest.raises(ConfigError, match="holds another run"):
        RunDirectory(tmp_path / "run", tiny)
    with pytest.raises(ConfigError, match="is no run directory"):
        Run.load(tmp_path)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (Objective("acuracy"), "unknown Task.primary metric 'acuracy': did you mean 'accuracy'"),
        (
            Objective("loss", {"acc": True}),
            "unknown metric in Task.higher_is_better 'acc': did you mean 'accuracy'",
        ),
    ],
)
def test_a_metric_that_is_not_measured_ends_a_run_before_its_first_round(
    tmp_path, tiny, objective, message
):
    directory = RunDirectory(tmp_path / "run", tiny, objective=objective)
    start = RoundRecord(round=0, server={"accuracy": 0.1, "loss": 2.3})
    with pytest.raises(UnknownNameError, match=message), directory.recording():
        directory.on_round(start, ArrayRecord())
    assert Run.load(tmp_path / "run").rounds == ()


def test_clients_metrics_and_the_success_of_a_backdoor_may_have_a_direction(tmp_path, tiny):
    directions = {"eval-rmse": False, "train-loss": False, "attack-success": False}
    directory = RunDirectory(tmp_path / "run", tiny, objective=Objective("loss", directions))
    with directory.recording():
        directory.on_round(RoundRecord(round=0, server={"loss": 2.3}), ArrayRecord())
    assert Run.load(tmp_path / "run").objective == Objective("loss", {"loss": False, **directions})
