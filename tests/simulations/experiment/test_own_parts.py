"""Parts of the user's own, named in a file as ``FILE.py:Class``, on the engines; ten mistakes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.console.command_line import app
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.experiment.own_modules import own_names, user_files
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.run import run_experiment
from hqde_fl.simulations.sweep import Sweep
from tests.simulations.command import call

STUDY = Path(__file__).parent / "study"
FILE = STUDY / "own.toml"

MISTAKES = {
    "a near name": ("strategy.rule=mine.py:Shortst", "did you mean 'Shortest'?"),
    "no such file": ("strategy.rule=mein.py:Shortest", "there is no file 'mein.py' in "),
    "no such module": ("strategy.rule=mein:Shortest", "there is no module 'mein'"),
    "a missing parameter": ("strategy.rule=mine.py:Shortest", "'mine.py:Shortest' needs f"),
    "an unknown parameter": (
        'strategy.rule={name="mine.py:Shortest",f=1,ff=2}',
        "parameter 'ff' does not belong to rule 'mine.py:Shortest': did you mean 'f'?",
    ),
    "a wrong type": (
        'strategy.rule={name="mine.py:Shortest",f="x"}',
        "mine.py:Shortest.f: Input should be a valid integer, found 'x'",
    ),
    "another kind of part": (
        "strategy.rule=mine.py:Half",
        "rule 'mine.py:Half' must be a subclass of hqde_fl.rules.Aggregator",
    ),
    "no part at all": (
        "strategy.codec=mine.py:NoRule",
        "must be a subclass of hqde_fl.codec.Codec",
    ),
    "a function for a class": ("strategy.rule=mine.py:task", "found task of type function"),
    "no dataclass": (
        'strategy.rule={name="mine.py:Undecorated",f=1}',
        "must be a dataclass: write @dataclass(frozen=True) above the class",
    ),
    "an abstract method": (
        'strategy.rule={name="mine.py:Unfinished",f=1}',
        "rule 'mine.py:Unfinished' must implement decide",
    ),
    "an error when made": (
        'strategy.rule={name="mine.py:Fails",f=1}',
        "rule 'mine.py:Fails': ValueError: f is wrong (mine.py, line ",
    ),
    "an error at import": (
        "strategy.codec=broken.py:Codec",
        "codec 'broken.py:Codec': broken.py raised RuntimeError: broken (broken.py, line 1)",
    ),
    "a taken number": ("strategy.codec=mine.py:Taken", "1 is that of Quantized"),
    "neither fault nor attack": (
        "faults.0.name=mine.py:Half",
        "must be a subclass of hqde_fl.clients.faults.Fault or hqde_fl.simulations.attacks.Attack",
    ),
    "a nested part": (
        'strategy.codec={name="error-feedback",inner="mine.py:Shortest"}',
        "codec 'mine.py:Shortest' must be a subclass of hqde_fl.codec.Codec",
    ),
    "a pre-aggregation alone": ("strategy.rule=mine.py:Halved", "put both into a chain"),
    "a metric that is a class": ("metrics.functions=['mine.py:Half']", "must be a function"),
    "a callback that is none": ("callbacks=['mine.py:Half']", "subclass of hqde_fl.strategies"),
    "a fraction without effect": ("strategy.fraction-train=0.5", "found First (count=5)"),
    "a malformed name": ("strategy.rule=mine.py:1", "must read package.module:attribute or FILE"),
}


def test_every_kind_of_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    experiment = Experiment.load(FILE)
    run_experiment(experiment, tmp_path / "run", report=False)
    run = Run.load(tmp_path / "run")
    assert [line["kept"] for line in run.rounds[1:]] == [4, 4]  # of 5 selected, one attacker
    assert "recall" in run.rounds[-1]["server"]
    assert {client["partition"] for client in run.clients} == {0, 1, 2, 3, 4}
    assert "noted round 2" in capsys.readouterr().out
    assert run.manifest["import-from"][0] == str(STUDY)  # others: of tests before
    names = own_names(experiment.to_table())
    assert len(names) == 11
    files = {file.name for file in user_files(experiment.to_table())}
    assert {"mine.py", "neighbour.py"} <= files


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_the_same_bits_on_ray_from_another_folder_and_when_resumed(tmp_path: Path) -> None:
    shutil.copytree(STUDY, tmp_path / "study")
    file = "study/own.toml"
    for engine in ("inline", "ray"):
        done = call("run", file, "--engine", engine, "--out", engine, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    models = [
        (tmp_path / engine / "model.safetensors").read_bytes() for engine in ("inline", "ray")
    ]
    assert models[0] == models[1]
    more = call("run", "--resume", tmp_path / "inline", "--set", "rounds=3", cwd=STUDY.parent)
    assert more.returncode == 0, more.stderr
    assert "rule: chain (rules=[Halved, Shortest (f=1)])" in more.stdout
    assert "faults: 1 Opposite (by=2)" in more.stdout


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake: str) -> None:
    override, message = MISTAKES[mistake]
    with pytest.raises(ConfigError) as error:
        Experiment.load(FILE, [override])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_mistake_ends_the_command_with_2() -> None:
    override, _ = MISTAKES["an error at import"]
    done = call("run", "own.toml", "--dry-run", "--set", override, cwd=STUDY)
    assert done.returncode == 2
    assert done.stderr.startswith("error: codec 'broken.py:Codec'")
    assert done.stderr.count("\n") == 1


def test_an_error_of_a_callback_ends_the_command_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "loud.py").write_text(
        "from hqde_fl import Callback\n\n\nclass Loud(Callback):\n"
        "    def on_round(self, record, arrays):\n        raise ValueError('too\\nloud')\n"
    )
    (tmp_path / "x.toml").write_text(
        'rounds = 1\nengine = { name = "inline" }\ncallbacks = ["loud.py:Loud"]\n'
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        app(["run", "x.toml"])
    assert end.value.code == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: your code raised ValueError: too loud (loud.py, line 6, in on_round)"
    )


def test_two_studies_in_one_process_have_their_own_files(tmp_path: Path) -> None:
    loaded = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "rules.py").write_text(
            "from dataclasses import dataclass\nfrom hqde_fl.rules import Mean\n\n\n"
            f"@dataclass(frozen=True)\nclass Own(Mean):\n    number: int = {number}\n"
        )
        (folder / "x.toml").write_text('strategy = { rule = "rules.py:Own" }\n')
        loaded.append(Experiment.load(folder / "x.toml"))
    assert [experiment.parts.rule.number for experiment in loaded] == [1, 2]  # type: ignore[attr-defined]
    changed = loaded[0].model_copy(update={"seed": 5})  # which builds the parts again
    assert changed.parts.rule.number == 1  # type: ignore[attr-defined]


def test_a_sweep_over_own_parts_has_short_labels(tmp_path: Path) -> None:
    shutil.copytree(STUDY, tmp_path / "study")
    file = tmp_path / "study" / "own.toml"
    text = '[sweep]\nrule = ["median", { name = "mine.py:Shortest", f = "$f" }]\n'
    file.write_text(file.read_text() + text + 'attack = ["mine.py:Opposite"]\nf = [1]\n')
    sweep = Sweep.load(file)
    assert [cell.labels[:2] for cell in sweep.cells] == [
        ("median", "Opposite"),
        ("Shortest", "Opposite"),
    ]


def test_an_error_in_a_rule_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(
        "from dataclasses import dataclass\nfrom hqde_fl.rules import Mean\n\n\n"
        "@dataclass(frozen=True)\nclass Bad(Mean):\n"
        "    def decide(self, measured, cohort, state):\n        return 1 / 0\n"
    )
    (tmp_path / "x.toml").write_text(FILE.read_text().replace("mine.py", str(STUDY / "mine.py")))
    override = "strategy.rule=bad.py:Bad"
    experiment = Experiment.load(tmp_path / "x.toml", [override])
    with pytest.raises(
        ConfigError, match=r"^rule Bad\(.*ZeroDivision.*\(bad.py, line 8, in decide\)$"
    ):
        run_experiment(experiment, tmp_path / "run", report=False)
