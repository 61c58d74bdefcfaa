"""The bytes of a message by the role of what they carry."""

from __future__ import annotations

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from hqde_fl.protocol.message_size import ROLES_AND_OTHER, bytes_by_role, message_bytes
from hqde_fl.protocol.packed_updates import DELTA, to_packed
from hqde_fl.protocol.records import layout_of, to_record
from hqde_fl.updates.layout import Layout
from hqde_fl.updates.roles import Roles

MODEL = to_record(
    {
        "weight": torch.ones(50),
        "bn.running_var": torch.ones(20),
        "bn.num_batches_tracked": torch.tensor(3),
        "backbone": torch.ones(100),
    }
)
LAYOUT = Layout.of(
    [(e.name, e.shape, e.dtype) for e in layout_of(MODEL).entries], Roles({"backbone": "frozen"})
)
METRICS = MetricRecord({"train-loss": 0.5})


def test_each_entry_counts_for_its_role_and_the_rest_is_other() -> None:
    content = RecordDict({"arrays": MODEL, "metrics": METRICS})
    sizes = bytes_by_role(content, [LAYOUT])
    assert tuple(sizes) == ROLES_AND_OTHER
    for name, role in {"weight": "trainable", "backbone": "frozen"}.items():
        without = {key: array for key, array in MODEL.items() if key != name}
        rest = bytes_by_role(RecordDict({"arrays": ArrayRecord(without)}), [LAYOUT])
        assert rest[role] == 0
        assert len(MODEL[name].data) < sizes[role] < len(MODEL[name].data) + 60
    assert sizes["statistics"] > 80
    assert sizes["counters"] > 8
    assert 0 < sizes["other"] < 80
    assert sum(sizes.values()) == message_bytes(content)


def test_payloads_are_trainable_and_unknown_arrays_are_other() -> None:
    for name, role in ((DELTA, "trainable"), (f"{DELTA}-3", "trainable"), ("stranger", "other")):
        record = ArrayRecord({name: to_packed(bytes(500))})
        sizes = bytes_by_role(RecordDict({"arrays": record}), [LAYOUT])
        assert {part for part, size in sizes.items() if size > 500} == {role}


def test_entries_of_an_ensemble_carry_their_members_name() -> None:
    other = Layout.of([("weight", (50,), "float32")], Roles({"weight": "frozen"}))
    layouts = [LAYOUT, other]
    for name, role in (
        ("member-0/weight", "trainable"),
        ("member-1/weight", "frozen"),
        (f"member-1/{DELTA}-0", "trainable"),
        ("member-2/weight", "other"),
        ("weight", "other"),
        ("member-0/", "other"),
    ):
        record = ArrayRecord({name: Array("float32", (50,), "numpy.ndarray", bytes(400))})
        sizes = bytes_by_role(RecordDict({"arrays": record}), layouts)
        assert {part for part, size in sizes.items() if size > 400} == {role}, name


NAMES = st.sampled_from([*MODEL, DELTA, "x", ""]) | st.text()


@given(sizes=st.dictionaries(NAMES, st.integers(0, 1000), max_size=5), prefix=st.booleans())
def test_the_parts_are_the_whole_message(sizes: dict[str, int], prefix: bool) -> None:
    arrays = {
        f"member-1/{name}" if prefix else name: Array("uint8", (size,), "x", bytes(size))
        for name, size in sizes.items()
    }
    content = RecordDict(
        {"a": ArrayRecord(arrays), "m": METRICS, "c": ConfigRecord({"codec": "{}"})}
    )
    for layouts in ([LAYOUT], [LAYOUT, LAYOUT]):
        assert sum(bytes_by_role(content, layouts).values()) == message_bytes(content)
