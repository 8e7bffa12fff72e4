"""What `make chaos` prints adds up, and a proof that breaks off is a violation."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.findings import Finding, line, table, written
from tests.chaos.proofs import SHORT, Place, Size, prove, timed

FOUND = [
    Finding("3 kill -9", "postgres", "killed", kills=2, acknowledged=7),
    Finding("1 model", "sqlite", "walked", seeds=5, mutants=9),
    Finding("3 kill -9", "sqlite", "killed", kills=3, acknowledged=11, violations=["lost one"]),
]


def test_a_line_adds_up_the_proofs_of_its_database() -> None:
    assert line("sqlite", FOUND) == "sqlite kills=3 acknowledged=11 seeds=5 mutants=9 violations=1"
    assert line("postgres", FOUND) == "postgres kills=2 acknowledged=7 seeds=0 mutants=0 violations=0"


def test_the_table_has_a_row_for_each_proof_in_the_order_of_the_proofs() -> None:
    rows = table(FOUND).splitlines()
    assert len({row.count("|") for row in rows}) == 1
    assert [row[:22] for row in rows[2:]] == [
        "| 1 model | sqlite | w",
        "| 3 kill -9 | sqlite |",
        "| 3 kill -9 | postgres",
    ]
    assert rows[3].endswith("| 3 | 11 |  |  | 1 |")


def test_a_proof_that_breaks_off_is_a_violation(tmp_path: Path) -> None:
    def broken(_: Place, __: Size) -> Finding:
        raise OSError("no room")

    found = timed(broken, Place(tmp_path), SHORT)
    assert (found.database, found.violations) == ("sqlite", ["OSError('no room')"])


def test_a_proof_for_which_there_was_no_time_is_a_violation_and_not_left_out() -> None:
    found = prove("sqlite", ["power", "storm"], SHORT, until_s=0.0)
    assert [(one.proof, one.violations) for one in found] == [
        ("power", ["not begun: the minutes were over"]),
        ("storm", ["not begun: the minutes were over"]),
    ]


def test_the_table_takes_the_place_of_the_one_before() -> None:
    document = "# A\n\n## The last long run\n\nold\nrows\n\n## The guards\n\nthese\n"
    once = written(document, "new\n")
    assert once == "# A\n\n## The last long run\n\nnew\n\n## The guards\n\nthese\n"
    assert written(once, "new\n") == once
