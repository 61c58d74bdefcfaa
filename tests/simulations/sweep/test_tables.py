import csv

import pyarrow.parquet as pq
import pytest

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.recording.comparison import Comparison, ComparisonAxis
from hqde_fl.simulations.recording.seed_groups import ComparisonRow
from hqde_fl.simulations.report.paper_tables import latex, markdown, paper_table
from hqde_fl.simulations.sweep import Sweep
from hqde_fl.simulations.sweep.tables import write_tables
from hqde_fl.strategies.callbacks import RoundRecord


@pytest.fixture
def measured(tmp_path, tiny, record):
    """Return a function that compares two runs whose server and clients measured something."""

    def measured(server, clients, labels=("a", "b")):
        final = RoundRecord(round=1, server=server, clients_evaluate=clients)
        run = record(tmp_path / "run", tiny, [RoundRecord(round=0, server=server), final])
        rows = tuple(ComparisonRow((label,), "run", run) for label in labels)
        return Comparison("many", (ComparisonAxis("rule", labels, labels),), rows)

    return measured


def test_every_metric_has_a_column_whatever_it_is_called(tmp_path, measured):
    server = {"loss": 0.5, "error": 0.25, "rule": 3.0}
    clients = {"eval-accuracy": 0.75, "loss": 0.4, "eval-seconds": 9.0}
    write_tables(measured(server, clients), tmp_path)
    with (tmp_path / "results.csv").open(newline="") as lines:
        row = next(csv.DictReader(lines))
    expected = {
        "rule": "a",
        "loss": "0.5",
        "server-error": "0.25",
        "server-rule": "3.0",
        "clients-loss": "0.4",
        "eval-accuracy": "0.75",
        "error": "",
    }
    assert {name: row[name] for name in expected} == expected
    assert not any("seconds" in name for name in row)
    assert pq.read_table(tmp_path / "results.parquet").column_names == list(row)


def test_labels_are_text_in_latex_and_markdown(measured):
    table = paper_table(measured({"loss": 1.0}, {}, ("$x_1$ & 50 %", "a|b*")))
    assert r"\$x\_1\$ \& 50 \% & \textbf{1.000} \\" in latex(table)
    assert r"a\|b\* | **1.000** |" in markdown(table)


def test_the_settings_of_a_sweep_stand_beside_its_axes(tmp_path):
    path = tmp_path / "set.toml"
    path.write_text(
        '[sweep]\ninterval = "bootstrap"\nbaseline = "median"\nrule = ["mean", "median"]\n'
    )
    sweep = Sweep.load(path)
    assert (sweep.analysis.interval, sweep.analysis.baseline) == ("bootstrap", "median")
    assert [axis.name for axis in sweep.axes] == ["rule"]
    assert Sweep.load(path, ["sweep.interval=t"]).analysis.interval == "t"
    assert sweep.document["sweep"]["rule"] == ["mean", "median"]
    with pytest.raises(ConfigError, match="unknown interval 'boot': did you mean 'bootstrap'"):
        Sweep.load(path, ["sweep.interval=boot"])
    with pytest.raises(ConfigError, match="unknown baseline of the sweep 'fedavg'"):
        Sweep.load(path, ["sweep.baseline=fedavg"])
