import pytest

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.sweep import Sweep
from hqde_fl.simulations.sweep.cells import key_of

from .conftest import ROBUST


def test_the_cells_are_the_product_of_the_axes(file):
    sweep = Sweep.load(file(), ["rounds=3"])
    assert [axis.name for axis in sweep.axes] == ["rule", "partition", "faults"]
    assert len(sweep.cells) == len(sweep.distinct) == 8
    assert sweep.cells[0].label == "mean, iid, no faults"
    last = sweep.cells[-1]
    assert last.labels == ("trimmed-mean (f=1)", "dirichlet (alpha=0.5)", "1 sign-flip")
    assert last.experiment.rounds == 3
    assert last.experiment.strategy.rule == {"name": "trimmed-mean", "f": 1}
    assert len(last.experiment.faulty) == 1


def test_variables_reach_rules_and_attacks_and_cells_without_faults_collapse(file):
    sweep = Sweep.load(file(ROBUST))
    assert [axis.name for axis in sweep.axes] == ["rule", "attack", "f", "seed"]
    assert sweep.axes[0].labels == ("mean", "trimmed-mean")
    assert sweep.axes[1].labels == ("sign-flip", "poison")
    assert sweep.axes[2].texts == (0, 1)
    assert len(sweep.cells) == 16
    cells = {cell.labels: cell for cell in sweep.cells}
    attacked = cells["trimmed-mean", "poison", "f=1", "seed=2"].experiment
    assert attacked.strategy.rule == {"name": "trimmed-mean", "f": 1}
    assert attacked.faults == ({"name": "label-flip", "count": 1},)
    assert attacked.seed == 2
    clean = [cells["mean", attack, "f=0", "seed=1"] for attack in ("sign-flip", "poison")]
    assert clean[0].experiment.faults == ()
    assert clean[0].key == clean[1].key
    assert len(sweep.distinct) == 12
    assert sweep.distinct[0] is sweep.cells[0]
    assert attacked.checkpoint.every == 0
    assert (
        Sweep.load(file(ROBUST), ["checkpoint.every=2"]).cells[0].experiment.checkpoint.every == 2
    )


def test_a_wrong_name_is_not_the_fault_of_a_cell(file):
    text = 'name = "my sweep"\n[sweep]\nseeds = [1, 2]\n'
    with pytest.raises(ConfigError, match="name needs") as caught:
        Sweep.load(file(text))
    assert "cell" not in str(caught.value)
    named = Sweep.load(file('name = "$label"\n[sweep]\nlabel = ["a", "b"]\n'))
    assert [cell.experiment.name for cell in named.cells] == ["a", "b"]


@pytest.mark.parametrize("name", ["seed", "seeds"])
def test_the_seed_is_set_and_can_be_referred_to(file, name):
    text = f"""
    [clients]
    partition = {{ name = "dirichlet", seed = "${name}" }}
    [sweep]
    {name} = [3, 4]
    """
    sweep = Sweep.load(file(text))
    assert [axis.name for axis in sweep.axes] == ["seed"]
    assert [cell.experiment.seed for cell in sweep.cells] == [3, 4]
    assert [cell.experiment.clients.partition["seed"] for cell in sweep.cells] == [3, 4]


def test_any_key_is_set_and_can_be_referred_to(file):
    text = """
    [clients]
    epochs = "$rounds"
    momentum = "$clients.lr"
    [sweep]
    rounds = [3, 4]
    clients.lr = [0.1]
    """
    sweep = Sweep.load(file(text))
    for cell, rounds in zip(sweep.cells, (3, 4), strict=True):
        assert (cell.experiment.rounds, cell.experiment.clients.epochs) == (rounds, rounds)
        assert (cell.experiment.clients.lr, cell.experiment.clients.momentum) == (0.1, 0.1)
    with pytest.raises(ConfigError, match="rounds varies in this sweep"):
        Sweep.load(file(text), ["rounds=5"])


def test_a_fraction_of_no_client_is_no_attack(file):
    sweep = Sweep.load(file("[sweep]\nattack = ['none', { name = 'zero', fraction = 0.01 }]\n"))
    assert [cell.label for cell in sweep.cells] == ["none", "zero"]
    assert len(sweep.distinct) == 1


def test_a_variable_can_stand_in_the_file_and_an_attack_can_be_none_or_several(file):
    text = """
    [strategy]
    rule = { name = "trimmed-mean", f = "$declared" }
    [sweep]
    declared = [1, 2]
    attack = ["none", [{ name = "crash", count = 1 }, { name = "nan", fraction = 0.1 }]]
    """
    sweep = Sweep.load(file(text))
    assert [cell.label for cell in sweep.cells] == [
        "declared=1, none",
        "declared=1, crash + nan",
        "declared=2, none",
        "declared=2, crash + nan",
    ]
    assert sweep.cells[0].experiment.faults == ()
    assert [fault["name"] for fault in sweep.cells[3].experiment.faults] == ["crash", "nan"]
    assert sweep.cells[2].experiment.strategy.rule["f"] == 2


