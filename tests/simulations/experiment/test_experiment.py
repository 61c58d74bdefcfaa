import dataclasses
import datetime
import json
import tomllib
from pathlib import Path

import pytest
import tomli_w

from hqde_fl.clients.faults import SignFlip
from hqde_fl.clients.training import Training
from hqde_fl.errors import ConfigError, UnknownNameError
from hqde_fl.rules import ByzantineFilter, Median, TrimmedMean
from hqde_fl.simulations.experiment.experiment import APP_ROOT, Experiment
from hqde_fl.simulations.experiment.sections import ClientsSection

TRIMMED = {"strategy": {"rule": {"name": "trimmed-mean", "f": 2}}}
FLIPS = {"faults": [{"name": "sign-flip", "count": 3, "scale": 4.0}]}


def refusal(document: dict, *overrides: str) -> str:
    """Return the one line with which a wrong experiment is refused."""
    with pytest.raises(ConfigError) as caught:
        Experiment.parse(document, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"rul": "krum"}, "unknown key 'rul': did you mean 'strategy.rule'?"),
        ({"strategy": {"rul": "krum"}}, "unknown [strategy] key 'rul': did you mean 'rule'?"),
        ({"clients": {"batch_size": 1}}, "did you mean 'batch-size'?"),
        ({"fraction-train": 1.0}, "did you mean 'strategy.fraction-train'?"),
        ({"rounds": "x", "stratgy": {}}, "unknown key 'stratgy': did you mean 'strategy'?"),
        ({"task": {"nmae": "digits"}}, "unknown [task] key 'nmae': did you mean 'name'?"),
        ({"engine": {"nam": "inline"}}, "unknown [engine] key 'nam': did you mean 'name'?"),
        ({"strategy": {"screening": {"max-metric": 3}}}, "did you mean 'max-metrics'?"),
    ],
)
def test_unknown_keys_are_refused_with_the_nearest_right_one(document, message):
    assert message in refusal(document)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"strategy": {"rule": "medain"}}, "unknown rule 'medain': did you mean 'median'?"),
        ({"faults": [{"name": "sign-flop", "count": 1}]}, "did you mean 'sign-flip'?"),
        ({"task": "digit"}, "unknown task 'digit': did you mean 'digits'?"),
        ({"clients": {"partition": "dirichlett"}}, "did you mean 'dirichlet'?"),
        ({"strategy": {"server-optimizer": "adm"}}, "did you mean 'adam'?"),
        ({"engine": {"name": "inlin"}}, "unknown engine 'inlin': did you mean 'inline'?"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest_right_one(document, message):
    assert message in refusal(document)
    with pytest.raises(UnknownNameError):
        Experiment.parse(document)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"rounds": 0}, "rounds needs to be >= 1, found 0"),
        ({"rounds": "ten"}, "rounds needs to be an integer, found 'ten'"),
        ({"rounds": 1.5}, "rounds needs to be an integer, found 1.5"),
        ({"seed": -1}, "seed needs to be >= 0, found -1"),
        ({"clients": {"count": True}}, "clients.count needs to be an integer, found True"),
        ({"clients": {"lr": float("nan")}}, "clients.lr needs to be a finite number, found nan"),
        ({"clients": {"lr": 0}}, "clients.lr needs to be finite and > 0, found 0"),
        ({"clients": {"batch-size": 0}}, "clients.batch-size needs to be >= 1, found 0"),
        ({"clients": {"momentum": 1}}, "clients.momentum needs to be in [0, 1), found 1"),
        ({"clients": {"threads": -1}}, "clients.threads needs to be >= 0, found -1"),
        ({"clients": {"members": 0}}, "clients.members needs to be >= 1, found 0"),
        ({"clients": {"count": 0}}, "clients.count needs to be >= 1, found 0"),
        ({"clients": 3}, "clients needs to be a table with keys such as count, registered, "),
        (
            {"checkpoint": 3},
            "checkpoint needs to be a table with keys such as every, keep, found 3",
        ),
        ({"engine": 3}, "engine needs to be a table with keys such as name, address, "),
        ({"engine": "inlin"}, "unknown engine 'inlin': did you mean 'inline'?"),
        (
            {"strategy": {"fraction-train": 0}},
            "strategy.fraction-train needs to be in (0, 1], found 0",
        ),
        (
            {"strategy": {"selector": {"name": "oort", "fraction": 2.0}}},
            "strategy.selector.fraction needs to be in (0, 1], found 2",
        ),
        (
            {"strategy": {"selector": {"name": "adaptive", "round-seconds": -1.0}}},
            "strategy.selector.round-seconds needs to be >= 0, found -1",
        ),
        (
            {"strategy": {"fraction-evaluate": 2}},
            "strategy.fraction-evaluate needs to be in [0, 1], ",
        ),
        ({"strategy": {"quorum": -1}}, "strategy.quorum needs to be >= 0, found -1"),
        ({"clients": {"device": "gpux"}}, "device"),
        (
            {"strategy": {"deadline": 1e10}},
            "strategy.deadline needs to be in (0, 9.22337e+09], found 1",
        ),
        ({"name": "a b"}, "name needs to be letters, digits"),
        ({"faults": {"name": "crash"}}, "faults needs to be a list of tables"),
        (
            {"faults": [{"name": "crash"}]},
            "faults.0 needs one of clients, count, fraction, found none",
        ),
        ({"strategy": {"rule": 5}}, "strategy.rule needs to be a name or a table, found 5"),
        ({"strategy": {"rule": {"f": 3}}}, "strategy.rule needs a name, one of: "),
        ({"strategy": {"rule": {"name": ["x"]}}}, "strategy.rule.name needs to be a string"),
        (
            {"strategy": {"rule": {"name": "chain", "rules": [{"name": "median", "x": 1e999}]}}},
            "strategy.rule.rules.0.x needs to be a finite number",
        ),
        (
            {"task": {"name": "digits", "since": datetime.date(2020, 1, 1)}},
            "task.since needs to be a finite number, string, boolean, list or table",
        ),
    ],
)
def test_wrong_values_name_the_key_the_bound_and_the_value(document, message):
    assert message in refusal(document)


