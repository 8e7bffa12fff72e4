"""Keys: make one (its text is shown once), see what they are for and when they were used, revoke them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from ipaddress import ip_network

import msgspec
from litestar.handlers import HTTPRouteHandler

from minitoolai.accounts.keys import LONGEST_NAME, NewKey, find_own, is_active, make_key, revoke_own, rotate_key
from minitoolai.core.clock import MS_PER_DAY
from minitoolai.core.models import UNRESTRICTED, KeyRow, KeyRules, RateLimits
from minitoolai.core.money import format_dollars, parse_dollars
from minitoolai.portal.i18n import N_
from minitoolai.portal.request import Answer, PageRequest, refill
from minitoolai.portal.routing import form, nothing_here, page
from minitoolai.storage import accounts, ledger
from minitoolai.storage.database import Connection

# (merged from keys_form) The rules of a key as fields of a form: read with every fault next to its field, and written back as they stand.

BUDGETS = ("budget_daily", "budget_monthly", "budget_total")
COUNTS = ("requests_per_minute", "tokens_per_minute", "streams")
#: Every field of the form.
FIELDS = ("name", *BUDGETS, *COUNTS, "dollars_per_minute", "expires", "expires_time", "model", "addresses")
#: Each is compared with at every request.
MOST_NETWORKS = 50
LARGEST_COUNT = 10**9
#: Where a day without a time ends.
LAST_MS = MS_PER_DAY - 1


def read_name(visit: PageRequest) -> str:
    """What the key is for."""
    name = visit.form["name"]
    if not name:
        visit.form.refuse("name", visit.gettext("Give the key a name that tells you later what it is for."))
    elif len(name) > LONGEST_NAME:
        words = visit.ngettext("It has at most %(num)d character.", "It has at most %(num)d characters.", LONGEST_NAME)
        visit.form.refuse("name", words % {"num": LONGEST_NAME})
    return name


def read_rules(visit: PageRequest, models: Iterable[str], old: KeyRules = UNRESTRICTED) -> KeyRules:
    """The rules of the form. `old`: those the key had; what of them is sent as it was stays as it was."""
    budgets = {name: _dollars(visit, name) for name in BUDGETS}
    counts = {name: _count(visit, name) for name in COUNTS}
    return KeyRules(
        **budgets,  # type: ignore[arg-type]
        expires_ms=_ending(visit, old.expires_ms),
        models=_models(visit, {*models, *old.models}),
        allow_ip=_networks(visit),
        rate=RateLimits(**counts, dollars_per_minute=_dollars(visit, "dollars_per_minute")),
    )


def write_rules(visit: PageRequest, name: str, rules: KeyRules) -> None:
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


def _dollars(visit: PageRequest, name: str) -> int | None:
    text = visit.form[name].replace(",", ".")
    try:
        return parse_dollars(text) if text else None
    except ValueError:
        visit.form.refuse(name, visit.gettext("Write an amount of dollars, like 5.00."))
        return None


def _count(visit: PageRequest, name: str) -> int | None:
    text = visit.form[name]
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 12 or not 1 <= int(text) <= LARGEST_COUNT:
        visit.form.refuse(name, visit.gettext("Write a whole number of at least 1."))
        return None
    return int(text)


def _models(visit: PageRequest, known: set[str]) -> tuple[str, ...]:
    chosen = tuple(dict.fromkeys(visit.form.all("model")))
    if not set(chosen) <= known:
        visit.form.refuse("model", visit.gettext("One of these models is not on offer any more. Choose again."))
    return chosen


def _networks(visit: PageRequest) -> tuple[str, ...]:
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


def _why_no_network(visit: PageRequest, text: str) -> str:
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


def _ending(visit: PageRequest, old_ms: int | None) -> int | None:
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


MOST_KEYS = 100
ROWS = 25
PERIODS = {"daily": N_("today"), "monthly": N_("this month"), "total": N_("in all")}
#: How the rows of what was spent call these periods.
SPENT = {"daily": "day", "monthly": "month", "total": "total"}
#: So many names are counted rather than said.
MANY = 4


class Shown(msgspec.Struct, frozen=True):
    """A key in the table; of one with budgets, (what may be spent, what was) by period."""

    row: KeyRow
    used_ms: int | None
    budgets: dict[str, tuple[int, int]]
    is_over: bool
    #: Whether it ends with a day, so that the day says it all.
    ends_with_day: bool


def shown_keys(connection: Connection, account_id: int, now_ms: int, wanted: int) -> tuple[list[Shown], int, int]:
    """A page of the account's keys, first those that work, the newest first; which page, and which is the last."""
    rows = sorted(
        accounts.keys_of(connection, account_id), key=lambda row: (row.revoked_ms is not None, -row.created_ms)
    )
    last = max(len(rows) - 1, 0) // ROWS
    here = min(wanted, last)
    uses = accounts.last_used_by_key(connection, account_id)
    shown = [_shown(connection, row, uses.get(row.id), now_ms) for row in rows[here * ROWS : (here + 1) * ROWS]]
    return shown, here, last


