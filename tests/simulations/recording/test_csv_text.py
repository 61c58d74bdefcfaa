import csv
import io

import pytest

from hqde_fl.simulations.recording.csv_text import csv_text


@pytest.mark.parametrize("text", ["=1+1", "+cmd", "-x", "@SUM(A1)", "\tx", "-", "=", "--1"])
def test_no_text_is_taken_for_a_formula(text):
    for row in csv.reader(io.StringIO(csv_text([{text: text}]).decode(), newline="")):
        assert row == [f"'{text}"]


def test_numbers_booleans_and_other_text_stay_as_they_are():
    record = {"a": -0.5, "b": "-1e-3", "c": True, "d": None, "e": "x=1", "f": "+2", "g": "i\rj"}
    assert csv_text([record]) == b"a,b,c,d,e,f,g\n-0.5,-1e-3,true,,x=1,+2,i j\n"
