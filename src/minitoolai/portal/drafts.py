"""What was typed into a form whose session had ended: kept by the browser until its owner has signed in.

A form that keeps something carries the mark of its member, signed for this browser. Where it arrives without a
session, the fields that it names go into a signed cookie: for minutes, for that member, for that form. The page of the
form fills them in once. Nothing is sent by itself, and whoever else signs in here never sees any of it.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from minitoolai.portal.request import Visit

COOKIE = "draft"
KEPT_S = 15 * 60
#: Characters of the cookie; browsers take 4,096 with its name. What is larger is not kept.
LARGEST = 3000
MARK_FIELD = "whose"


class Draft(msgspec.Struct, frozen=True):
    """What was typed, by whom, into which form (a path after the language), and until when it is good."""

    account_id: int
    path: str
    fields: dict[str, list[str]]
    until_ms: int


def mark(visit: Visit) -> str:
    """Whose form this is, for its hidden field."""
    return _mark(visit, str(visit.member.account_id))


def _mark(visit: Visit, number: str) -> str:
    return f"{number}.{visit.site.signer.mac('whose form', f'{number}.{visit.browser}').hex()[:32]}"


def _owner(visit: Visit) -> int | None:
    shown = visit.form[MARK_FIELD]
    number = shown.partition(".")[0]
    is_ours = hmac.compare_digest(shown.encode(), _mark(visit, number).encode())
    return int(number) if is_ours else None


def keep(visit: Visit, names: Iterable[str]) -> None:
    """Keep these fields of a form that came without a session, where it is known whose it was."""
    fields = {name: visit.form.all(name) for name in names}
    owner = _owner(visit)
    if owner is None or not any(text for texts in fields.values() for text in texts):
        return
    until_ms = visit.site.clock.now_ms() + KEPT_S * 1000
    draft = Draft(owner, visit.path, fields, until_ms)
    packed = visit.site.signer.pack(COOKIE, msgspec.to_builtins(draft))
    if len(packed) <= LARGEST:
        visit.set_cookie(COOKIE, packed, max_age_s=KEPT_S)


def refill(visit: Visit, *paths: str) -> None:
    """Fill the form with what this member typed into one of these forms, once, and say so."""
    draft = _find(visit)
    if draft is None or draft.path not in paths or visit.request.method != "GET":
        return
    drop(visit)
    if draft.account_id != visit.member.account_id:
        return
    for name, texts in draft.fields.items():
        visit.form.values[name] = texts[0] if texts else ""
        visit.form.lists[name] = texts
    visit.form.is_refilled = True
    words = visit.gettext("What you typed before the sign-in stands here again. Look it over, and send it.")
    visit.notice = ["good", words]


def leave_to(visit: Visit, account_id: int) -> None:
    """Somebody signs in: what another one typed here is thrown away."""
    draft = _find(visit)
    if draft is None or draft.account_id != account_id:
        drop(visit)


def drop(visit: Visit) -> None:
    """Forget it."""
    if visit.cookie(COOKIE, LARGEST):
        visit.set_cookie(COOKIE, "", max_age_s=0)


def _find(visit: Visit) -> Draft | None:
    packed = visit.cookie(COOKIE, LARGEST)
    value = visit.site.signer.unpack(COOKIE, packed) if packed else None
    draft = msgspec.convert(value, Draft) if value is not None else None
    return draft if draft is not None and draft.until_ms > visit.site.clock.now_ms() else None
