import io
import logging

from rich.console import Console

from hqde_fl.simulations.console.progress import describe, progress, quiet_flower
from hqde_fl.simulations.recording.run_directory import round_line
from hqde_fl.strategies.callbacks import RoundRecord

LINE = round_line(
    RoundRecord(
        round=3,
        server={"accuracy": 0.93125, "loss": float("nan"), "f1": 0.5},
        asked=10,
        kept=6,
        filtered=3,
        late=1,
        bytes_up=1_500_000,
        bytes_down=2_000_000,
        seconds=2.14,
    )
)


def test_a_round_in_one_line():
    assert describe(LINE, 15) == (
        "round  3/15  accuracy 0.9313  loss -  f1 0.5000  up 1.50 MB  down 2.00 MB  "
        "kept 6/10  filtered 3  late 1  2.1 s"
    )
    assert "model kept: too few" in describe({**LINE, "note": "too few"}, 15)
    assert "f 1 of 2" in describe({**LINE, "f": 2, "f-used": 1}, 15)
    assert "f 2 of 2" not in describe({**LINE, "f": 2, "f-used": 2}, 15)
    assert "late 1  missing 3  skipped 2" in describe({**LINE, "missing": 3, "skipped": 2}, 15)
    start = round_line(RoundRecord(round=0, server={"accuracy": 0.1}, seconds=0.5))
    assert describe(start, 5) == "round 0/5  accuracy 0.1000  0.5 s"


def test_without_a_server_metric_the_clients_are_quoted():
    line = round_line(RoundRecord(round=1, clients_evaluate={"eval-accuracy": 0.5}, asked=1))
    assert "eval-accuracy 0.5000" in describe(line, 1)
    assert "evaluated" not in describe(line, 1)


def test_clients_that_are_not_in_the_evaluation_are_counted():
    record = RoundRecord(round=1, evaluation_asked=3, evaluation_excluded={2: "late"})
    assert "  evaluated 2/3  " in describe(round_line(record), 1)


def test_plain_lines_where_there_is_no_terminal():
    console = Console(file=io.StringIO(), width=40)
    with progress(15, console) as show:
        show(LINE)
    assert console.file.getvalue() == describe(LINE, 15) + "\n"


def test_a_bar_and_the_same_lines_on_a_terminal():
    console = Console(file=io.StringIO(), force_terminal=True, width=200, color_system=None)
    with progress(15, console, "demo") as show:
        show(LINE)
    text = console.file.getvalue()
    assert describe(LINE, 15) in text
    assert "demo" in text
    assert "3/15" in text


def test_a_warning_is_logged_once_while_flower_is_quiet(caplog):
    logger = logging.getLogger("flwr")
    with quiet_flower():
        for text in ("f is large", "f is large", "other"):
            logger.warning("round %s", text)
            logger.info("nothing")
    logger.warning("round %s", "f is large")
    assert [entry.getMessage().removeprefix("round ") for entry in caplog.records] == [
        "f is large",
        "other",
        "f is large",
    ]
