"""Fuzzing: randomly changed replies raise nothing, and honest clients are kept."""

from __future__ import annotations

import os

import pytest
from flwr.app import ConfigRecord, Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hqde_fl.codec import Codec, Identity, Quantized
from hqde_fl.protocol.flower_internals import set_message_id
from hqde_fl.rules import TrimmedMean
from hqde_fl.simulations.audit import pickle_canary as canary
from hqde_fl.simulations.audit.grid import AuditGrid
from hqde_fl.simulations.audit.honest_clients import (
    CULPRIT,
    deviation,
    honest_content,
    initial_model,
)
from hqde_fl.simulations.audit.trial import TOLERANCE
from hqde_fl.strategies.hqde import HQDEStrategy
from hqde_fl.strategies.settings import Communication, Participation, Reporting
from tests.hostile.batch import Rounds
from tests.hostile.mutations import mutated

EXAMPLES = int(os.environ.get("HQDE_FL_FUZZ_EXAMPLES", "60"))
"""Number of examples; a long run: HQDE_FL_FUZZ_EXAMPLES=100000 pytest tests/hostile/test_fuzz.py"""


@pytest.mark.parametrize("downlink", [None, Quantized(8, unbiased=False)], ids=["full", "downlink"])
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_reply_changed_at_random_does_no_harm(
    downlink: Codec | None, data: st.DataObject
) -> None:
    grid = AuditGrid(None)
    rounds = Rounds()
    hqde = HQDEStrategy(
        TrimmedMean(f=1),
        communication=Communication(downlink=downlink or Identity()),
        participation=Participation(fraction_evaluate=0, identify=True),
        reporting=Reporting([rounds]),
    )
    arrays = initial_model()
    for number in (1, 2):
        messages = hqde.configure_train(number, arrays, ConfigRecord(), grid)
        replies = []
        for partition, message in enumerate(messages):
            set_message_id(message, f"{number}-{partition}")
            if partition == CULPRIT:
                content = honest_content(messages[0], partition)  # this message has the full model
                replies.append(mutated(data.draw, content, message))
            else:
                replies.append(Message(honest_content(message, partition), reply_to=message))
        changed, _ = hqde.aggregate_train(number, replies)
        assert changed is not None
        arrays = changed
        record = hqde._current_round(hqde.state.round).record
        assert record.note is None
        assert all(client.kept for client in record.clients if client.partition != CULPRIT)
    assert deviation(arrays, 2) <= TOLERANCE
    assert not canary.was_loaded()
