"""Adult and Covertype from their CSV files."""

import gzip

import numpy as np
import pytest
import torch

from hqde_fl.errors import ConfigError, DataError
from hqde_fl.simulations.tasks import Adult, Covertype
from hqde_fl.simulations.tasks.adult import CATEGORIES

ROW = (
    "39, State-gov, 77516, Bachelors, 13, Never-married, Adm-clerical, Not-in-family, White, Male, "
    "2174, 0, 40, United-States, <=50K"
)
RICH = (
    "52, ?, 209642, HS-grad, 9, Married-civ-spouse, Exec-managerial, Husband, Black, Female, 0, 0, "
    "45, ?, >50K"
)


def write_adult(folder, train=(ROW, RICH), test=(RICH,)):
    folder.mkdir(exist_ok=True)
    (folder / "adult.data").write_text("\n".join(train) + "\n")
    lines = ["|1x3 Cross validator", *(f"{row}." for row in test)]
    (folder / "adult.test").write_text("\n".join(lines) + "\n\n")


def test_adult_is_read_standardised_and_with_its_categories(tmp_path):
    write_adult(tmp_path / "adult")
    located = Adult(str(tmp_path)).locate()
    train, test = located.table("train"), located.table("test")
    assert train.inputs.shape == (2, 105)
    assert train.labels.tolist() == [0, 1]
    assert test.labels.tolist() == [1]
    assert torch.equal(test.inputs[0], train.inputs[1])  # by the training rows' mean and deviation
    numbers, marks = train.inputs[:, :6], train.inputs[:, 6:]
    torch.testing.assert_close(numbers[:, 0], torch.tensor([-1.0, 1.0]))
    assert numbers[:, 4].tolist() == [0, 0]  # capital-loss is constant
    assert marks.sum(dim=1).tolist() == [8, 6]  # two are unknown
    names = [(name, value) for name, known in CATEGORIES.items() for value in known]
    found = {names[place] for place in marks[0].nonzero().flatten()}
    assert {("education", "Bachelors"), ("sex", "Male"), ("workclass", "State-gov")} < found
    assert train.columns["education"].tolist() == ["Bachelors", "HS-grad"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (ROW.replace("Bachelors", "Bachelor"), "in column 'education', found 'Bachelor'"),
        (ROW.replace("<=50K", "50K"), "'income', found '50K'"),
        (ROW.replace("39,", "old,"), "finite numbers in column 'age'"),
        (ROW.replace("39,", "inf,"), "finite numbers in column 'age'"),
        (ROW.partition(",")[2], "15 columns, found 14"),
        ("", "cannot read"),
    ],
)
def test_wrong_rows_of_adult_are_named(tmp_path, row, message):
    write_adult(tmp_path, train=(row,))
    with pytest.raises(DataError, match=rf"adult\.data.*{message}|cannot read .*adult\.data"):
        Adult(str(tmp_path)).locate().table("train")


def cover_row(number):
    soil = number % 40
    marks = [int(i == number % 4) for i in range(4)] + [int(i == soil) for i in range(40)]
    return [2000 + number, *range(9), *marks, 1 + number % 7]


def write_covertype(folder, rows, zipped=True):
    content = "\n".join(",".join(map(str, row)) for row in rows).encode()
    name = "covtype.data.gz" if zipped else "covtype.data"
    (folder / name).write_bytes(gzip.compress(content) if zipped else content)


@pytest.mark.parametrize("zipped", [True, False])
def test_covertype_is_divided_into_a_fifth_for_tests(tmp_path, zipped):
    write_covertype(tmp_path, [cover_row(number) for number in range(50)], zipped)
    located = Covertype(str(tmp_path)).locate()
    train, test = located.table("train"), located.table("test")
    assert (len(train), len(test)) == (40, 10)
    both = np.concatenate([np.asarray(train.labels), np.asarray(test.labels)])
    assert sorted(both.tolist()) == sorted(number % 7 for number in range(50))
    assert train.inputs.shape[1] == 54
    torch.testing.assert_close(train.inputs[:, 0].mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    assert test.inputs[:, 10:].sum(dim=1).tolist() == [2] * 10
    assert set(train.columns["wilderness-area"].tolist()) == {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[*cover_row(1)[:-1], 8]], "classes from 1 to 7 in its last column, found 8"),
        ([cover_row(1)[1:]], "have 55 columns, found 54"),
        ([["x", *cover_row(1)[1:]]], "finite numbers in column '1'"),
    ],
)
def test_wrong_rows_of_covertype_are_named(tmp_path, rows, message):
    write_covertype(tmp_path, rows)
    with pytest.raises(DataError, match=rf"covtype\.data\.gz must .*{message}"):
        Covertype(str(tmp_path)).locate().table("train")


def test_missing_files_are_named_with_a_command(tmp_path):
    with pytest.raises(DataError, match=rf"no adult\.data in {tmp_path}\. .*curl .*adult\.zip"):
        Adult(str(tmp_path)).locate()
    with pytest.raises(DataError, match=r"no covtype\.data\.gz in .*covertype\.zip"):
        Covertype(str(tmp_path)).locate()


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (Adult, {"hidden": 0}, r"Adult\.hidden must be >= 1, found 0"),
        (Covertype, {"hidden": 0}, r"Covertype\.hidden must be >= 1, found 0"),
        (Adult, {"model": "tree"}, r"Adult\.model must be one of mlp, logistic, found 'tree'"),
        (Covertype, {"data": "hugging-face"}, "must be files or synthetic, found 'hugging-face'"),
    ],
)
def test_impossible_options_are_refused(kind, options, message):
    with pytest.raises(ConfigError, match=message):
        kind(**options)
