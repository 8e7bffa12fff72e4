"""API keys: create, list, edit, rotate and revoke them. The text of a key is shown once, when it is created."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial
from ipaddress import ip_network

import msgspec
from starlette.responses import Response

from minitoolai.accounts.keys import MAX_KEY_NAME_LENGTH, NewKey, find_own, is_active, make_key, revoke_own, rotate_key
from minitoolai.core.clock import MS_PER_DAY
from minitoolai.core.models import UNRESTRICTED, KeyRow, KeyRules, RateLimits
from minitoolai.portal.amounts import amount_text, read_amount
from minitoolai.portal.i18n import N_
from minitoolai.portal.names import is_visible, isolate_text
from minitoolai.portal.request import PageRequest, restore_draft
from minitoolai.portal.routing import Handler, form, not_found, page
from minitoolai.portal.steps import first_steps, hide_steps, quick_start
from minitoolai.storage.database import Connection
from minitoolai.storage.tables import accounts
from minitoolai.storage.tables.ledger import budget_spent
from minitoolai.storage.tables.members import members_of

# ── the rules of a key as form fields ─────────────────────────────────────────────────────────────────────

BUDGETS = ("budget_daily", "budget_monthly", "budget_total")
COUNTS = ("requests_per_minute", "tokens_per_minute", "streams")
#: All fields of the form.
FIELDS = ("name", *BUDGETS, *COUNTS, "dollars_per_minute", "expires", "expires_time", "model", "addresses")
#: Every request is compared with each network of its key.
MAX_NETWORKS = 50
MAX_COUNT = 10**9
#: A day without a time ends at this millisecond.
END_OF_DAY_MS = MS_PER_DAY - 1


def read_name(page: PageRequest) -> str:
    """Return the name of the key, or record the error of its field."""
    name = page.form["name"]
    if not is_visible(name):
        page.form.add_error("name", page.gettext("Give the key a name that tells you what it is for."))
    elif len(name) > MAX_KEY_NAME_LENGTH:
        message = page.ngettext(
            "It has at most %(num)d character.", "It has at most %(num)d characters.", MAX_KEY_NAME_LENGTH
        )
        page.form.add_error("name", message % {"num": MAX_KEY_NAME_LENGTH})
    return name


def read_rules(page: PageRequest, models: Iterable[str], old: KeyRules = UNRESTRICTED) -> KeyRules:
    """Return the rules in the form. Record the error of each invalid field.

    `old`: the rules the key has. Values that the form sends unchanged are kept, even if they could not be set now.
    """
    budgets = {name: read_amount(page, name) for name in BUDGETS}
    counts = {name: _read_count(page, name) for name in COUNTS}
    return KeyRules(
        **budgets,  # type: ignore[arg-type]
        expires_ms=_read_expiry(page, old.expires_ms),
        models=_read_models(page, {*models, *old.models}),
        allow_ip=_read_networks(page),
        rate=RateLimits(**counts, dollars_per_minute=read_amount(page, "dollars_per_minute")),
    )


def fill_form(page: PageRequest, name: str, rules: KeyRules) -> None:
    """Fill the form with the name and the rules of a key."""
    dollars = {budget: getattr(rules, budget) for budget in BUDGETS} | {
        "dollars_per_minute": rules.rate.dollars_per_minute
    }
    texts = {field: amount_text(nano) for field, nano in dollars.items() if nano is not None}
    texts |= {field: str(getattr(rules.rate, field)) for field in COUNTS if getattr(rules.rate, field)}
    texts |= {"name": name, "addresses": ", ".join(rules.allow_ip)}
    texts["expires"], texts["expires_time"] = _day_and_time(rules.expires_ms)
    page.form.values.update(texts)
    page.form.lists["model"] = list(rules.models)


def _read_count(page: PageRequest, name: str) -> int | None:
    text = page.form[name]
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 12 or not 1 <= int(text) <= MAX_COUNT:
        page.form.add_error(name, page.gettext("Write a whole number of at least 1."))
        return None
    return int(text)


def _read_models(page: PageRequest, known: set[str]) -> tuple[str, ...]:
    chosen = tuple(dict.fromkeys(page.form.get_all("model")))
    if not set(chosen) <= known:
        page.form.add_error("model", page.gettext("One of these models is not on offer any more. Choose again."))
    return chosen


def _read_networks(page: PageRequest) -> tuple[str, ...]:
    networks: dict[str, None] = {}
    for text in page.form["addresses"].replace(",", " ").replace(";", " ").split():
        try:
            networks[str(ip_network(text))] = None
        except ValueError:
            page.form.add_error("addresses", _network_error(page, text))
    if len(networks) > MAX_NETWORKS:
        message = page.ngettext("At most %(num)d address.", "At most %(num)d addresses.", MAX_NETWORKS)
        page.form.add_error("addresses", message % {"num": MAX_NETWORKS})
    return tuple(networks)


def _network_error(page: PageRequest, text: str) -> str:
    try:
        network = str(ip_network(text, strict=False))
    except ValueError:
        message = page.gettext("“%(text)s” is no address and no network. Write 192.0.2.7 or 10.0.0.0/8.")
        return message % {"text": text[:60]}
    message = page.gettext("“%(text)s” is an address within a network. Did you mean %(meant)s?")
    return message % {"text": text[:60], "meant": network}


def _day_and_time(ms: int | None) -> tuple[str, str]:
    """Return the day and the time of an expiry as text. No time means the end of the day."""
    if ms is None:
        return "", ""
    moment = datetime.fromtimestamp(ms // 1000, UTC)
    return f"{moment:%Y-%m-%d}", "" if ms % MS_PER_DAY == END_OF_DAY_MS else f"{moment:%H:%M}"


def _read_expiry(page: PageRequest, old_ms: int | None) -> int | None:
    day, time = page.form["expires"], page.form["expires_time"]
    if not day:
        if time:
            page.form.add_error("expires", page.gettext("Choose the day, too."))
        return None
    if (day, time) == _day_and_time(old_ms):
        return old_ms
    try:
        day_ms = int(datetime.fromisoformat(f"{day}T00:00:00+00:00").timestamp()) * 1000
    except ValueError:
        page.form.add_error("expires", page.gettext("Choose a day to come, like 2030-12-31."))
        return None
    try:
        time_ms = int((datetime.strptime(f"{time} +0000", "%H:%M %z") - _MIDNIGHT).total_seconds()) * 1000
    except ValueError:
        time_ms = END_OF_DAY_MS
        if time:
            page.form.add_error("expires_time", page.gettext("Write a time like 18:30."))
    if day_ms + time_ms <= page.site.clock.now_ms():
        page.form.add_error("expires", page.gettext("Choose a day to come, like 2030-12-31."))
    return day_ms + time_ms


_MIDNIGHT = datetime.strptime("00:00 +0000", "%H:%M %z")


# ── the list of keys ──────────────────────────────────────────────────────────────────────────────────────

MAX_KEYS = 100
PAGE_SIZE = 25
PERIODS = {"daily": N_("today"), "monthly": N_("this month"), "total": N_("in all")}
#: Names of these periods in the table of budgets.
SPENT_PERIODS = {"daily": "day", "monthly": "month", "total": "total"}
#: This many names are counted instead of listed.
MAX_LISTED_NAMES = 4


class KeyListItem(msgspec.Struct, frozen=True):
    """A key in the list. `budgets`: period → (limit, spent)."""

    row: KeyRow
    used_ms: int | None
    budgets: dict[str, tuple[int, int]]
    is_expired: bool
    #: True if it expires at the end of a day, so that the day is enough to show.
    ends_with_day: bool


def key_list(connection: Connection, account_id: int, now_ms: int, wanted: int) -> tuple[list[KeyListItem], int, int]:
    """Return a page of the keys (active ones first, newest first), its number, and that of the last page."""
    rows = sorted(
        accounts.keys_of(connection, account_id), key=lambda row: (row.revoked_ms is not None, -row.created_ms)
    )
    last = max(len(rows) - 1, 0) // PAGE_SIZE
    number = min(wanted, last)
    uses = accounts.last_used_by_key(connection, account_id)
    shown = [
        _list_item(connection, row, uses.get(row.id), now_ms)
        for row in rows[number * PAGE_SIZE : (number + 1) * PAGE_SIZE]
    ]
    return shown, number, last


def _list_item(connection: Connection, row: KeyRow, used_ms: int | None, now_ms: int) -> KeyListItem:
    limits = {period: getattr(row.rules, f"budget_{period}") for period in PERIODS}
    limits = {period: limit for period, limit in limits.items() if limit is not None}
    spent_nano = (
        budget_spent(connection, row.rotation_group or row.id, now_ms) if limits and row.revoked_ms is None else {}
    )
    shown = {period: (limit, spent_nano.get(SPENT_PERIODS[period], 0)) for period, limit in limits.items()}
    ends_ms = row.rules.expires_ms
    is_expired = ends_ms is not None and ends_ms <= now_ms
    return KeyListItem(row, used_ms, shown, is_expired, ends_ms is not None and ends_ms % MS_PER_DAY == END_OF_DAY_MS)


@page("/keys", access="user", action="read")
async def keys(page: PageRequest) -> Response:
    """Show the keys of the account."""
    restore_draft(page, "/keys")
    return await render_keys(page)


async def render_keys(
    page: PageRequest, status: int = 200, made: NewKey | None = None, old: KeyRow | None = None
) -> Response:
    """Return the list of keys. `made`: a new key, to show its text this once; `old`: the key that it replaces."""
    text = page.query.get("page", "")
    wanted = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0
    rows, number, last = await page.report(key_list, page.member.account_id, page.site.clock.now_ms(), wanted)
    return page.render(
        "keys/keys.html", status, keys=rows, made=made, old=old, periods=PERIODS, page_number=number, last=last,
        models=list(page.site.reports.models()), limits_of={key.row.id: limit_texts(page, key) for key in rows},
        may_change=partial(may_change, page), names=await _member_names(page),
        steps=await first_steps(page, bool(rows)) if page.may("use") else None,
        **(quick_start(page.site.reports, made) if made else {}),
    )  # fmt: skip


async def _member_names(page: PageRequest) -> dict[int, str]:
    """Return the addresses of the account's members, to show with each key. Empty if there is only one member."""
    people = await page.site.database.read_async(members_of, page.member.account_id)
    return {one.user_id: one.name for one in people} if len(people) > 1 else {}


