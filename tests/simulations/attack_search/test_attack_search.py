"""An attack search finds what a fixed attack does not, on seeds that it never saw, and goes on."""

from __future__ import annotations

import json
import shutil
import tomllib
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar, get_args

import pytest
import tomli_w
from typer.testing import CliRunner

from hqde_fl.errors import ConfigError, RunError
from hqde_fl.simulations.attack_search import evaluation
from hqde_fl.simulations.attack_search import families as all_families
from hqde_fl.simulations.attack_search.candidates import (
    Candidate,
    Who,
    fixed_candidates,
    suggested,
)
from hqde_fl.simulations.attack_search.command import summary
from hqde_fl.simulations.attack_search.families import FAMILIES, AttackFamily, Range, own_family
from hqde_fl.simulations.attack_search.search import (
    SearchOutcome,
    SearchSettings,
    attack_search,
    found_toml,
)
from hqde_fl.simulations.attack_search.setting import SETTING, require_attacks, searched_experiment
from hqde_fl.simulations.console import command_line
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.directory_lock import directory_lock
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.recording.run_follower import OnRound
from hqde_fl.simulations.run import run_experiment
from hqde_fl.simulations.sweep.cell_run import run_cell

TINY = {
    "name": "mean",
    "rounds": 3,
    "task": {"name": "digits", "hidden": 8},
    "clients": {"count": 4, "lr": 0.3},
    "strategy": {"rule": "mean"},
}
MILD = (AttackFamily("sign-flip", {"scale": Range(8, 30, log=True)}, fixed={"scale": 0.1}),)
"""A fixed attack that hardly hurts, and candidates that do."""
SETTINGS = SearchSettings(budget=4, minutes=5, training_seeds=(1, 2), held_out_seeds=(11, 12))


class Drawn:
    """A trial that draws what it is told, by name, else the first choice or the lower bound."""

    def __init__(self, **values: Any) -> None:
        self.values, self.asked = values, set[str]()

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        self.asked.add(name)
        return float(self.values.get(name, low))

    def suggest_int(self, name: str, low: int, high: int) -> int:
        self.asked.add(name)
        return int(self.values.get(name, low))

    def suggest_categorical(self, name: str, choices: tuple[Any, ...]) -> Any:
        self.asked.add(name)
        return self.values.get(name, choices[0])


def search(out: Path, **more: Any) -> SearchOutcome:
    experiment = Experiment.parse(TINY)
    return attack_search(experiment, 1, out, SETTINGS, families=MILD, **more)


class WorkerHere:
    """Runs cells in this process, where starting another would take longer than the runs."""

    def __init__(self, log: Path, inherited: int) -> None:
        pass

    def run(self, experiment: Experiment, out: Path, on_round: OnRound) -> str | None:
        return run_cell(experiment, out, on_round)

    def close(self) -> None:
        pass


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "CellWorker", WorkerHere)


@dataclass(frozen=True)
class Searched:
    """A whole search: its directory, the number of each candidate as it was told, its outcome."""

    out: Path
    numbers: list[int]
    outcome: SearchOutcome


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Searched:
    out, numbers = tmp_path_factory.mktemp("whole"), []
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(evaluation, "CellWorker", WorkerHere)
        outcome = search(out, on_candidate=lambda number, *about: numbers.append(number))
    return Searched(out, numbers, outcome)


def test_a_search_finds_a_worse_attack_and_measures_it_on_other_seeds(whole: Searched) -> None:
    outcome = whole.outcome
    assert whole.numbers == [1, 2, 3, 4, 5]
    assert (outcome.candidates, outcome.failed, outcome.metric) == (5, 0, "accuracy")
    assert outcome.found.label.startswith("sign-flip(scale=")
    assert outcome.found.faults != outcome.fixed[0].faults
    assert fmean(outcome.found.training) < fmean(outcome.fixed[0].training)
    assert outcome.difference.mean == pytest.approx(
        fmean(outcome.found.held_out) - fmean(outcome.fixed[0].held_out)
    )
    assert outcome.difference.mean < -0.05
    table = json.loads((whole.out / "attack-search.json").read_text())
    assert table["found"]["held_out"] == list(outcome.found.held_out)
    assert table["f"] == 1
    assert not [path for path in whole.out.iterdir() if path.is_dir()]
    *_, last = summary(outcome, SETTINGS.held_out_seeds)
    assert "on the held-out seeds accuracy is " in last
    assert " lower under the attack found than under the fixed attack that was worst" in last


