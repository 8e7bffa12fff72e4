"""The images that a member had drawn, newest first, with their settings and cost."""

from __future__ import annotations

import msgspec

from minitoolai.storage.database import Connection

#: Images of the account that one page looks through for those of the member.
WINDOW = 500
_NEWEST = (2**62, 2**63 - 1)
#: Where a page ends: the time and the ID of a job.
Place = tuple[int, int]
_COLUMNS = "id, created_ms, model, engine, served_model, result, request, seed, size, key_id"
_SHOWN = "g.id, g.created_ms, g.model, g.engine, g.served_model, g.result, g.request, g.seed, g.size, h.settled"


class GalleryImage(msgspec.Struct, frozen=True):
    """An image job that succeeded. `object` is None once retention has removed the image, `request` once the prompt."""

    id: int
    created_ms: int
    model: str
    engine: str
    served_model: str | None
    object: str | None
    request: str | None
    seed: int | None
    size: str
    cost: int


class GalleryPage(msgspec.Struct, frozen=True):
    """Images, and where the next page begins. None: there are no more."""

    images: list[GalleryImage]
    older: Place | None


def images_of(
    connection: Connection, account_id: int, user_id: int, limit: int, before: Place | None = None, window: int = WINDOW
) -> GalleryPage:
    """Return up to `limit` images drawn with keys of this member, among `window` of the account (keyset pagination)."""
    before = before or _NEWEST
    # The numbers are part of the statement: PostgreSQL would plan for a part of all rows otherwise.
    source = (
        f"SELECT {_COLUMNS} FROM generations WHERE account_id = ? AND kind = 'image' AND state = 'succeeded'"
        f" AND created_ms <= ? AND (created_ms < ? OR id < ?) ORDER BY created_ms DESC, id DESC LIMIT {window:d}"
    )
    values = (account_id, before[0], *before)
    rows = connection.execute(
        f"SELECT {_SHOWN} FROM ({source}) g JOIN api_keys k ON k.id = g.key_id JOIN holds h ON h.id = g.id"
        " WHERE k.member_id = ? AND k.account_id = ?"
        f" ORDER BY g.created_ms DESC, g.id DESC LIMIT {limit:d}",
        (*values, user_id, account_id),
    )
    images = [GalleryImage(*row) for row in rows]
    if len(images) == limit:
        return GalleryPage(images, (images[-1].created_ms, images[-1].id))
    seen = connection.execute(f"SELECT id, created_ms FROM ({source}) AS looked", values)
    last = min(((row[1], row[0]) for row in seen), default=None)
    return GalleryPage(images, last if len(seen) == window else None)


def find_image(connection: Connection, account_id: int, user_id: int, job_id: int) -> GalleryImage | None:
    """Return an image of this member, or None."""
    rows = connection.execute(
        f"SELECT {_SHOWN} FROM generations g JOIN api_keys k ON k.id = g.key_id JOIN holds h ON h.id = g.id"
        " WHERE g.id = ? AND g.account_id = ? AND g.kind = 'image' AND g.state = 'succeeded'"
        " AND k.member_id = ? AND k.account_id = ?",
        (job_id, account_id, user_id, account_id),
    )
    return GalleryImage(*rows[0]) if rows else None
