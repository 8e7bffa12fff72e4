"""A mark says a second; the generations that began in it are found in every account."""

from __future__ import annotations

from minitoolai.core.models import NewGeneration
from minitoolai.storage.tables.marks import generations_at
from tests.support.books import NOON_MS, TemporaryBooks, hold

SECOND = NOON_MS // 1000


def test_images_and_speech_of_a_second_are_found_in_every_account_and_nothing_else(books: TemporaryBooks) -> None:
    ann, bob = books.account(1000), books.account(1000)
    image = NewGeneration("image", "painter", "studio", 1, 0)
    speech = NewGeneration("speech", "teller", "voice", 1, 0)
    books.apply(
        hold(1, ann, generation=image, now_ms=NOON_MS),
        hold(2, bob, generation=speech, now_ms=NOON_MS + 999),
        hold(3, bob, now_ms=NOON_MS + 5),
        hold(4, ann, generation=image, now_ms=NOON_MS - 1),
        hold(5, ann, generation=image, now_ms=NOON_MS + 1000),
    )
    found = books.database.read(generations_at, SECOND)
    assert sorted(found) == [
        (1, "image", "painter", None, NOON_MS, "studio"),
        (2, "speech", "teller", None, NOON_MS + 999, "voice"),
    ]
    assert [row[0] for row in books.database.read(generations_at, SECOND + 1)] == [5]
    assert books.database.read(generations_at, SECOND + 2) == []