def test_the_attack_found_can_be_pasted_into_a_file_and_run(
    whole: Searched, tmp_path: Path
) -> None:
    text = (whole.out / "found.toml").read_text()
    assert text.startswith(f"# The attack found: {whole.outcome.found.label}\n")
    file = tmp_path / "pasted.toml"
    seed = SETTINGS.held_out_seeds[0]
    file.write_text(f"seed = {seed}\n{tomli_w.dumps({**TINY, 'engine': 'inline'})}\n{text}")
    run_experiment(Experiment.load(file), tmp_path / "run", report=False)
    assert Run.load(tmp_path / "run").primary == whole.outcome.found.held_out[0]


@pytest.mark.parametrize("who", get_args(Who))
def test_the_text_of_an_attack_is_its_faults(whole: Searched, who: Who) -> None:
    fault = {"name": "evasive", "attack": {"name": "min-max"}, "limit": 1e-5}
    faults = Candidate(fault, who, {"period": 3, "on": 2}).faults(2, [5, 9, 7])
    outcome = replace(whole.outcome, found_faults=tuple(faults))
    text = found_toml(outcome, SETTINGS)
    assert tomllib.loads(text) == {"faults": faults}
    assert ("for seed = 11" in text) is (who != "drawn")


@pytest.mark.usefixtures("here")
def test_a_search_that_was_interrupted_goes_on_with_what_it_has(
    whole: Searched, tmp_path: Path
) -> None:
    def stop(number: int, *about: Any) -> None:
        if number == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, on_candidate=stop)
    begun = (tmp_path / "runs.jsonl").read_text().splitlines()
    outcome = search(tmp_path)
    lines = (tmp_path / "runs.jsonl").read_text().splitlines()
    assert lines[: len(begun)] == begun
    assert len({(json.loads(s)["candidate"], json.loads(s)["seed"]) for s in lines}) == len(lines)
    assert outcome == search(tmp_path) == whole.outcome


@pytest.mark.usefixtures("here")
def test_runs_that_fail_are_counted_and_their_errors_kept(tmp_path: Path) -> None:
    families = (*MILD, AttackFamily("alie"))  # whose z is 0 with so few clients
    experiment = Experiment.parse(TINY)
    outcome = attack_search(experiment, 1, tmp_path, SETTINGS, families=families)
    assert outcome.failed >= 1
    assert [each.label for each in outcome.fixed] == ["sign-flip(scale=0.1)"]
    assert "ALIE.z must be given" in (tmp_path / "runs.jsonl").read_text()
    with pytest.raises(RunError, match="no run finished under any fixed attack"):
        attack_search(experiment, 1, tmp_path / "none", SETTINGS, families=(AttackFamily("alie"),))


def test_another_experiments_runs_are_not_taken(whole: Searched) -> None:
    other = Experiment.parse({**TINY, "rounds": 2})
    for experiment, f in ((other, 1), (Experiment.parse(TINY), 2)):
        with pytest.raises(ConfigError, match="search of another experiment or number of att"):
            attack_search(experiment, f, whole.out, SETTINGS, families=MILD)


def test_equal_candidates_at_once_are_one_run(tmp_path: Path) -> None:
    """In processes; without parameters, candidates of one batch are often the same."""
    families = (AttackFamily("label-flip"),)
    outcome = attack_search(
        Experiment.parse(TINY), 1, tmp_path, SETTINGS, jobs=2, families=families
    )
    lines = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert len({(line["candidate"], line["seed"]) for line in lines}) == len(lines)
    assert outcome.failed == 0


