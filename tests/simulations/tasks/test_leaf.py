"""FEMNIST and Shakespeare from LEAF's files."""

import json

import numpy as np
import pytest
import torch

from hqde_fl.errors import ConfigError, DataError
from hqde_fl.simulations.tasks import Femnist, Shakespeare
from hqde_fl.simulations.tasks.leaf_files import rows_of_part
from hqde_fl.simulations.tasks.predefined_users import PredefinedUsers
from hqde_fl.simulations.tasks.shakespeare import LETTERS

TEXT = "To be, or not to be: that is the question.\nWhether 'tis nobler in the mind to suffer the"


def write(path, users):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "users": list(users),
        "num_samples": [len(y) for _, y in users.values()],
        "user_data": {user: {"x": x, "y": y} for user, (x, y) in users.items()},
    }
    path.write_text(json.dumps(content))


def images(*labels):
    return [[label / 255] * 784 for label in labels], list(labels)


def texts(count, shift=0):
    text = TEXT[shift:] * 3
    starts = range(count)
    return [text[i : i + 80] for i in starts], [text[i + 80] for i in starts]


def test_femnist_is_read_in_leafs_parts_and_by_writer(tmp_path):
    folder = tmp_path / "femnist" / "data"
    write(folder / "train" / "a.json", {"w1": images(1, 61), "w2": images(3)})
    write(folder / "train" / "b.json", {"w3": images(7, 8, 9), "w4": images()})
    write(folder / "test" / "a.json", {"w1": images(5)})
    task = Femnist(str(tmp_path)).build(PredefinedUsers(), 0)
    found = sorted(task.partition(number, 3).tensors[1].tolist() for number in range(3))
    assert found == [[1, 61], [3], [7, 8, 9]]
    x, y = task.test().tensors
    assert y.tolist() == [5]
    torch.testing.assert_close(x, torch.full((1, 1, 28, 28), 5 / 255))


def test_undivided_files_give_a_tenth_of_each_writer_to_the_test(tmp_path):
    write(
        tmp_path / "all_data" / "all.json", {"a": images(*range(20)), "b": images(*range(20, 29))}
    )
    located = Femnist(str(tmp_path)).locate()
    train, test = located.table("train"), located.table("test")
    assert sorted(train.labels.tolist() + test.labels.tolist()) == list(range(29))
    assert test.columns["user"].tolist() == ["a", "a"]


def test_rows_are_divided_by_user():
    users = np.array(list("abab" * 10 + "c" * 9))
    last = rows_of_part(users, "test", shuffled=False)
    assert last.tolist() == [36, 37, 38, 39]
    drawn = rows_of_part(users, "test", shuffled=True)
    assert sorted(users[drawn].tolist()) == ["a", "a", "b", "b"]
    assert drawn.tolist() != last.tolist()
    rest = rows_of_part(users, "train", shuffled=True)
    assert sorted([*rest, *drawn]) == list(range(len(users)))


def test_shakespeare_is_read_as_characters(tmp_path):
    write(tmp_path / "train" / "a.json", {"HAMLET": texts(5), "GHOST": texts(2, shift=7)})
    write(tmp_path / "test" / "a.json", {"HAMLET": texts(1, shift=3)})
    task = Shakespeare(str(tmp_path)).build(PredefinedUsers(grouped=True), 0)
    x, y = task.partition(0, 1).tensors
    assert x.dtype == y.dtype == torch.int64
    for row, label, text, following in zip(x, y, *map(lambda a, b: a + b, texts(5), texts(2, 7)),
                                           strict=True):  # fmt: skip
        assert "".join(LETTERS[code] for code in row) == text
        assert LETTERS[label] == following
    assert len(LETTERS) == len(set(LETTERS)) == 80 == Shakespeare.classes


def test_other_characters_count_as_spaces(tmp_path):
    write(tmp_path / "all.json", {"a": ([chr(8212) * 40 + "~" * 40], [chr(127)])})
    table = Shakespeare(str(tmp_path)).locate().table("train")
    space = LETTERS.index(" ")
    assert set(table.inputs.flatten().tolist()) == {space}
    assert table.labels.tolist() == [space]


@pytest.mark.parametrize("kind", [Femnist, Shakespeare])
def test_missing_files_are_named_with_a_command(tmp_path, kind):
    with pytest.raises(DataError, match=rf"no all_data/\*\.json in {tmp_path}\. .*preprocess\.sh"):
        kind(str(tmp_path)).locate()
    write(tmp_path / "train" / "a.json", {"a": images(1)})
    (tmp_path / "test").mkdir()
    with pytest.raises(DataError, match=r"no test/\*\.json in .*git clone .*leaf"):
        kind(str(tmp_path)).locate()


@pytest.mark.parametrize(
    ("kind", "users", "message"),
    [
        (Femnist, {"a": ([[0.5] * 783], [1])}, "each x of user 'a' must be 784 numbers"),
        (Femnist, {"a": ([[1.5] * 784], [1])}, r"784 numbers in \[0, 1\]"),
        (Femnist, {"a": (["text"], [1])}, "784 numbers"),
        (Femnist, {"a": ([[0.5] * 784], [62])}, "a class from 0 to 61"),
        (Femnist, {"a": ([[0.5] * 784], ["b"])}, "a class from 0 to 61"),
        (Femnist, {"a": ([], [])}, "at least 1 example"),
        (Shakespeare, {"a": (["short"], ["b"])}, "each x of user 'a' must be a text of 80"),
        (Shakespeare, {"a": (["x" * 80], [3])}, "each y of user 'a' must be a text of 1 "),
        (Shakespeare, {"a": (["x" * 80], [])}, "as many x as y, found 1 and 0"),
        (Shakespeare, {"a": ("x" * 80, ["y"])}, "must have lists x and y"),
    ],
)
def test_wrong_examples_are_named(tmp_path, kind, users, message):
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps({
        "users": list(users),
        "user_data": {user: {"x": x, "y": y} for user, (x, y) in users.items()},
    }))  # fmt: skip
    with pytest.raises(DataError, match=message):
        kind(str(tmp_path)).locate().table("train")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"users": ["a"], "user_data": {}}'])
def test_other_json_is_refused(tmp_path, content):
    (tmp_path / "odd.json").write_text(content)
    with pytest.raises(DataError, match=r"cannot read .*odd\.json as LEAF's JSON"):
        Femnist(str(tmp_path)).locate().table("train")


@pytest.mark.parametrize("parameter", ["embedding", "hidden", "layers"])
def test_impossible_lstms_are_refused(parameter):
    with pytest.raises(ConfigError, match=rf"Shakespeare\.{parameter} must be >= 1, found 0"):
        Shakespeare(**{parameter: 0})
