"""One key: change what it may do, put another in its place, revoke it."""

from __future__ import annotations

import msgspec
from litestar.handlers import HTTPRouteHandler

from minitoolai.accounts.keys import NewKey, find_own, is_active, rotate_key
from minitoolai.core.models import KeyRow
from minitoolai.portal.drafts import refill
from minitoolai.portal.i18n import N_
from minitoolai.portal.pages.keys import may_have_another, show_keys, too_many
from minitoolai.portal.pages.keys_form import FIELDS, read_name, read_rules, write_rules
from minitoolai.portal.request import Answer, Visit
from minitoolai.portal.routing import form, nothing_here, page
from minitoolai.storage import accounts
from minitoolai.storage.database import Connection

#: How long the old key may live on beside the new one, in hours.
GRACES = {0: N_("not at all"), 1: N_("1 hour"), 24: N_("1 day"), 168: N_("7 days"), 720: N_("30 days")}
DEFAULT_GRACE = 24
MS_PER_HOUR = 3_600_000


class Found(msgspec.Struct, frozen=True):
    """A key, and the one that took its place."""

    key: KeyRow
    successor: KeyRow | None
    is_active: bool


def _find(connection: Connection, visit: Visit) -> Found | None:
    key = find_own(connection, visit.member.account_id, visit.params["key"])
    if key is None:
        return None
    later = [
        other
        for other in accounts.keys_of(connection, key.account_id)
        if other.family == (key.family or key.id) and other.created_ms >= key.created_ms and other.id != key.id
    ]
    return Found(key, later[-1] if later else None, is_active(key, visit.site.clock.now_ms()))


@page("/keys/{key:str}", needs="user")
async def edit_page(visit: Visit) -> Answer:
    """The key as it is."""
    found = await visit.site.database.read_soon(_find, visit)
    if found is None:
        return nothing_here(visit)
    write_rules(visit, found.key.name, found.key.rules)
    refill(visit, visit.path, f"{visit.path}/rotate")
    return _show(visit, found)


def _show(visit: Visit, found: Found, status: int = 200) -> Answer:
    models = list(dict.fromkeys([*visit.site.reports.models(), *found.key.rules.models]))
    grace = int(visit.form["grace"]) if visit.form["grace"] in map(str, GRACES) else DEFAULT_GRACE
    return visit.render("keys/edit.html", status, found=found, key=found.key, models=models, graces=GRACES, grace=grace)


@form("/keys/{key:str}", needs="user", keeps=FIELDS)
async def edit(visit: Visit) -> Answer:
    """Another name, other rules: from the next second on."""
    found = await visit.site.database.read_soon(_find, visit)
    if found is None:
        return nothing_here(visit)
    name, rules = read_name(visit), read_rules(visit, visit.site.reports.models(), found.key.rules)
    if not visit.form.is_good:
        return _show(visit, found, 422)

    def change(connection: Connection) -> bool:
        is_there = _find(connection, visit) is not None
        if is_there:
            accounts.change_key(connection, found.key.id, name, rules)
        return is_there

    if not await visit.site.writer.run(change):
        return nothing_here(visit)
    said = visit.gettext("“%(name)s” is changed. The new limits hold within a second.")
    return visit.redirect("/keys", said=said % {"name": name})


@form("/keys/{key:str}/rotate", needs="user", keeps=("grace",))
async def rotate(visit: Visit) -> Answer:
    """A new key in the place of this one. Like that of a new key, its text is on this answer and nowhere else."""
    found = await visit.site.database.read_soon(_find, visit)
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
        return rotate_key(connection, now.key, int(hours) * MS_PER_HOUR, visit.site.pepper, visit.site.clock)

    made = await visit.site.writer.run(change)
    if isinstance(made, str):
        now_found = await visit.site.database.read_soon(_find, visit)
        return _refuse(visit, now_found or found, made)
    visit.form.clear()
    return await show_keys(visit, made=made, old=found.key)


def _refuse(visit: Visit, found: Found, why: str) -> Answer:
    write_rules(visit, found.key.name, found.key.rules)
    visit.form.refuse("grace", why)
    return _show(visit, found, 422)


HANDLERS: list[HTTPRouteHandler] = [edit_page, edit, rotate]
