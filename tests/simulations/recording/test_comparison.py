import pytest

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.recording.comparison import Comparison


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "[]",
        "{}",
        '{"name": "x", "axes": 3, "cells": []}',
        '{"name": "x", "axes": [], "cells": [{"labels": [], "directory": 3, "error": null}]}',
        '{"name": "x", "axes": [], "cells": [{"labels": ["a"], "directory": "", "error": null}]}',
    ],
    ids=["empty", "list", "no axes", "wrong axes", "wrong directory", "label without axis"],
)
def test_a_damaged_index_is_one_clear_line(tmp_path, damage):
    (tmp_path / "sweep.json").write_text(damage)
    with pytest.raises(ConfigError, match=r"sweep\.json is damaged: \w+Error: "):
        Comparison.load(tmp_path)