def test_every_family_can_be_drawn_and_carried_out() -> None:
    """Each at its lower bounds, and with its fixed parameters, makes an experiment that fits."""
    fixed = fixed_candidates()
    assert [each.fault["name"] for each in fixed] == [
        family.name for family in FAMILIES if family.name != "optimal-push"
    ]
    drawn = [suggested(Drawn(family=family.name), 20) for family in FAMILIES]
    for family, candidate in zip(FAMILIES, drawn, strict=True):
        assert set(family.ranges) | set(family.choices) == candidate.fault.keys() - {"name"}
    chosen = [
        Candidate({**candidate.fault, key: choice})
        for family, candidate in zip(FAMILIES, drawn, strict=True)
        for key, choices in family.choices.items()
        for choice in choices
    ]
    for candidate in (*drawn, *chosen, *fixed):
        faults = candidate.faults(2, ())
        experiment = Experiment.parse({**SETTING, "name": "x", "faults": faults})
        experiment.checked_task()
        assert len(experiment.faulty) == 2


def test_who_attacks_and_when_become_keys_of_the_fault() -> None:
    fault = {"name": "ipm", "epsilon": 0.5}
    sizes = [30, 10, 20, 30, 5]
    assert Candidate(fault, "most-data").faults(2, sizes) == [{**fault, "clients": [0, 3]}]
    assert Candidate(fault, "least-data").faults(2, sizes) == [{**fault, "clients": [1, 4]}]
    assert Candidate(fault).faults(2, sizes) == [{**fault, "count": 2}]
    late = suggested(Drawn(family="mimic", when="late", start=5), 20)
    assert late.faults(1, ()) == [{"name": "mimic", "start": 5, "count": 1}]
    assert late.label == "mimic, from round 5"
    onoff = suggested(Drawn(family="mimic", when="on-off", period=3, on=5, who="most-data"), 20)
    assert onoff.when == {"period": 3, "on": 2}
    assert onoff.label == "mimic, clients with most data, 2 of 3 rounds"


@pytest.mark.usefixtures("here")
def test_a_search_by_the_data_that_clients_have(tmp_path: Path) -> None:
    """The clients' sizes differ by seed, and so do the attackers."""
    table = {**TINY, "clients": {"count": 4, "partition": {"name": "dirichlet", "alpha": 0.2}}}
    experiment = Experiment.parse(table)
    with (
        directory_lock(tmp_path, ConfigError("in use")) as lock,
        evaluation.Evaluator(experiment, 1, tmp_path, 1, lock) as evaluator,
    ):
        found = {
            who: evaluator.value(Candidate({"name": "sign-flip"}, who), 1).result()
            for who in ("most-data", "least-data")
        }
    assert None not in found.values()
    assert found["most-data"] != found["least-data"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget": 0}, "--budget must be >= 1, found 0"),
        ({"minutes": 0.0}, "--minutes must be > 0, found 0"),
        ({"held_out_seeds": (1, 2)}, r"not be both training and held-out, found \[1, 2\]"),
        ({"training_seeds": (1, 1)}, r"needs different seeds, found \[1, 1\]"),
        ({"held_out_seeds": (3,)}, r"and 2 held-out seeds \(--held-out\), found 2 and 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SearchSettings(**settings)


def test_a_rule_is_told_f_where_it_takes_it(tmp_path: Path) -> None:
    def rule(text: str) -> Any:
        return searched_experiment(text, None, (), 3).strategy.rule

    assert rule("krum") == {"name": "krum", "f": 3}
    assert rule("median") == {"name": "median"}
    assert rule('{ name = "krum", f = 1 }') == {"name": "krum", "f": 1}
    file = tmp_path / "own.toml"
    file.write_text('name = "own"\nrounds = 7\n')
    found = searched_experiment("krum", file, ("clients.count=9",), 2)
    assert (found.rounds, found.clients.count, found.name) == (7, 9, "krum")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("crum",), "did you mean 'krum'"),
        (("{ name = ",), "RULE must be a name or a TOML table"),
        (("median", "--seeds", "a"), "--seeds must be seeds such as 1,2, found 'a'"),
        (("krum", "--attackers", "4", "--set", "clients.count=9"), "needs at least"),
    ],
)
def test_what_cannot_be_searched_is_one_line(arguments: tuple[str, ...], message: str) -> None:
    result = CliRunner().invoke(command_line.app, ["attack-search", *arguments])
    assert result.exit_code == 2
    assert message in result.output


