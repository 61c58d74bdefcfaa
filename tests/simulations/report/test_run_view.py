"""The page of a run shows how many bytes its messages carried for each role."""

from __future__ import annotations

from hqde_fl.simulations.recording.comparison import Comparison
from hqde_fl.simulations.report import write_report
from hqde_fl.simulations.report.number_text import byte_text, client_list_text
from hqde_fl.simulations.report.run_view import CarriedBytes, carried_bytes
from hqde_fl.strategies.callbacks import ClientRecord, RoundRecord

MISSING = ClientRecord(2, 77, 0, False, 0.0, "missing: needs the model in full", 1, 1, None)
ROUNDS = [
    RoundRecord(round=0),
    RoundRecord(
        round=1,
        bytes_down_by_role={"trainable": 4000, "frozen": 12_340_000, "other": 50},
        bytes_up_by_role={"trainable": 4000, "frozen": 0, "other": 70},
    ),
    RoundRecord(
        round=2,
        bytes_down_by_role={"trainable": 500, "frozen": 0, "other": 90},
        bytes_up_by_role={"trainable": 600, "frozen": 0, "other": 70},
        clients=(MISSING,),
    ),
]


def test_bytes_are_summed_by_what_they_carried(tmp_path, tiny, record):
    assert carried_bytes(record(tmp_path / "run", tiny, ROUNDS)) == [
        CarriedBytes("trainable", down=4500, down_last=500, up=4600, up_last=600),
        CarriedBytes("frozen", down=12_340_000, down_last=0, up=0, up_last=0),
        CarriedBytes("other", down=140, down_last=90, up=140, up_last=70),
    ]


def test_the_page_shows_them_and_clients_that_lacked_a_part(tmp_path, tiny, record):
    run = record(tmp_path / "run", tiny, ROUNDS)
    page = write_report(Comparison.of(run), tmp_path).read_text()
    assert "What the messages carried" in page
    frozen = page[page.index("<tr><th>frozen</th>") :]
    assert frozen.index("12.3 MB") < frozen.index("0 B") < frozen.index("</tr>")
    assert '<i class="missing"></i>missing' in page
    assert ".missing {" in page
    assert "<tr><th>missing</th>" in page


def test_a_run_recorded_without_roles_has_no_such_table(tmp_path, tiny, record):
    rounds = [RoundRecord(round=0), RoundRecord(round=1, bytes_down=10, bytes_up=10)]
    run = record(tmp_path / "run", tiny, rounds)
    assert carried_bytes(run) == []
    page = write_report(Comparison.of(run), tmp_path).read_text()
    assert "What the messages carried" not in page


def test_bytes_have_units():
    sizes = (0, 999, 1000, 40_520, 1_230_000, 15_940_620, 2_500_000_000)
    texts = ["0 B", "999 B", "1.00 kB", "40.5 kB", "1.23 MB", "15.9 MB", "2.50 GB"]
    assert [byte_text(size) for size in sizes] == texts


def test_of_many_clients_the_first_are_listed() -> None:
    assert client_list_text([3, 1, 2]) == "1, 2, 3"
    assert client_list_text([]) == ""
    text = client_list_text(range(200_000))
    assert text.endswith(", 38, 39 and 199,960 more")
