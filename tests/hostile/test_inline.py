"""Trials of ``HQDEStrategy`` with every row of the hostile catalogue."""

from __future__ import annotations

import pytest
from flwr.app import ArrayRecord

from hqde_fl.codec import Identity, Quantized
from hqde_fl.rules import ByzantineFilter, Mean
from hqde_fl.simulations.audit import HOSTILE, trial
from hqde_fl.simulations.audit.honest_clients import CULPRIT, initial_model, model_signature
from hqde_fl.strategies.callbacks import Callback, ClientRecord, RoundRecord
from hqde_fl.strategies.hqde import HQDEStrategy
from hqde_fl.strategies.settings import Communication, Participation, Reporting


class Culprit(Callback):
    """A callback that keeps the culprit's records and the number of kept clients."""

    def __init__(self) -> None:
        self.records: list[ClientRecord] = []
        self.kept: list[int] = []

    def on_round(self, record: RoundRecord, arrays: ArrayRecord) -> None:
        self.kept.append(record.kept)
        self.records += [client for client in record.clients if client.partition == CULPRIT]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_reply_is_named_and_honest_progress_is_kept(name: str) -> None:
    """Rows that screening must reject are tried without a robust rule."""
    row, culprit = HOSTILE[name], Culprit()
    strategy = HQDEStrategy(
        Mean(weighted=True) if row.expected else ByzantineFilter(),
        communication=Communication(
            downlink=Quantized(8, unbiased=False) if row.codec else Identity()
        ),
        participation=Participation(identify=True),
        reporting=Reporting([culprit]),
    )
    finding = trial(strategy, row, guarded=True, expected=model_signature(initial_model()))
    assert finding.withstood, finding
    last = culprit.records[-1]
    if row.request == "evaluate":
        assert last.kept
        assert finding.named == bool(row.expected)
        assert row.expected in f"{finding.said} "
    elif row.expected:
        assert not last.kept
        assert last.influence == 0
        assert (last.reason or "").startswith(row.expected)
        assert finding.named
        assert culprit.kept[-1] == 10
    else:
        assert last.reason in (None, "filtered", "missing: needs the model in full")


def test_honest_clients_pass() -> None:
    culprit = Culprit()
    strategy = HQDEStrategy(
        participation=Participation(identify=True), reporting=Reporting([culprit])
    )
    finding = trial(strategy, None, expected=model_signature(initial_model()))
    assert finding.withstood
    assert not finding.named
    assert [record.reason for record in culprit.records] == [None, None]