def test_a_sweeps_file_is_refused_with_what_to_take_out(tmp_path: Path) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text('rounds = 2\n[sweep]\nrule = ["mean", "median"]\nseeds = [1, 2]\n')
    with pytest.raises(ConfigError, match="takes one experiment") as raised:
        searched_experiment("median", file, (), 2)
    assert "a [sweep] table with rule, seeds" in str(raised.value)
    assert "hqde-fl sweep" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{ name = ", "--also must be a name or a TOML table"),
        ("{ scale = 2 }", "--also must have a name"),
        ('{ name = "ipm", epsilon = [1] }', r"epsilon must be \[low, high\], found \[1\]"),
        ('{ name = "ipm", epsilon = [2, 1] }', "low < high, found"),
        ("ipm", "--also 'ipm' is tried already"),
        ("imp", "unknown .*'imp': did you mean 'ipm'"),
        ('{ name = "stale", scale = 2 }', "'scale' does not belong to fault 'stale'"),
    ],
)
def test_a_further_attack_that_cannot_be_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        require_attacks(Experiment.parse(TINY), [own_family(text)], 1)


MINE = """
from dataclasses import dataclass
from hqde_fl.simulations.attacks import Attack
from hqde_fl.simulations.attacks.columnwise import columnwise


@dataclass(frozen=True)
class Opposite(Attack):
    scale: float = 1.0

    def forge(self, honest, f, knowledge):
        return columnwise(lambda tile: -self.scale * tile.mean(dim=0), honest)
"""


@pytest.mark.usefixtures("here")
def test_an_attack_of_ones_own_is_tried_in_a_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(all_families, "FAMILIES", MILD)
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "own.toml").write_text(tomli_w.dumps(TINY))
    also = '{ name = "mine.py:Opposite", scale = [2, 9] }'
    out = tmp_path / "out"
    options = ("--budget", "6", "--seeds", "1", "--held-out", "11,12", "--jobs", "1")
    arguments = ("mean", tmp_path / "own.toml", "--attackers", "1", "--out", out, *options)
    result = CliRunner().invoke(
        command_line.app, ["attack-search", *map(str, arguments), "--also", also]
    )
    assert result.exit_code == 0, result.output
    assert str(out / "found.toml") in result.output.replace("\n", "")
    runs = [json.loads(line) for line in (out / "runs.jsonl").read_text().splitlines()]
    own = [json.loads(r["candidate"])[0] for r in runs if "Opposite" in r["candidate"]]
    assert {"name": "mine.py:Opposite", "scale": 2.0} in own  # the fixed one
    assert all(2 <= fault["scale"] <= 9 for fault in own)
    assert not any(run["error"] for run in runs)


