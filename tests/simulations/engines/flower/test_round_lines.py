"""Rounds in the log of a run reach whoever follows it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord

from hqde_fl.simulations.engines.flower.round_lines import LoggedRounds, RoundReader
from hqde_fl.strategies.callbacks import RoundRecord


def record(number: int) -> RoundRecord:
    return RoundRecord(
        round=number, server={"accuracy": float("nan")}, clients_train={}, clients_evaluate={},
        clients=(), asked=2, kept=2, f=0, f_used=0, seconds=1.0,
    )  # fmt: skip


def test_a_logged_round_is_read_once(capsys: pytest.CaptureFixture[str]) -> None:
    arrays = ArrayRecord({"w": Array(np.zeros(1, np.float32))})
    for number in (0, 1):
        LoggedRounds().on_round(record(number), arrays)
    lines = capsys.readouterr().out.splitlines()
    read: list[Any] = []
    reader = RoundReader(read.append)
    for line in ["INFO : something", *lines, *lines]:
        reader.read(line)
    assert [table["round"] for table in read] == [0, 1]
    assert read[0]["server"] == {"accuracy": None}


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"round":"1"}', '{"round":1}', '{"round":' + "[" * 9000 + "}"]
)
def test_other_lines_are_ignored(text: str) -> None:
    read: list[Any] = []
    RoundReader(read.append).read(f"hqde-fl round: {text}")
    RoundReader(read.append).read(f"reason: hqde-fl round: {json.dumps({'round': 1})}")
    assert not read
