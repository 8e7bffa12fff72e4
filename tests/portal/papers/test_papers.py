"""Statements add up, and months have their days."""

from __future__ import annotations

import pytest

from minitoolai.core.clock import MS_PER_DAY
from minitoolai.portal.i18n import LANGUAGES
from minitoolai.portal.papers.papers import MonthSums, month_bounds, party, statement_paper

NANO = 10**9
SUMS = MonthSums(5 * NANO, {"payment": 20 * NANO, "strange": NANO}, [("chat", "small", 1200, 4 * NANO)])


@pytest.mark.parametrize(
    ("month", "days"), [("2026-11", 30), ("2026-12", 31), ("2024-02", 29), ("2026-02", 28), ("1970-01", 31)]
)
def test_a_month_has_its_days(month: str, days: int) -> None:
    bounds = month_bounds(month)
    assert bounds is not None
    assert bounds[1] - bounds[0] == days * MS_PER_DAY
    assert bounds[0] % MS_PER_DAY == 0


@pytest.mark.parametrize("text", ["", "2026", "2026-13", "2026-00", "26-11-01", "2026-11-01", "november"])
def test_what_is_no_month_has_no_bounds(text: str) -> None:
    assert month_bounds(text) is None


def test_the_closing_balance_is_the_opening_one_with_credits_and_without_usage() -> None:
    assert SUMS.closing == 22 * NANO
    # What plans paid did not change the balance, in the month nor before.
    assert SUMS.with_plans(2 * NANO, 3 * NANO).closing == SUMS.closing + 5 * NANO


@pytest.mark.parametrize("lang", LANGUAGES)
def test_a_statement_begins_and_ends_with_a_sum_and_has_a_line_for_each_kind(lang: str) -> None:
    bounds = month_bounds("2026-11")
    assert bounds is not None
    paper = statement_paper(SUMS, *bounds, seller=("Acme",), buyer=("Ann",), lang=lang)
    assert paper.number == "2026-11"
    assert [is_sum for _, _, is_sum in paper.lines] == [True, False, False, False, True]
    # A kind without a name in this program keeps its own; a plan that paid nothing has no line.
    assert paper.lines[2][0] == "strange"
    assert paper.lines[3][0].startswith("small × 1")
    assert (paper.seller, paper.buyer) == (("Acme",), ("Ann",))


def test_an_address_names_the_country_in_the_language_of_the_reader() -> None:
    lines = party("Ann", "Main St 1\n12345 Town", "DE", "DE123", "ann@example.com", "fr")
    assert lines == ("Ann", "Main St 1", "12345 Town", "Allemagne", lines[4], "ann@example.com")
    assert lines[4].endswith(": DE123")
    assert party("Ann", "", "", "", "", "en") == ("Ann",)