METRICS = """
def {name}(outputs, targets):
    right = float((outputs.argmax(1) == targets).float().mean())
    return right if right > 0.3 else float("nan")
"""


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("name", "worst"), [("accuracy_if_sure", 0.0), ("score", -inf)])
def test_a_metric_that_is_not_finite_counts_as_the_worst(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, worst: float
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "metrics.py").write_text(METRICS.format(name=name))
    functions, name = [f"{tmp_path / 'metrics.py'}:{name}"], name.replace("_", "-")
    metrics = {"functions": functions, "primary": name}
    experiment = Experiment.parse({**TINY, "metrics": metrics})

    def search() -> SearchOutcome:
        return attack_search(experiment, 1, tmp_path / "out", SETTINGS, families=MILD)

    outcome = search()
    assert (outcome.failed, outcome.found.not_finite) == (0, 4)
    assert outcome.found.training == outcome.found.held_out == (worst, worst)
    assert (outcome.difference is None) is (worst == -inf)
    said = summary(outcome, SETTINGS.held_out_seeds)
    assert f"a run that ends without a finite {name} counts as the worst value possible" in said
    table = json.loads((tmp_path / "out" / "attack-search.json").read_text())
    assert table["found"]["held_out"] == ([0.0, 0.0] if worst == 0 else [None, None])
    assert search() == outcome


class FailsFor(WorkerHere):
    """Fails under some attacks on seed 12."""

    broken: ClassVar[tuple[Any, ...]] = ()

    def run(self, experiment: Experiment, out: Path, on_round: OnRound) -> str | None:
        scales = [fault["scale"] for fault in experiment.faults]
        if experiment.seed == 12 and any(scale in self.broken for scale in scales):
            return "RunError: broken"
        return super().run(experiment, out, on_round)


def test_an_attack_that_fails_on_a_held_out_seed_is_left_out(
    whole: Searched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "CellWorker", FailsFor)
    scale = json.loads(whole.outcome.found.faults)[0]["scale"]
    monkeypatch.setattr(FailsFor, "broken", (scale,))
    next_worst = search(tmp_path)
    assert next_worst.left_out == (whole.outcome.found.label,)
    assert next_worst.found.label != whole.outcome.found.label
    assert next_worst.fixed == whole.outcome.fixed
    said = summary(next_worst, SETTINGS.held_out_seeds)
    label = whole.outcome.found.label
    assert f"left out, a run on a held-out seed failed: {label}" in said

    shutil.copytree(whole.out, tmp_path / "fixed")
    lines = (whole.out / "runs.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["seed"] != 12]
    (tmp_path / "fixed" / "runs.jsonl").write_text("".join(kept))
    monkeypatch.setattr(FailsFor, "broken", (0.1,))
    without_fixed = search(tmp_path / "fixed")
    assert (without_fixed.fixed, without_fixed.difference) == ((), None)
    assert without_fixed.found == whole.outcome.found
    last = summary(without_fixed, SETTINGS.held_out_seeds)[-1]
    assert last == "no fixed attack is left to compare with"


@pytest.mark.usefixtures("here")
def test_a_search_that_found_nothing_says_so(tmp_path: Path) -> None:
    families = (AttackFamily("sign-flip", {"scale": Range(0.1, 0.2)}, fixed={"scale": 20.0}),)
    outcome = attack_search(Experiment.parse(TINY), 1, tmp_path, SETTINGS, families=families)
    assert "no candidate was worse than the fixed attacks on the training seeds" in summary(
        outcome, SETTINGS.held_out_seeds
    )


def test_attacks_as_bad_as_the_one_found_are_counted(whole: Searched) -> None:
    assert whole.outcome.tied == ()
    said = summary(replace(whole.outcome, tied=("zero", "mimic")), SETTINGS.held_out_seeds)
    assert said[2] == (
        "as bad on the training seeds as the attack found: 2 others, such as zero; the one tried "
        "first is shown"
    )


def test_a_directory_with_runs_and_another_f_are_said(
    whole: Searched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    words = ["attack-search", "{ name = 'krum', f = 1 }", "--out", str(whole.out)]
    result = CliRunner().invoke(command_line.app, words)
    assert result.stderr.startswith("warning: the rule is told f = 1, and 2 attack (--attackers)\n")
    runs = len((whole.out / "runs.jsonl").read_text().splitlines())
    assert f"has {runs} runs already: those of this search are not run again" in result.stdout


def test_without_optuna_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"pip install 'hqde-fl\[search\]'"):
        search(tmp_path)
