"""The pages in the bar on top: where, under which name, for whom. A page is added here and in routes.py."""

from __future__ import annotations

from typing import Literal

import msgspec

from minitoolai.portal.i18n import N_

Needs = Literal["nobody", "user", "admin"]


class Entry(msgspec.Struct, frozen=True):
    """One link: the path after the language, its name in English, and who sees it."""

    path: str
    name: str
    needs: Needs = "nobody"
    #: Hidden from those who are signed in.
    visitors_only: bool = False


NAVIGATION = (
    Entry("/keys", N_("Keys"), "user"),
    Entry("/studio", N_("Studio"), "user"),
    Entry("/usage", N_("Usage"), "user"),
    Entry("/balance", N_("Balance"), "user"),
    Entry("/topup", N_("Top up"), "user"),
    Entry("/admin", N_("Admin"), "admin"),
    Entry("/docs", N_("Guide")),
    Entry("/prices", N_("Prices")),
)