def _shown(connection: Connection, row: KeyRow, used_ms: int | None, now_ms: int) -> Shown:
    limits = {period: getattr(row.rules, f"budget_{period}") for period in PERIODS}
    limits = {period: limit for period, limit in limits.items() if limit is not None}
    spent = (
        ledger.budget_spent(connection, row.rotation_group or row.id, now_ms)
        if limits and row.revoked_ms is None
        else {}
    )
    shown = {period: (limit, spent.get(SPENT[period], 0)) for period, limit in limits.items()}
    ends_ms = row.rules.expires_ms
    is_over = ends_ms is not None and ends_ms <= now_ms
    return Shown(row, used_ms, shown, is_over, ends_ms is not None and ends_ms % MS_PER_DAY == LAST_MS)


@page("/keys", needs="user")
async def keys(visit: PageRequest) -> Answer:
    """Every key of the account."""
    refill(visit, "/keys")
    return await show_keys(visit)


async def show_keys(
    visit: PageRequest, status: int = 200, made: NewKey | None = None, old: KeyRow | None = None
) -> Answer:
    """The page; `made`: a key to be shown this once, in the place of `old`, where there is one."""
    asked = visit.query.get("page", "")
    wanted = int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 6 else 0
    rows, here, last = await visit.site.database.read_async(
        shown_keys, visit.member.account_id, visit.site.clock.now_ms(), wanted
    )
    return visit.render(
        "keys/keys.html", status, keys=rows, made=made, old=old, periods=PERIODS, page_number=here, last=last,
        models=list(visit.site.reports.models()), said_of={key.row.id: _said(visit, key) for key in rows},
    )  # fmt: skip


def _said(visit: PageRequest, key: Shown) -> list[str]:
    """What the key may do, beside its budgets, in a few words each."""
    _, n_, writing, rules = visit.gettext, visit.ngettext, visit.writing, key.row.rules
    said = []
    if rules.expires_ms is not None:
        day = writing.day(rules.expires_ms) if key.ends_with_day else writing.moment(rules.expires_ms)
        said.append(_("until %(day)s") % {"day": day})
    for names, some in (
        (rules.models, n_("%(num)d model", "%(num)d models", len(rules.models))),
        (rules.allow_ip, n_("%(num)d address", "%(num)d addresses", len(rules.allow_ip))),
    ):
        words = ", ".join(names) if len(names) < MANY else some % {"num": len(names)}
        said += [_("only %(names)s") % {"names": words}] if names else []
    for most, words in (
        (rules.rate.requests_per_minute, _("%(count)s requests a minute")),
        (rules.rate.tokens_per_minute, _("%(count)s tokens a minute")),
        (rules.rate.streams, _("%(count)s answers at once")),
    ):
        said += [words % {"count": writing.number(most)}] if most else []
    if rules.rate.dollars_per_minute:
        said.append(_("%(amount)s a minute") % {"amount": writing.money(rules.rate.dollars_per_minute)})
    return said


@form("/keys", needs="user", keeps=FIELDS)
async def create(visit: PageRequest) -> Answer:
    """Make a key. Its text is on the answer and nowhere else, so there is nothing to redirect to."""
    name, account_id = read_name(visit), visit.member.account_id
    rules = read_rules(visit, visit.site.reports.models())
    made = make_key(account_id, name, visit.site.secret_key, visit.site.clock, rules)

    def change(connection: Connection) -> bool:
        has_room = may_have_another(connection, account_id)
        if has_room:
            accounts.insert_key(connection, made.row)
        return has_room

    if visit.form.is_good and not await visit.site.writer.run(change):
        visit.form.refuse("", too_many(visit))
    if not visit.form.is_good:
        return await show_keys(visit, 422)
    visit.form.clear()
    return await show_keys(visit, made=made)


def may_have_another(connection: Connection, account_id: int) -> bool:
    """Whether the account has fewer keys than it may have."""
    return sum(key.revoked_ms is None for key in accounts.keys_of(connection, account_id)) < MOST_KEYS


def too_many(visit: PageRequest) -> str:
    """Why there is no key more."""
    return visit.gettext("You have very many keys already. Revoke one that you do not need.")