def test_sums_and_differences_of_variables(file):
    sweep = Sweep.load(
        file(
            'clients.count = "10 + $f"\nstrategy.fraction-train = 1.0\n'
            "[sweep]\n"
            'rule = [{ label = "mk", name = "multi-krum", f = "$f", m = "$n - $f" }]\n'
            'attack = ["zero"]\nf = [1, 3]\nn = [8, 9]\n'
        )
    )
    found = [
        (cell.experiment.clients.count, cell.experiment.strategy.rule["m"]) for cell in sweep.cells
    ]
    assert found == [(11, 7), (11, 8), (13, 5), (13, 6)]


def test_experiments_have_the_same_key_if_they_have_the_same_result():
    base = Experiment.parse({"name": "a", "seed": 1})
    same = [
        "name=b",
        "checkpoint.every=5",
        "engine.address='10.0.0.1:6379'",
        "strategy.rule.weighted=true",
    ]
    for override in same:
        assert key_of(Experiment.parse({"name": "a", "seed": 1}, [override])) == key_of(base)
    for override in ("seed=2", "rounds=11", "strategy.rule=median", "engine.name=inline"):
        assert key_of(Experiment.parse({"name": "a", "seed": 1}, [override])) != key_of(base)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rounds = 2\n", "has no [sweep] table: run it with `hqde-fl run"),
        ("[sweep]\n", "needs at least one key with a list of values"),
        ("[sweep]\nseed = 3\n", "[sweep] seed needs to be a list of values, found 3"),
        ("[sweep]\nseed = []\n", "[sweep] seed needs to be a list of values, found []"),
        ("[sweep]\nsede = [1]\n", "cell sede=1: unknown key 'sede': did you mean 'seed'?"),
        (
            '[sweep]\n"strategy.rule" = ["mean", { name = "trimmed-mean", f = 9 }]\n',
            "cell trimmed-mean (f=9): TrimmedMean(f=9) needs at least 19 updates, found 10 clients",
        ),
        ("rul = 3\n[sweep]\nseed = [1]\n", "unknown key 'rul'"),
        ("[sweep]\nseed = [1]\nseeds = [2]\n", "[sweep] seeds and seed are the same axis"),
        (
            '[sweep]\nrule = [{ name = "krum", f = "$g" }]\nf = [1]\nattack = ["zero"]\n',
            "cell krum, f=1, zero: unknown variable of the sweep 'g': known: f",
        ),
        (
            '[sweep]\nattack = ["zero"]\n',
            "[sweep] attack 'zero' needs clients, count, fraction, or a list f",
        ),
        ('[sweep]\nf = [0]\nattack = ["zeroo"]\n', "did you mean 'zero'?"),
        (
            '[sweep]\nrule = [{ label = "a", name = "mean" }, { label = "a", name = "median" }]\n',
            "[sweep] rule has two values called 'a'",
        ),
        ('[sweep]\nrule = [{ label = 1, name = "mean" }]\n', "label needs to be a string, found 1"),
        ("[sweep]\nseeds = [1, 2, 1]\n", "[sweep] seeds needs different seeds, found [1, 2, 1]"),
        (
            'clients.lr = "$loss"\n[sweep]\nloss = [1, 2]\n',
            "[sweep] loss is the name of a column of the tables: choose another",
        ),
        (
            'clients.count = "10 + $a"\n[sweep]\na = [0.5]\n',
            "cell a=0.5: '10 + $a' needs integers, found 10 and 0.5",
        ),
        (
            "[sweep]\nattack = [3]\n",
            "cell attack=3: faults.0 needs to be a name or a table, found 3",
        ),
        ("[sweep]\nattack = [{ count = 1 }]\n", "cell attack={count=1}: faults.0 needs a name"),
        (
            "[sweep]\nfaults = [[3]]\n",
            "cell faults=[3]: faults.0 needs to be a name or a table, found 3",
        ),
    ],
)
def test_a_wrong_sweep_is_refused_before_anything_starts(file, text, message):
    with pytest.raises(ConfigError) as caught:
        Sweep.load(file(text))
    assert message in str(caught.value)


def test_an_override_changes_axes_but_not_swept_keys(file):
    sweep = Sweep.load(file(ROBUST), ["sweep.f=[1]", "sweep.seeds=[5]"])
    assert {cell.experiment.seed for cell in sweep.cells} == {5}
    assert len(sweep.cells) == 4
    with pytest.raises(ConfigError, match=r"seed varies in this sweep: .*'sweep.seeds=\[...\]'"):
        Sweep.load(file(ROBUST), ["seed=3"])
    with pytest.raises(ConfigError, match=r"strategy.rule.f varies in this sweep"):
        Sweep.load(file(ROBUST), ["strategy.rule.f=3"])
