import logging
import socket
from dataclasses import dataclass
from typing import ClassVar

import pytest
from flwr.app import ArrayRecord

from hqde_fl.errors import ConfigError
from hqde_fl.strategies.callbacks import RoundRecord
from hqde_fl.strategies.catalogue import CALLBACKS
from hqde_fl.strategies.sinks.mlflow import MLflow
from hqde_fl.strategies.sinks.sink import Sink, numbers_of
from hqde_fl.strategies.sinks.tensorboard import TensorBoard
from hqde_fl.strategies.sinks.wandb import WandB
from tests.simulations.command import await_that

TABLE = {"name": "tiny", "rounds": 2, "strategy": {"rule": {"name": "mean"}, "codec": ""}}
MODEL = ArrayRecord()


def record(number):
    server = {"accuracy": 0.25 * number, "loss": float("nan") if number == 0 else 1.0 / number}
    return RoundRecord(number, server, {"train-loss": 0.5}, asked=4, kept=3, late=1, seconds=0.1)


def run(sink, path, numbers=(0, 1, 2), error=None):
    """Send rounds to a sink as a run of an experiment does."""
    sink.on_run(path, TABLE)
    sink.on_start(MODEL, 2)
    for number in numbers:
        sink.on_round(record(number), MODEL)
    if error is None:
        sink.on_end(MODEL)
    else:
        sink.on_stop(error)


def test_the_numbers_of_a_round():
    assert set(numbers_of(record(0))) == {
        "server/accuracy",
        "server/loss",
        "clients-train/train-loss",
        "seconds",
    }
    numbers = numbers_of(record(1))
    assert (numbers["clients/asked"], numbers["clients/late"], numbers["bytes/up"]) == (4, 1, 0)
    assert all(type(number) is float for number in numbers.values())


def test_with_differential_privacy_numbers_without_noise_are_not_sent():
    private = RoundRecord(1, {"accuracy": 0.5}, asked=4, kept=3, bytes_up=9, epsilon=1.5)
    assert numbers_of(private) == {"server/accuracy": 0.5, "privacy/epsilon": 1.5, "seconds": 0.0}


@dataclass(eq=False)
class Failing(Sink):
    """Fails in one of its methods."""

    extra: ClassVar[str] = "failing"
    module: ClassVar[str] = "json"

    method: str

    def __post_init__(self):
        self.calls = []

    def _call(self, name):
        self.calls.append(name)
        if name == self.method:
            raise OSError(28, "No space left on device")

    def open(self):
        self._call("open")

    def write(self, step, numbers):
        self._call("write")

    def close(self, status):
        self._call(status)


@pytest.mark.parametrize(
    ("method", "when", "calls"),
    [
        ("open", "at the start", ["open", "failed"]),
        ("write", "in round 0", ["open", "write", "failed"]),
        ("finished", "at the end", ["open", *["write"] * 3, "finished", "failed"]),
        ("nothing", None, ["open", *["write"] * 3, "finished"]),
    ],
)
def test_a_sink_that_fails_is_one_warning(tmp_path, caplog, method, when, calls):
    sink = Failing(method)
    with caplog.at_level(logging.WARNING, "flwr"):
        run(sink, tmp_path)
    messages = [entry.getMessage() for entry in caplog.records]
    text = "and gets nothing more of this run: OSError: [Errno 28] No space left on device"
    assert messages == ([] if when is None else [f"callback 'failing' failed {when}, {text}"])
    assert sink.calls == calls


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError(), "failed"), (KeyboardInterrupt(), "interrupted")]
)
def test_a_run_that_is_ended_ends_the_tools_run(tmp_path, error, status):
    sink = Failing("nothing")
    run(sink, tmp_path, error=error)
    assert sink.calls[-1] == status


def test_a_tool_that_is_not_installed_is_an_error_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(TensorBoard, "module", "no_such_module")
    for start in (lambda sink: sink.on_run(tmp_path, TABLE), lambda sink: sink.on_start(MODEL, 2)):
        with pytest.raises(ConfigError, match=r"pip install 'hqde-fl\[tensorboard\]'"):
            start(TensorBoard())


def test_sinks_are_named_in_files():
    assert CALLBACKS.build("tensorboard") is not CALLBACKS.build("tensorboard")
    assert CALLBACKS.build({"name": "mlflow", "tracking-uri": "x"}).tracking_uri == "x"
    with pytest.raises(ConfigError, match=r"callback wandb\.mode"):
        CALLBACKS.build({"name": "wandb", "mode": "of"})


def test_tensorboard_reads_what_was_written(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(TensorBoard(), tmp_path)
    run(TensorBoard(), tmp_path, numbers=[3])  # a run that is resumed
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    assert [event.step for event in read.Scalars("server/accuracy")] == [0, 1, 2, 3]
    assert read.Scalars("clients/kept")[0].value == 3
    assert "experiment/text_summary" in read.Tags()["tensors"]
    run(TensorBoard(str(tmp_path / "elsewhere")), tmp_path / "run")
    assert list((tmp_path / "elsewhere").iterdir())
    assert not (tmp_path / "run").exists()


def test_mlflow_reads_what_was_written(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # its databases take seconds to set up
    from mlflow import MlflowClient

    address = f"file:{tmp_path / 'tracking'}"
    run(MLflow(address, "study"), tmp_path / "run", error=KeyboardInterrupt())
    client = MlflowClient(address)
    experiment = client.get_experiment_by_name("study").experiment_id
    (found,) = client.search_runs([experiment])
    assert found.info.status == "KILLED"
    run(MLflow(address, "study"), tmp_path / "run", numbers=[3])  # it is resumed
    (found,) = client.search_runs([experiment])
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "run"
    assert found.data.params["strategy.rule.name"] == "mean"
    assert found.data.params["strategy.codec"] == "-"
    history = client.get_metric_history(found.info.run_id, "server/accuracy")
    assert [(metric.step, metric.value) for metric in history] == [
        (0, 0.0),
        (1, 0.25),
        (2, 0.5),
        (3, 0.75),
    ]


def test_an_mlflow_server_that_is_not_there_is_a_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with caplog.at_level(logging.WARNING, "flwr"):
        run(MLflow(f"http://127.0.0.1:{port}"), tmp_path)
    (message,) = [r.getMessage() for r in caplog.records if r.name == "flwr"]
    assert message.startswith("callback 'mlflow' failed at the start, and gets nothing more")


def test_weights_and_biases_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    run(WandB("study", mode="offline"), tmp_path)
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    assert (tmp_path / "wandb-run-id").read_text() in file.name
    texts = (b"study", b"clients/kept", b"0.25", b"0.5", b"strategy")

    def written() -> bool:  # a line of records, of which no module of wandb's reads the numbers
        log = file.read_bytes()
        return log.count(b"server/accuracy") >= 3 and all(text in log for text in texts)

    # A process of wandb's own writes the file, on a busy machine some time after the run is over.
    await_that(written, "wandb's file has the numbers of each round")