NAMED = [
    ("engine", {"engine": "inline"}, {"engine": {"name": "inline"}}),
    ("rule", {"strategy": {"rule": "median"}}, {"strategy": {"rule": {"name": "median"}}}),
    *(
        (f"no {key}", {section: {key: "none"}}, {})
        for section, key in (
            ("clients", "lr-schedule"),
            ("clients", "speed"),
            ("clients", "bandwidth"),
            ("clients", "drop-out"),
            ("clients", "dp-sgd"),
            ("clients", "local-dp"),
            ("clients", "regularization-noise"),
            ("clients", "entanglement-noise"),
            ("strategy", "codec"),
            ("strategy", "downlink"),
            ("strategy", "server-lr-schedule"),
            ("strategy", "exploration-noise"),
            ("strategy", "secure-aggregation"),
            ("privacy", "adaptive-clipping"),
            ("edges", "codec"),
            ("edges", "downlink"),
            ("edges", "bandwidth"),
        )
    ),
]


@pytest.mark.parametrize(
    ("given", "meant"), [case[1:] for case in NAMED], ids=[case[0] for case in NAMED]
)
def test_a_name_stands_for_its_table_and_none_for_a_table_that_may_be_empty(given, meant):
    assert Experiment.parse(given) == Experiment.parse(meant)


