"""Packed updates in whole experiments."""

import json

import pytest

from hqde_fl.codec import ErrorFeedback, Identity, Quantized
from hqde_fl.errors import ConfigError
from hqde_fl.simulations.experiment.experiment import APP_ROOT, Experiment
from hqde_fl.simulations.run import run_experiment

FEEDBACK = (
    'strategy.codec={name="error-feedback", inner={name="quantized", bits=4, unbiased=false}}'
)


def test_a_codec_is_a_table_of_the_strategy():
    assert Experiment.parse({}).parts.communication.codec == Identity()
    chosen = Experiment.parse({}, [FEEDBACK])
    assert chosen.parts.communication.codec == ErrorFeedback(Quantized(4, unbiased=False))
    assert Experiment.from_json(chosen.to_json()) == chosen
    with pytest.raises(ConfigError, match="unknown codec 'quantised': did you mean 'quantized'"):
        Experiment.parse({"strategy": {"codec": "quantised"}})
    with pytest.raises(ConfigError, match=r"parameter 'bit' .* did you mean 'bits'"):
        Experiment.parse({"strategy": {"codec": {"name": "quantized", "bit": 4}}})


def test_codecs_in_both_directions(tiny, tmp_path):
    rounds = []
    both = Experiment.parse(
        tiny.to_table(), [FEEDBACK, 'strategy.downlink={name="quantized", unbiased=false}']
    )
    run_experiment(both, tmp_path / "run", on_round=rounds.append)
    first, last = rounds[1], rounds[-1]
    assert last["bytes-down"] < first["bytes-down"] / 5
    assert last["late"] == last["rejected"] == 0


def test_alie_acts_under_a_downlink_codec(tiny, tmp_path):
    """The attackers' updates have influence, and the damage is that under the exact downlink."""
    means = []
    for place, downlink in enumerate(("identity", '{name="quantized", bits=8, unbiased=false}')):
        value = f'"{downlink}"' if downlink == "identity" else downlink
        experiment = Experiment.parse(
            {**tiny.to_table(), "faults": [{"name": "alie", "count": 1, "z": 50.0}]},
            [
                f"strategy.downlink={value}",
                "strategy.rule=mean",
                "metrics.honest-mean=true",
                "rounds=3",
            ],
        )
        out = tmp_path / str(place)
        run_experiment(experiment, out)
        rounds, clients = (
            [json.loads(line) for line in (out / f"{name}.jsonl").read_text().splitlines()]
            for name in ("rounds", "clients")
        )
        means.append([line["honest-mean"] for line in rounds[1:]])
        assert [line["rejected"] for line in rounds] == [0] * len(rounds)
        assert all(line["influence"] > 0 for line in clients if line["fault"] == "alie")
        assert any(line["fault"] == "alie" for line in clients)
    for exact, packed in zip(*means, strict=True):
        assert packed["ratio"] == pytest.approx(exact["ratio"], rel=0.2)
        assert packed["distance"] > packed["spread"]


@pytest.mark.slow
def test_four_bits_and_the_filter_against_sign_flips(tmp_path):
    """The quickstart is as accurate as with full weights, in less than a seventh of the bytes."""
    accuracies, sizes = [], []
    for place, overrides in enumerate(([], [FEEDBACK])):
        rounds = []
        experiment = Experiment.load(
            APP_ROOT / "experiments" / "quickstart.toml", ["engine.name=inline", *overrides]
        )
        result = run_experiment(experiment, tmp_path / str(place), on_round=rounds.append)
        accuracies.append(result.final["accuracy"])
        sizes.append(sum(line["bytes-up"] for line in rounds))
        assert all(line["filtered"] == 3 for line in rounds[1:])
    assert accuracies[1] == pytest.approx(accuracies[0], abs=0.03)
    assert sizes[0] > 7.4 * sizes[1]
