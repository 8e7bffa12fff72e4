"""Test how amounts in forms are read: in any spelling, and never a thousand for one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minitoolai.core.money import LARGEST_NANO, NANO_PER_DOLLAR
from minitoolai.portal.amounts import AmbiguousAmount, amount_text, parse_amount
from minitoolai.portal.i18n import LANGUAGES, formatter
from minitoolai.storage.tables import accounts
from tests.support.browse import Visitor, new_user
from tests.support.server import ServerProcess


@pytest.mark.parametrize(
    ("text", "dollars"),
    [
        ("5", 5), ("5.00", 5), ("5,00", 5), ("$5", 5), ("$ 5.5", 5.5), ("0.125", 0.125), ("0,125", 0.125),
        ("1000", 1000), ("1000,5", 1000.5), ("1234.567", 1234.567), ("1,234.50", 1234.5), ("1.234,50", 1234.5),
        ("1 234,50", 1234.5), ("1\u202f234,50", 1234.5), ("1’234.50", 1234.5), ("1,000,000", 1_000_000),
        ("1.000.000", 1_000_000), ("1.1250", 1.125), ("10 000", 10_000),
    ],
)  # fmt: skip
def test_an_amount_is_read_in_any_spelling(text: str, dollars: float) -> None:
    assert parse_amount(text) == int(dollars * 1000) * NANO_PER_DOLLAR // 1000


@pytest.mark.parametrize("text", ["10,000", "1.000", "1,500", "999.999", "$2.000"])
def test_an_amount_with_two_meanings_is_refused_with_both(text: str) -> None:
    with pytest.raises(AmbiguousAmount) as refused:
        parse_amount(text)
    assert refused.value.large == refused.value.small * 1000


@pytest.mark.parametrize(
    "text",
    ["", "0", "-5", "1e3", "five", "NaN", "1.2.3", "1,23,456", "1.000,000,000", "1 23", "1,", ".5", "5 000.5.1", "٥"],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"dollars|meanings"):
        parse_amount(text)


@given(st.integers(1, LARGEST_NANO))
def test_what_a_form_shows_is_read_as_the_same(nano: int) -> None:
    assert parse_amount(amount_text(nano)) == nano


@pytest.mark.parametrize("lang", LANGUAGES)
@given(cents=st.integers(1, 10**9))
def test_an_amount_as_the_page_writes_it_is_read_as_the_same(lang: str, cents: int) -> None:
    shown = formatter(lang).money(cents * NANO_PER_DOLLAR // 100)
    assert parse_amount(shown.replace("US$", "").replace("$US", "").replace("$", "")) == cents * NANO_PER_DOLLAR // 100


@pytest.mark.parametrize("text", ["10,000", "1.000"])
@pytest.mark.parametrize("lang", ["en", "de"])
def test_every_form_with_an_amount_refuses_thousands(server: ServerProcess, email: str, lang: str, text: str) -> None:
    boss = new_user(server, email, is_admin=True)
    boss.lang = lang
    boss.open("/keys")
    for name in ("budget_daily", "budget_monthly", "budget_total", "dollars_per_minute"):
        assert boss.submit("/keys", name="x", **{name: text}).status_code == 422
        _check(boss, text, lang)
    account_id = server.read(lambda c: accounts.find_account(c, email))
    boss.open(f"/admin/accounts/{account_id}")
    assert boss.submit("/grant", amount=text, note="why").status_code == 422
    _check(boss, text, lang)
    assert server.command("balance", email).stdout.startswith("balance $0.00 ")


def _check(boss: Visitor, text: str, lang: str) -> None:
    thousands = int(text.replace(",", "").replace(".", "")) * NANO_PER_DOLLAR
    for nano in (thousands // 1000, thousands):
        assert formatter(lang).money(nano) in boss.page.text