def test_keys_beside_an_engine_that_is_given_by_its_name_can_be_set():
    experiment = Experiment.parse({"engine": "inline"}, ["engine.address=127.0.0.1:6379"])
    assert (experiment.engine.name, experiment.engine.address) == ("inline", "127.0.0.1:6379")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (
            {"strategy": {"rule": {"name": "trimmed-mean", "f": 20}}},
            "TrimmedMean(f=20) needs at least 41 updates, found 10 clients",
        ),
        (
            {"strategy": {"rule": {"name": "trimmed-mean", "f": 3}, "fraction-train": 0.5}},
            "TrimmedMean(f=3) needs at least 7 updates, "
            "found 5 (10 clients, strategy.fraction-train = 0.5)",
        ),
        (
            {"strategy": {"quorum": 11}},
            "strategy.quorum = 11 needs as many clients, found 10 clients",
        ),
        (
            {"clients": {"members": 3, "vote": {"name": "voting", "weights": [1, 2]}}},
            "CircularVote needs one weight for each of 3 members, found 2",
        ),
        (
            {"faults": [{"name": "crash", "count": 6}, {"name": "nan", "count": 5}]},
            "faults need 11 clients in all, found clients.count = 10",
        ),
    ],
)
def test_impossible_combinations_are_refused_before_anything_starts(document, message):
    assert refusal(document) == message


def test_overrides_are_toml_values_and_strings():
    experiment = Experiment.parse(
        TRIMMED | FLIPS,
        [
            "strategy.rule.f=3",
            "strategy.server-optimizer.momentum=0.5",
            "name=hello",
            "faults.0.count=2",
            "clients.partition={name='dirichlet', alpha=0.1}",
        ],
    )
    assert experiment.parts.rule == TrimmedMean(f=3)
    assert experiment.parts.aggregation.server_optimizer.momentum == 0.5
    assert experiment.name == "hello"
    assert len(experiment.faulty) == 2
    assert experiment.clients.partition == {"name": "dirichlet", "alpha": 0.1}


def test_overrides_replace_a_table_by_a_name_but_do_not_drop_parameters_silently():
    assert Experiment.parse(TRIMMED, ["strategy.rule=median"]).parts.rule == Median()
    message = refusal(TRIMMED, "strategy.rule.name=median")
    assert message == "parameter 'f' does not belong to rule 'median': median takes none"
    assert "did you mean 'scale'?" in refusal(FLIPS, "faults.0.scal=2")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("strategy.rul.f=3", "unknown [strategy] key 'rul': did you mean 'rule'?"),
        ("rounds.x=3", "cannot set rounds.x: rounds is 10, not a table"),
        ("rounds", "an override reads key=value, found 'rounds'"),
        ("faults.0.count=3", "cannot set faults.0.count: '0' is no place in a list of no entries"),
        ("strategy.fraction-trian=0.5", "did you mean 'fraction-train'?"),
    ],
)
def test_overrides_of_what_does_not_exist_are_refused(override, message):
    assert message in refusal({}, override)


def test_overrides_do_not_change_the_document():
    document = {"strategy": {"rule": {"name": "trimmed-mean", "f": 2}}}
    Experiment.parse(document, ["strategy.rule.f=3"])
    assert document == TRIMMED


def test_json_and_toml_round_trips_are_exact():
    experiment = Experiment.parse(
        TRIMMED | FLIPS | {"seed": 2**62, "clients": {"lr": 0.1 + 0.2, "partition": "shard"}}
    )
    assert Experiment.from_json(experiment.to_json()) == experiment
    with pytest.raises(ConfigError, match="the experiment is not JSON"):
        Experiment.from_json("{")
    assert Experiment.parse(tomllib.loads(tomli_w.dumps(experiment.to_table()))) == experiment
    assert json.loads(experiment.to_json())["strategy"]["rule"] == {"name": "trimmed-mean", "f": 2}


def test_the_defaults_of_training_are_stated_once():
    section = ClientsSection()
    for field in dataclasses.fields(Training):
        written = getattr(section, field.name)  # a table that is empty stands for nothing
        assert written == (field.default if field.default is not None else {})
    assert Experiment().parts.training == Training()


def test_faults_strike_the_same_clients_whatever_they_are():
    flips = Experiment.parse(FLIPS)
    crashes = Experiment.parse({"faults": [{"name": "crash", "count": 3}]})
    assert set(flips.faulty) == set(crashes.faulty)
    assert set(flips.faulty.values()) == {"sign-flip"}
    both = Experiment.parse({"faults": FLIPS["faults"] + [{"name": "crash", "count": 7}]})
    assert sorted(both.faulty) == list(range(10))
    assert both.parts.client_mods()[0].fault == SignFlip(scale=4.0)


