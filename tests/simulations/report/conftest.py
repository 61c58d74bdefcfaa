import pytest

from hqde_fl.simulations.recording.comparison import Comparison
from hqde_fl.simulations.sweep import Sweep

SETUP = """
rounds = 2
clients.count = 4
engine.name = "inline"
[sweep]
"""


@pytest.fixture
def swept(tmp_path, record):
    """Return a function that compares the cells of a sweep, given the keys of its table.

    The records of its cells say that the faulty clients were caught in the first of two rounds.
    """

    def swept(keys):
        path = tmp_path / "robust.toml"
        path.write_text(SETUP + keys)
        sweep = Sweep.load(path)
        for cell in sweep.distinct:
            record(tmp_path / cell.directory, cell.experiment)
        cells = [(cell.labels, cell.directory, None) for cell in sweep.cells]
        return Comparison.read(tmp_path, sweep.name, sweep.axes, cells)

    return swept


@pytest.fixture
def robust(swept):
    """Return a sweep over three rules, three attacks, two numbers f and two seeds."""
    return swept("""
        rule = [
            "sign-guard",
            "byzantine-filter",
            { label = "<trim>", name = "trimmed-mean", f = "$f" },
        ]
        attack = ["sign-flip", "label-flip", "zero"]
        f = [0, 1]
        seeds = [1, 2]
    """)


@pytest.fixture
def labelled(swept):
    """Return a function that compares a sweep over partitions with the given labels."""

    def labelled(*labels):
        partitions = ", ".join(f'{{ label = "{label}", name = "iid" }}' for label in labels)
        return swept(f"""
            rule = ["mean", {{ label = '$\\bad$', name = "median" }}]
            attack = ["none", {{ name = "zero", count = 1 }}]
            partition = [{partitions}]
        """)

    return labelled