@form("/keys/hide-steps", access="user", action="read")
async def hide_first_steps(page: PageRequest) -> Response:
    """Hide the first steps in this browser."""
    hide_steps(page)
    return page.redirect("/keys")


def limit_texts(page: PageRequest, key: KeyListItem) -> list[str]:
    """Describe the limits of a key, except its budgets, in a few words each."""
    _, n_, formatter, rules = page.gettext, page.ngettext, page.formatter, key.row.rules
    texts = []
    if rules.expires_ms is not None:
        day = formatter.day(rules.expires_ms) if key.ends_with_day else formatter.moment(rules.expires_ms)
        texts.append(_("until %(day)s") % {"day": day})
    for names, some in (
        (rules.models, n_("%(num)d model", "%(num)d models", len(rules.models))),
        (rules.allow_ip, n_("%(num)d address", "%(num)d addresses", len(rules.allow_ip))),
    ):
        words = ", ".join(names) if len(names) < MAX_LISTED_NAMES else some % {"num": len(names)}
        texts += [_("only %(names)s") % {"names": words}] if names else []
    for most, words in (
        (rules.rate.requests_per_minute, _("%(count)s requests a minute")),
        (rules.rate.tokens_per_minute, _("%(count)s tokens a minute")),
        (rules.rate.streams, _("%(count)s answers at once")),
    ):
        texts += [words % {"count": formatter.number(most)}] if most else []
    if rules.rate.dollars_per_minute:
        texts.append(_("%(amount)s a minute") % {"amount": formatter.money(rules.rate.dollars_per_minute)})
    return texts


