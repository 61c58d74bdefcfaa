"""Members of an ensemble in one state dict."""

from __future__ import annotations

import pytest
import torch

from hqde_fl.errors import ConfigError
from hqde_fl.protocol.members import join_members, model_arrays, replace_model, split_members
from hqde_fl.protocol.records import from_record, to_record


@pytest.mark.parametrize("members", [1, 2, 11])
def test_split_undoes_join(members: int) -> None:
    states = [{"a/b": torch.tensor([float(m)]), "n": torch.tensor(m)} for m in range(members)]
    assert split_members(join_members(states), members) == states


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"member-0/w": 0, "member-2/w": 0}, "found 'member-2/w'"),
        ({"w": 0}, "found 'w'"),
        ({"member-0/": 0}, "found 'member-0/'"),
        ({"member-0/w": 0}, "found no member-1/"),
    ],
)
def test_a_state_of_other_members_is_refused(state: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        split_members(state, 2)


def test_there_is_at_least_one_member() -> None:
    with pytest.raises(ConfigError, match="members must be >= 1, found 0"):
        split_members({}, 0)


@pytest.mark.parametrize("member", [None, 0, 1])
def test_one_model_among_several_is_replaced(member: int | None) -> None:
    record = to_record({"member-0/w": torch.zeros(2), "member-1/w": torch.ones(2)})
    changed = replace_model(record, member, to_record({"w": torch.full((2,), 7.0)}))
    assert from_record(model_arrays(changed, member))["w"].tolist() == [7, 7]
    assert len(changed) == (1 if member is None else 2)
    if member is not None:
        other = model_arrays(changed, 1 - member)
        assert from_record(other)["w"].tolist() == [1 - member] * 2
