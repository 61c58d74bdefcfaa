import pytest
import torch

from hqde_fl.clients.initial_state import initial_state
from hqde_fl.errors import ConfigError
from hqde_fl.protocol.members import split_members
from hqde_fl.seeding import Seeds


def test_a_single_member_keeps_the_names_of_the_model(task):
    assert list(initial_state(task, 1, Seeds(0))) == list(task.model().state_dict())


def test_several_members_have_prefixed_names_and_different_weights(task):
    state = initial_state(task, 3, Seeds(0))
    names = list(task.model().state_dict())
    assert list(state) == [f"member-{m}/{name}" for m in range(3) for name in names]
    one, two, _ = split_members(state, 3)
    assert not torch.equal(one["0.weight"], two["0.weight"])
    task.model().load_state_dict(one)


def test_the_initial_state_depends_on_the_seed_alone(task):
    torch.manual_seed(1)
    rng = torch.get_rng_state()
    one = initial_state(task, 2, Seeds(4))
    assert torch.equal(torch.get_rng_state(), rng)
    torch.manual_seed(2)
    two = initial_state(task, 2, Seeds(4))
    assert all(torch.equal(one[name], two[name]) for name in one)
    other = initial_state(task, 2, Seeds(5))
    assert not torch.equal(one["member-0/0.weight"], other["member-0/0.weight"])
    first = initial_state(task, 1, Seeds(4))
    assert torch.equal(first["0.weight"], one["member-0/0.weight"])


def test_there_is_at_least_one_member(task):
    with pytest.raises(ConfigError, match="members must be >= 1, found 0"):
        initial_state(task, 0, Seeds(0))