def test_an_experiment_is_named_after_its_file(tmp_path):
    file = tmp_path / "first.toml"
    file.write_text("rounds = 3\n")
    assert Experiment.load(file).name == "first"
    file.write_text('name = "own"\n')
    assert Experiment.load(file, ["rounds=4"]).name == "own"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"rounds = \n", "is not valid TOML: Invalid value (at line 1, column 10)"),
        (b"name = '\xff'\n", "is not UTF-8 text: byte 8"),
        (b"[sweep]\nseed = [1]\n", "has a [sweep] table: run it with `hqde-fl sweep"),
    ],
)
def test_a_file_that_is_no_experiment(tmp_path, content, message):
    file = tmp_path / "experiment.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        Experiment.load(file)
    assert str(caught.value).startswith(str(file))
    assert message in str(caught.value)


def test_a_flower_run_config_names_an_experiment_in_the_app():
    plain = Experiment.from_run_config({})
    assert plain == Experiment.load(APP_ROOT / "experiments" / "quickstart.toml")
    assert isinstance(plain.parts.rule, ByzantineFilter)
    changed = Experiment.from_run_config(
        {"experiment": "experiments/quickstart.toml", "set": "rounds=2  seed=3", "config": ""}
    )
    assert (changed.rounds, changed.seed) == (2, 3)
    assert Experiment.from_run_config({"config": changed.to_json(), "set": "seed=9"}) == changed


@pytest.mark.parametrize("file", sorted(Path(APP_ROOT / "experiments").glob("*.toml")))
def test_the_experiments_in_the_repository_are_right(file):
    from hqde_fl.simulations.sweep import Sweep

    if "sweep" in tomllib.loads(file.read_text()):
        assert Sweep.load(file).cells
    else:
        assert Experiment.load(file)


def test_a_pre_aggregation_alone_is_no_rule():
    with pytest.raises(ConfigError, match="'nnm' is a pre-aggregation, which feeds a rule"):
        Experiment.parse({"strategy": {"rule": {"name": "nnm", "f": 2}}})


def test_a_copy_shares_the_parts_only_if_they_are_the_same():
    experiment = Experiment.parse(TRIMMED)
    assert experiment.model_copy(update={"rounds": 7}).parts is experiment.parts
    assert experiment.on_engine("inline").parts is experiment.parts
    assert experiment.model_copy(update={"seed": 9}).parts is not experiment.parts
    strategy = experiment.strategy.model_copy(update={"rule": {"name": "median"}})
    assert experiment.model_copy(update={"strategy": strategy}).parts.rule == Median()


def test_a_choice_is_named_with_its_alternatives():
    with pytest.raises(ConfigError, match=r"clients\.assignment needs to be 'all', .*found 'rot"):
        Experiment.parse({"clients": {"assignment": "rotate"}})


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("my experiment.toml", "my-experiment"),
        ("Größe [1]=ü.toml", "Groe-1-u"),
        (".hidden", "hidden"),
        ("-- draft --.toml", "draft"),
        ("v1.2_b.toml", "v1.2_b"),
        ("日本.toml", "experiment"),
    ],
)
def test_an_experiment_is_named_after_any_file(tmp_path, file, name):
    (tmp_path / file).write_text("rounds = 1")
    assert Experiment.load(tmp_path / file).name == name


def test_a_tree_that_does_not_fit_its_clients_is_refused(tiny):
    rule = {"name": "trimmed-mean", "f": 1}
    table = tiny.to_table() | {
        "strategy": {"rule": {"name": "tree", "leaf": rule, "root": rule, "fanout": 4}}
    }
    for clients in (4, 12):
        Experiment.parse(table, [f"clients.count={clients}", "faults=[]"])
    with pytest.raises(ConfigError, match=r"needs groups large enough .* found 5 clients"):
        Experiment.parse(table, ["clients.count=5", "faults=[]"])