@form("/keys", access="user", action="use", draft_fields=FIELDS)
async def create(page: PageRequest) -> Response:
    """Create a key. Render the list directly: a redirect would lose the text of the key, which is not stored."""
    name, account_id = read_name(page), page.member.account_id
    rules = read_rules(page, page.site.reports.models())
    member_id = page.member.user_id
    made = make_key(account_id, name, page.site.secret_keys, page.site.clock, rules, member_id=member_id)

    def change(connection: Connection) -> bool:
        has_room = has_room_for_key(connection, account_id)
        if has_room:
            accounts.insert_key(connection, made.row)
            page.log_action(connection, "create_key", made.row.id, name)
        return has_room

    if page.form.is_valid and not await page.site.writer.run(change):
        page.form.add_error("", too_many_keys(page))
    if not page.form.is_valid:
        return await render_keys(page, 422)
    page.form.clear()
    return await render_keys(page, made=made)


def has_room_for_key(connection: Connection, account_id: int) -> bool:
    """Return True if the account may have another key."""
    return sum(key.revoked_ms is None for key in accounts.keys_of(connection, account_id)) < MAX_KEYS


def too_many_keys(page: PageRequest) -> str:
    """Return the message for an account with too many keys."""
    return page.gettext("You have too many keys. Revoke one that you do not need.")


@form("/keys/revoke", access="user", action="use")
async def revoke(page: PageRequest) -> Response:
    """Revoke a key. It stops working within a second."""
    key_id, account_id, now_ms = page.form["key"], page.member.account_id, page.site.clock.now_ms()

    def change(connection: Connection) -> bool:
        key = accounts.find_key(connection, key_id)
        if key is None or not may_change(page, key) or not revoke_own(connection, account_id, key_id, now_ms):
            return False
        if key.revoked_ms is None:
            page.log_action(connection, "revoke_key", key_id, key.name)
        return True

    if not await page.site.writer.run(change):
        return not_found(page)
    return page.redirect("/keys", flash=page.gettext("The key is revoked. It stops working within a second."))