@form("/keys/revoke", needs="user")
async def revoke(visit: PageRequest) -> Answer:
    """It stops working within a second."""
    key_id, account_id, now_ms = visit.form["key"], visit.member.account_id, visit.site.clock.now_ms()

    if not await visit.site.writer.run(lambda connection: revoke_own(connection, account_id, key_id, now_ms)):
        return nothing_here(visit)
    return visit.redirect("/keys", said=visit.gettext("The key is revoked. It stops working within a second."))


# (merged from keys_edit) One key: change what it may do, put another in its place, revoke it.

#: How long the old key may live on beside the new one, in hours.
GRACES = {0: N_("not at all"), 1: N_("1 hour"), 24: N_("1 day"), 168: N_("7 days"), 720: N_("30 days")}
DEFAULT_GRACE = 24
MS_PER_HOUR = 3_600_000


class KeyForm(msgspec.Struct, frozen=True):
    """A key, and the one that took its place."""

    key: KeyRow
    successor: KeyRow | None
    is_active: bool


def _find(connection: Connection, visit: PageRequest) -> KeyForm | None:
    key = find_own(connection, visit.member.account_id, visit.params["key"])
    if key is None:
        return None
    later = [
        other
        for other in accounts.keys_of(connection, key.account_id)
        if other.rotation_group == (key.rotation_group or key.id)
        and other.created_ms >= key.created_ms
        and other.id != key.id
    ]
    return KeyForm(key, later[-1] if later else None, is_active(key, visit.site.clock.now_ms()))


@page("/keys/{key:str}", needs="user")
async def edit_page(visit: PageRequest) -> Answer:
    """The key as it is."""
    found = await visit.site.database.read_async(_find, visit)
    if found is None:
        return nothing_here(visit)
    write_rules(visit, found.key.name, found.key.rules)
    refill(visit, visit.path, f"{visit.path}/rotate")
    return _show(visit, found)


def _show(visit: PageRequest, found: KeyForm, status: int = 200) -> Answer:
    models = list(dict.fromkeys([*visit.site.reports.models(), *found.key.rules.models]))
    grace = int(visit.form["grace"]) if visit.form["grace"] in map(str, GRACES) else DEFAULT_GRACE
    return visit.render("keys/edit.html", status, found=found, key=found.key, models=models, graces=GRACES, grace=grace)


@form("/keys/{key:str}", needs="user", keeps=FIELDS)
async def edit(visit: PageRequest) -> Answer:
    """Another name, other rules: from the next second on."""
    found = await visit.site.database.read_async(_find, visit)
    if found is None:
        return nothing_here(visit)
    name, rules = read_name(visit), read_rules(visit, visit.site.reports.models(), found.key.rules)
    if not visit.form.is_good:
        return _show(visit, found, 422)

    def change(connection: Connection) -> bool:
        is_there = _find(connection, visit) is not None
        if is_there:
            accounts.update_key(connection, found.key.id, name, rules)
        return is_there

    if not await visit.site.writer.run(change):
        return nothing_here(visit)
    said = visit.gettext("“%(name)s” is changed. The new limits hold within a second.")
    return visit.redirect("/keys", said=said % {"name": name})


@form("/keys/{key:str}/rotate", needs="user", keeps=("grace",))
async def rotate(visit: PageRequest) -> Answer:
    """A new key in the place of this one. Like that of a new key, its text is on this answer and nowhere else."""
    found = await visit.site.database.read_async(_find, visit)
    if found is None:
        return nothing_here(visit)
    hours = visit.form["grace"]
    if hours not in map(str, GRACES):
        return _refuse(visit, found, visit.gettext("Choose how long the old key lives on."))

    def change(connection: Connection) -> NewKey | str:
        now = _find(connection, visit)
        if now is None or not now.is_active or now.successor is not None:
            return visit.gettext("This key has been replaced, revoked, or is over.")
        if not may_have_another(connection, now.key.account_id):
            return too_many(visit)
        return rotate_key(connection, now.key, int(hours) * MS_PER_HOUR, visit.site.secret_key, visit.site.clock)

    made = await visit.site.writer.run(change)
    if isinstance(made, str):
        now_found = await visit.site.database.read_async(_find, visit)
        return _refuse(visit, now_found or found, made)
    visit.form.clear()
    return await show_keys(visit, made=made, old=found.key)


def _refuse(visit: PageRequest, found: KeyForm, why: str) -> Answer:
    write_rules(visit, found.key.name, found.key.rules)
    visit.form.refuse("grace", why)
    return _show(visit, found, 422)


HANDLERS: list[HTTPRouteHandler] = [keys, create, revoke, edit_page, edit, rotate]
