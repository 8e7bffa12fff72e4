"""Plans of the catalog are checked strictly, because a mistake costs money."""

from __future__ import annotations

import pytest

from minitoolai.core.catalog.loader import parse_catalog
from minitoolai.core.catalog.selling import Plan
from minitoolai.core.errors import CatalogError
from minitoolai.core.plans import Windows

PLAN = """
[plans.pro]
title = "Pro"
price = "10.00"
credit = "15.00"
window_5h = "1.00"
window_week = "5.00"
"""
NANO = 10**9


def test_a_plan_is_read() -> None:
    windows = Windows(five_hours=NANO, week=5 * NANO)
    assert parse_catalog(PLAN).plans == {"pro": Plan("pro", "Pro", 10 * NANO, 15 * NANO, "month", windows)}


@pytest.mark.parametrize("price", ["0", "0.00"])
def test_a_plan_may_cost_nothing(price: str) -> None:
    assert parse_catalog(PLAN.replace("10.00", price)).plans["pro"].price == 0


@pytest.mark.parametrize(
    ("line", "wrong", "message"),
    [
        ('price = "10.00"', "price = 10", "quotes"),
        ('price = "10.00"', 'price = ""', "not an amount"),
        ('price = "10.00"', 'price = "-1"', "more than zero"),
        ('credit = "15.00"', 'credit = "0"', "more than zero"),
        ('credit = "15.00"', "", "credit"),
        ('window_5h = "1.00"', 'window_5h = "15.01"', "more than the credit"),
        ('window_5h = "1.00"', 'window_day = "1.00"', "there is no key window_day"),
        ('title = "Pro"', 'period = "day"', "day"),
        ("[plans.pro]", '[plans."Pro plan"]', "lower-case"),
    ],
)
def test_a_mistake_in_a_plan_names_its_line_and_the_remedy(line: str, wrong: str, message: str) -> None:
    with pytest.raises(CatalogError, match=r"line \d+: \[plans") as error:
        parse_catalog(PLAN.replace(line, wrong))
    assert message in str(error.value)
