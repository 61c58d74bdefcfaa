"""``nodes status`` says what is known of each node."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from hqde_fl.simulations.deploy.node_overview import NodeTimes, ago, last_seen, node_times


def line(
    number: int, node: int, seconds: float | None, reason: str | None = None
) -> dict[str, Any]:
    whole = None if seconds is None else seconds + 2
    return {
        "round": number,
        "node": node,
        "seconds": seconds,
        "turnaround-seconds": whole,
        "reason": reason,
    }


def test_times_are_medians_of_recent_rounds_and_the_last_reason_is_kept() -> None:
    lines = [line(number, 1, 100.0) for number in range(1, 4)]
    lines += [line(number, 1, 5.0) for number in range(4, 14)]
    lines += [line(12, 2, None, "late"), line(13, 2, None, "failed: KeyError: 'x'")]
    times = node_times(lines)
    assert times[1] == NodeTimes(13, 5.0, 7.0)
    assert times[2] == NodeTimes(13, None, None, "round 13: failed: KeyError: 'x'")


def test_last_seen_is_the_last_heartbeat_or_the_end() -> None:
    ended = datetime(2026, 1, 1, tzinfo=UTC)
    online = SimpleNamespace(status="online", online_until=1060.0, heartbeat_interval=30.0)
    offline = SimpleNamespace(status="offline", last_deactivated_at=ended.isoformat())
    never = SimpleNamespace(status="registered", last_deactivated_at="")
    assert last_seen(online) == 1000.0
    assert last_seen(offline) == ended.timestamp()
    assert last_seen(never) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s ago"), (119, "119 s ago"), (120, "2 min ago"), (7200, "2 h ago"), (-5, "0 s ago")],
)
def test_ago(seconds: float, text: str) -> None:
    assert ago(1000.0, lambda: 1000.0 + seconds) == text
    assert ago(None) == "never"
