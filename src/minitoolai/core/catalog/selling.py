"""Price groups and plans of the catalog: read and check them. core/catalog/groups.py computes a group's prices."""

from __future__ import annotations

import re
from decimal import Decimal

import msgspec

from minitoolai.core.money import parse_dollars
from minitoolai.core.plans import PeriodKind, Windows

#: Factors are counted in millionths.
ONE = 1_000_000
#: Highest factor.
MAX_FACTOR = 100
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_FACTOR = re.compile(r"\d{1,3}(\.\d{1,6})?")


class GroupEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Price group in the file: what its accounts pay, as a multiple of the listed prices."""

    #: such as 0.9 for ten percent less; at most six decimals.
    factor: float | str
    #: other factors for single models.
    models: dict[str, float | str] = {}


class Group(msgspec.Struct, frozen=True):
    """Price group, validated. Factors are millionths."""

    name: str
    factor: int
    models: dict[str, int] = {}

    def factor_of(self, model: str) -> int:
        """Return the factor of a model."""
        return self.models.get(model, self.factor)


class PlanEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Plan in the file: credit that is spent before the balance, and expires at the end of the period."""

    #: dollars for each period, in quotes; "0" for a plan that costs nothing.
    price: str
    #: dollars of credit for each period, in quotes. It is spent at the prices of the account.
    credit: str
    #: length of a period. A month ends on the same day and time (UTC) of the next one, or on its last day.
    period: PeriodKind = "month"
    #: dollars of the credit that may be spent in any window of five hours, a week or a month since the beginning of the
    #: period; absent: no limit.
    window_5h: str | None = None
    window_week: str | None = None
    window_month: str | None = None
    #: name as shown to customers; absent: that of the table.
    title: str = ""
    #: customers cannot buy it any more; those who have it keep it, and it is not renewed.
    closed: bool = False


class Plan(msgspec.Struct, frozen=True):
    """Plan, validated. Amounts are nano-dollars."""

    name: str
    title: str
    price: int
    credit: int
    period: PeriodKind
    windows: Windows
    is_closed: bool = False


class InvalidSelling(ValueError):
    """An invalid group or plan in the catalog: its key, and what to write instead."""

    def __init__(self, key: str | None, remedy: str) -> None:
        super().__init__(f"{key}: {remedy}")
        self.key, self.remedy = key, remedy


def read_group(name: str, entry: GroupEntry, models: set[str]) -> Group:
    """Return a group. Raise InvalidSelling."""
    if not _NAME.fullmatch(name):
        raise InvalidSelling(None, "a group's name is lower-case letters, digits, - and _, at most 40")
    factors = {}
    for model, text in entry.models.items():
        if model not in models:
            raise InvalidSelling("models", f"there is no model {model!r}; remove it, or correct its name")
        factors[model] = _read_factor("models", text)
    return Group(name, _read_factor("factor", entry.factor), factors)


def _read_factor(key: str, given: float | str) -> int:
    # The shortest decimal that reads as this float is what the operator has written.
    text = given if isinstance(given, str) else repr(given).removesuffix(".0")
    if not _FACTOR.fullmatch(text) or not 0 < Decimal(text) <= MAX_FACTOR:
        raise InvalidSelling(
            key, f"{text} is not a factor; 0.9 means ten percent less, at most six decimals, at most {MAX_FACTOR}"
        )
    return int(Decimal(text) * ONE)


def read_plan(name: str, entry: PlanEntry) -> Plan:
    """Return a plan. Raise InvalidSelling."""
    if not _NAME.fullmatch(name):
        raise InvalidSelling(None, "a plan's name is lower-case letters, digits, - and _, at most 40")
    credit = _read_amount("credit", entry.credit)
    limits: dict[str, int | None] = {"window_5h": None, "window_week": None, "window_month": None}
    for key in limits:
        if (text := getattr(entry, key)) is not None:
            limit = limits[key] = _read_amount(key, text)
            if limit > credit:
                raise InvalidSelling(key, f"a window cannot have more than the credit of the period, ${entry.credit}")
    price = 0 if entry.price.strip("0.") == "" and entry.price else _read_amount("price", entry.price)
    windows = Windows(limits["window_5h"], limits["window_week"], limits["window_month"])
    return Plan(name, entry.title or name, price, credit, entry.period, windows, entry.closed)


def _read_amount(key: str, text: str) -> int:
    try:
        return parse_dollars(text)
    except ValueError as error:
        raise InvalidSelling(key, f'{error}; {key} = "10.00" means dollars') from None