# ── one key: edit and rotate ──────────────────────────────────────────────────────────────────────────────

#: Grace period of the old key after a rotation, in hours → its name.
GRACE_PERIODS = {0: N_("not at all"), 1: N_("1 hour"), 24: N_("1 day"), 168: N_("7 days"), 720: N_("30 days")}
DEFAULT_GRACE = 24
MS_PER_HOUR = 3_600_000


class EditedKey(msgspec.Struct, frozen=True):
    """A key, and the one that replaced it in a rotation."""

    key: KeyRow
    successor: KeyRow | None
    is_active: bool


def may_change(page: PageRequest, key: KeyRow) -> bool:
    """Return True if the member may change this key of the account: it is their own, or they may change all."""
    return page.may("keys") or (page.may("use") and key.member_id == page.member.user_id)


def _find_key(connection: Connection, page: PageRequest) -> EditedKey | None:
    key = find_own(connection, page.member.account_id, page.path_params["key"])
    if key is None or not may_change(page, key):
        return None
    later = [
        other
        for other in accounts.keys_of(connection, key.account_id)
        if other.rotation_group == (key.rotation_group or key.id)
        and other.created_ms >= key.created_ms
        and other.id != key.id
    ]
    return EditedKey(key, later[-1] if later else None, is_active(key, page.site.clock.now_ms()))


@page("/keys/{key}", access="user", action="use")
async def edit_page(page: PageRequest) -> Response:
    """Show the form of a key."""
    found = await page.site.database.read_async(_find_key, page)
    if found is None:
        return not_found(page)
    fill_form(page, found.key.name, found.key.rules)
    restore_draft(page, page.path, f"{page.path}/rotate")
    return _render_form(page, found)


def _render_form(page: PageRequest, found: EditedKey, status: int = 200) -> Response:
    models = list(dict.fromkeys([*page.site.reports.models(), *found.key.rules.models]))
    grace = int(page.form["grace"]) if page.form["grace"] in map(str, GRACE_PERIODS) else DEFAULT_GRACE
    return page.render(
        "keys/edit.html", status, found=found, key=found.key, models=models, graces=GRACE_PERIODS, grace=grace
    )


@form("/keys/{key}", access="user", action="use", draft_fields=FIELDS)
async def edit(page: PageRequest) -> Response:
    """Change the name and the rules of a key. They take effect within a second."""
    found = await page.site.database.read_async(_find_key, page)
    if found is None:
        return not_found(page)
    name, rules = read_name(page), read_rules(page, page.site.reports.models(), found.key.rules)
    if not page.form.is_valid:
        return _render_form(page, found, 422)

    def change(connection: Connection) -> bool:
        exists = _find_key(connection, page) is not None
        if exists:
            accounts.update_key(connection, found.key.id, name, rules)
            page.log_action(connection, "change_key", found.key.id, name)
        return exists

    if not await page.site.writer.run(change):
        return not_found(page)
    message = page.gettext("“%(name)s” was changed. The new limits apply within a second.")
    return page.redirect("/keys", flash=message % {"name": isolate_text(name)})


@form("/keys/{key}/rotate", access="user", action="use", draft_fields=("grace",))
async def rotate(page: PageRequest) -> Response:
    """Replace a key. Render the list directly, to show the text of the new key this once."""
    found = await page.site.database.read_async(_find_key, page)
    if found is None:
        return not_found(page)
    hours = page.form["grace"]
    if hours not in map(str, GRACE_PERIODS):
        return _render_grace_error(page, found, page.gettext("Choose how long the old key stays valid."))

    def change(connection: Connection) -> NewKey | str:
        current = _find_key(connection, page)
        if current is None or not current.is_active or current.successor is not None:
            return page.gettext("This key has been rotated or revoked, or has expired.")
        if not has_room_for_key(connection, current.key.account_id):
            return too_many_keys(page)
        page.log_action(connection, "rotate_key", current.key.id, current.key.name)
        return rotate_key(connection, current.key, int(hours) * MS_PER_HOUR, page.site.secret_keys, page.site.clock)

    made = await page.site.writer.run(change)
    if isinstance(made, str):
        current = await page.site.database.read_async(_find_key, page)
        return _render_grace_error(page, current or found, made)
    page.form.clear()
    return await render_keys(page, made=made, old=found.key)


def _render_grace_error(page: PageRequest, found: EditedKey, message: str) -> Response:
    fill_form(page, found.key.name, found.key.rules)
    page.form.add_error("grace", message)
    return _render_form(page, found, 422)


HANDLERS: list[Handler] = [keys, hide_first_steps, create, revoke, edit_page, edit, rotate]
