import gzip
import struct

import numpy as np
import pytest

from hqde_fl.errors import DataError
from hqde_fl.simulations.tasks.idx import read_idx

GOOD = struct.pack(">BBBB2I", 0, 0, 8, 2, 2, 3) + bytes(range(6))


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_plain_and_gzipped_files_are_read(tmp_path, suffix):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(gzip.compress(GOOD) if suffix else GOOD)
    array = read_idx(path)
    assert array.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert array.dtype == np.uint8
    assert array.flags.writeable


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        pytest.param("a", b"", "is not an IDX file .* found nothing", id="empty"),
        pytest.param("a", b"\x89PNG....", "must begin with 000008, found 89504e", id="picture"),
        pytest.param("a", b"\0\0\x0d\x01\0\0\0\0", "found 00000d", id="floats"),
        pytest.param("a", b"\0\0\x08\0", "1 to 4 dimensions and their sizes, found 0", id="scalar"),
        pytest.param("a", b"\0\0\x08\x02\0\0\0\1", "found 2 in 8 bytes", id="sizes-cut"),
        pytest.param("a", GOOD[:-1], r"6 bytes for its shape \(2, 3\), found 5", id="byte-missing"),
        pytest.param("a", GOOD + b"\0", "found 7", id="byte-too-many"),
        pytest.param(
            "a", struct.pack(">BBBB4I", 0, 0, 8, 4, *[2**32 - 1] * 4), "found 0", id="huge"
        ),
        pytest.param("a.gz", GOOD, "cannot read .*a.gz", id="not-gzipped"),
        pytest.param("a.gz", gzip.compress(GOOD)[:-9], "cannot read .*a.gz", id="gzip-cut"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_idx(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*nothing"):
        read_idx(tmp_path / "nothing")
