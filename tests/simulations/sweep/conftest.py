import pytest

from hqde_fl.simulations.sweep import cell_run

STUDY = """
rounds = 2
[clients]
count = 4
[engine]
name = "inline"
[sweep]
strategy.rule = ["mean", { name = "trimmed-mean", f = 1 }]
"clients.partition" = ["iid", { name = "dirichlet", alpha = 0.5 }]
faults = [[], [{ name = "sign-flip", count = 1 }]]
"""

ROBUST = """
rounds = 2
[task]
name = "digits"
hidden = 8
[clients]
count = 4
[engine]
name = "inline"
[sweep]
rule = ["mean", { name = "trimmed-mean", f = "$f" }]
attack = ["sign-flip", { label = "poison", name = "label-flip" }]
f = [0, 1]
seeds = [1, 2]
"""


@pytest.fixture
def file(tmp_path):
    def write(text=STUDY):
        path = tmp_path / "study.toml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def recorded(monkeypatch, record):
    """Record two rounds instead of running a cell.

    The dictionary returned maps the number of a call to the error that it is to raise.
    """
    failing, calls = {}, []

    def run_experiment(experiment, out, *, on_round, report):
        assert not report
        calls.append(out.name)
        if len(calls) in failing:
            raise failing[len(calls)]
        record(out, experiment)
        on_round({"round": 2, "server": {"accuracy": 0.7}})

    monkeypatch.setattr(cell_run, "run_experiment", run_experiment)
    failing["calls"] = calls
    return failing
