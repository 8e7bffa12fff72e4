"""The rules of a key as fields of a form: read with every fault next to its field, and written back as they stand."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from ipaddress import ip_network

from minitoolai.accounts.keys import LONGEST_NAME
from minitoolai.core.clock import MS_PER_DAY
from minitoolai.core.key_rules import FREE, KeyRules, Rate
from minitoolai.core.money import format_dollars, parse_dollars
from minitoolai.portal.request import Visit

BUDGETS = ("budget_daily", "budget_monthly", "budget_total")
COUNTS = ("requests_per_minute", "tokens_per_minute", "streams")
#: Every field of the form.
FIELDS = ("name", *BUDGETS, *COUNTS, "dollars_per_minute", "expires", "expires_time", "model", "addresses")
#: Each is compared with at every request.
MOST_NETWORKS = 50
LARGEST_COUNT = 10**9
#: Where a day without a time ends.
LAST_MS = MS_PER_DAY - 1


def read_name(visit: Visit) -> str:
    """What the key is for."""
    name = visit.form["name"]
    if not name:
        visit.form.refuse("name", visit.gettext("Give the key a name that tells you later what it is for."))
    elif len(name) > LONGEST_NAME:
        words = visit.ngettext("It has at most %(num)d character.", "It has at most %(num)d characters.", LONGEST_NAME)
        visit.form.refuse("name", words % {"num": LONGEST_NAME})
    return name


def read_rules(visit: Visit, models: Iterable[str], old: KeyRules = FREE) -> KeyRules:
    """The rules of the form. `old`: those the key had; what of them is sent as it was stays as it was."""
    budgets = {name: _dollars(visit, name) for name in BUDGETS}
    counts = {name: _count(visit, name) for name in COUNTS}
    return KeyRules(
        **budgets,  # type: ignore[arg-type]
        expires_ms=_ending(visit, old.expires_ms),
        models=_models(visit, {*models, *old.models}),
        allow_ip=_networks(visit),
        rate=Rate(**counts, dollars_per_minute=_dollars(visit, "dollars_per_minute")),
    )


def write_rules(visit: Visit, name: str, rules: KeyRules) -> None:
    """Fill the form with what a key has."""
    dollars = {budget: getattr(rules, budget) for budget in BUDGETS} | {
        "dollars_per_minute": rules.rate.dollars_per_minute
    }
    texts = {field: _short(format_dollars(nano)) for field, nano in dollars.items() if nano is not None}
    texts |= {field: str(getattr(rules.rate, field)) for field in COUNTS if getattr(rules.rate, field)}
    texts |= {"name": name, "addresses": ", ".join(rules.allow_ip)}
    texts["expires"], texts["expires_time"] = _moment(rules.expires_ms)
    visit.form.values.update(texts)
    visit.form.lists["model"] = list(rules.models)


def _short(amount: str) -> str:
    whole, _, places = amount.partition(".")
    return f"{whole}.{places.rstrip('0'):0<2}"


def _dollars(visit: Visit, name: str) -> int | None:
    text = visit.form[name].replace(",", ".")
    try:
        return parse_dollars(text) if text else None
    except ValueError:
        visit.form.refuse(name, visit.gettext("Write an amount of dollars, like 5.00."))
        return None


def _count(visit: Visit, name: str) -> int | None:
    text = visit.form[name]
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 12 or not 1 <= int(text) <= LARGEST_COUNT:
        visit.form.refuse(name, visit.gettext("Write a whole number of at least 1."))
        return None
    return int(text)


def _models(visit: Visit, known: set[str]) -> tuple[str, ...]:
    chosen = tuple(dict.fromkeys(visit.form.all("model")))
    if not set(chosen) <= known:
        visit.form.refuse("model", visit.gettext("One of these models is not on offer any more. Choose again."))
    return chosen


def _networks(visit: Visit) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for text in visit.form["addresses"].replace(",", " ").replace(";", " ").split():
        try:
            found[str(ip_network(text))] = None
        except ValueError:
            visit.form.refuse("addresses", _why_no_network(visit, text))
    if len(found) > MOST_NETWORKS:
        words = visit.ngettext("At most %(num)d address.", "At most %(num)d addresses.", MOST_NETWORKS)
        visit.form.refuse("addresses", words % {"num": MOST_NETWORKS})
    return tuple(found)


def _why_no_network(visit: Visit, text: str) -> str:
    try:
        meant = str(ip_network(text, strict=False))
    except ValueError:
        words = visit.gettext("“%(text)s” is no address and no network. Write 192.0.2.7 or 10.0.0.0/8.")
        return words % {"text": text[:60]}
    words = visit.gettext("“%(text)s” names a place within a network. Do you mean %(meant)s?")
    return words % {"text": text[:60], "meant": meant}


def _moment(ms: int | None) -> tuple[str, str]:
    """The day and the time of an ending; no time where it is the end of the day."""
    if ms is None:
        return "", ""
    moment = datetime.fromtimestamp(ms // 1000, UTC)
    return f"{moment:%Y-%m-%d}", "" if ms % MS_PER_DAY == LAST_MS else f"{moment:%H:%M}"


def _ending(visit: Visit, old_ms: int | None) -> int | None:
    day, time = visit.form["expires"], visit.form["expires_time"]
    if not day:
        if time:
            visit.form.refuse("expires", visit.gettext("Choose the day, too."))
        return None
    if (day, time) == _moment(old_ms):
        return old_ms
    try:
        begin_ms = int(datetime.fromisoformat(f"{day}T00:00:00+00:00").timestamp()) * 1000
    except ValueError:
        visit.form.refuse("expires", visit.gettext("Choose a day to come, like 2030-12-31."))
        return None
    try:
        within_ms = int((datetime.strptime(f"{time} +0000", "%H:%M %z") - _MIDNIGHT).total_seconds()) * 1000
    except ValueError:
        within_ms = LAST_MS
        if time:
            visit.form.refuse("expires_time", visit.gettext("Write a time like 18:30."))
    if begin_ms + within_ms <= visit.site.clock.now_ms():
        visit.form.refuse("expires", visit.gettext("Choose a day to come, like 2030-12-31."))
    return begin_ms + within_ms


_MIDNIGHT = datetime.strptime("00:00 +0000", "%H:%M %z")
