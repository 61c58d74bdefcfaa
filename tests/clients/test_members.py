import pytest
import torch

from hqde_fl.clients.members import initial_state, join, split
from hqde_fl.errors import ConfigError
from hqde_fl.seeding import Seeds


def test_a_single_member_keeps_the_names_of_the_model(task):
    assert list(initial_state(task, 1, Seeds(0))) == list(task.model().state_dict())


def test_several_members_have_prefixed_names_and_different_weights(task):
    state = initial_state(task, 3, Seeds(0))
    names = list(task.model().state_dict())
    assert list(state) == [f"member-{m}/{name}" for m in range(3) for name in names]
    one, two, _ = split(state, 3)
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


@pytest.mark.parametrize("members", [1, 2, 11])
def test_split_undoes_join(task, members):
    states = [{"a/b": torch.tensor([float(m)]), "n": torch.tensor(m)} for m in range(members)]
    assert split(join(states), members) == states


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"member-0/w": 0, "member-2/w": 0}, "found 'member-2/w'"),
        ({"w": 0}, "found 'w'"),
        ({"member-0/": 0}, "found 'member-0/'"),
        ({"member-0/w": 0}, "has no member-1/"),
    ],
)
def test_a_state_of_other_members_is_refused(state, message):
    with pytest.raises(ConfigError, match=message):
        split(state, 2)


def test_there_is_at_least_one_member(task):
    with pytest.raises(ConfigError, match="members must be >= 1, found 0"):
        initial_state(task, 0, Seeds(0))
    with pytest.raises(ConfigError, match="members must be >= 1, found 0"):
        split({}, 0)
