"""A link is good for as long as it says; a picture goes when its time is over, and its row knows before its object."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from minitoolai.core.errors import Gone, NotFound, ObjectMissing, Overloaded, ServiceError, StoreError
from minitoolai.core.signing import UrlSigner
from minitoolai.images.results import PATH, ImageDelivery, ImageSweeper, Links, job_view
from minitoolai.storage.object_store import LocalObjectStore
from tests.support.books import NOON_MS, FixedClock, TemporaryBooks
from tests.support.images import PRICE, end_job, find_job, links, queued_job

PNG = b"\x89PNG\r\n\x1a\n, a picture"


class House:
    """Books, a folder of pictures, and what opens and sweeps them."""

    def __init__(self, books: TemporaryBooks, folder: Path) -> None:
        self.books = books
        self.folder = folder
        self.store = LocalObjectStore(folder)
        self.links = links(books.clock)
        self.pictures = ImageDelivery(books.database, self.store, self.links)
        self.account = books.account(100 * PRICE)

    def drawn(self, png: bytes = PNG) -> int:
        """A finished job with its picture."""
        job_id = queued_job(self.books, self.account)
        key = asyncio.run(self.store.put(job_id, png + str(job_id).encode()))
        end_job(self.books, self.account, job_id, key=key)
        return job_id

    def open(self, link: str) -> bytes:
        name, _, query = link.rpartition("/")[2].partition("?")
        fields = dict(pair.split("=") for pair in query.split("&"))

        async def work() -> bytes:
            return await self.pictures.read(await self.pictures.find(name, fields["expires"], fields["signature"]))

        return asyncio.run(work())

    def sweep(self, days: float = 30.0, *, strays: bool = False) -> int:
        with self.books.writer() as writer:
            sweeper = ImageSweeper(self.books.database, writer, self.store, self.books.clock, retention_days=days)
            return asyncio.run(sweeper.sweep_orphans() if strays else sweeper.sweep())

    def files(self) -> int:
        return len(list(self.folder.rglob("*.png")))


@pytest.fixture
def house(books: TemporaryBooks, tmp_path: Path) -> House:
    return House(books, tmp_path / "objects")


# ── links ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_link_opens_its_picture_until_it_expires_and_then_says_so(house: House) -> None:
    job_id = house.drawn()
    link = house.links.link(job_id)
    assert link.startswith(f"http://127.0.0.1:8000{PATH}{job_id}.png?expires={NOON_MS // 1000 + 3600}&signature=")
    house.books.clock.forward(3599)
    assert house.open(link) == PNG + str(job_id).encode()
    house.books.clock.forward(1)
    with pytest.raises(Gone, match="ask for the job again") as gone:
        house.open(link)
    assert gone.value.code == "link_expired"
    assert house.open(house.links.link(job_id)) == PNG + str(job_id).encode()


def test_a_link_that_was_changed_anywhere_leads_nowhere_in_the_same_words(house: House) -> None:
    one, two = house.links.link(house.drawn()), house.links.link(house.drawn())
    expires = NOON_MS // 1000 + 3600
    wrong = [
        one.replace(f"expires={expires}", f"expires={expires + 1}"),
        one[:-1],
        one[:-1] + ("A" if one[-1] != "A" else "B"),
        one + "A",
        one.partition("?")[0] + "?" + two.partition("?")[2],
        one.replace(".png?", ".jpg?"),
        one.replace(".png?", "?"),
        one.replace(PATH, f"{PATH}0"),
        one.replace("signature=", "signature=é"),
        Links(UrlSigner(b"another key"), house.books.clock, lambda: "", lifetime_s=9).link(
            int(one.split("/")[-1][:16])
        ),
    ]
    words = set()
    for link in wrong:
        with pytest.raises(NotFound) as refusal:
            house.open(link)
        words.add(refusal.value.message)
    assert len(words) == 1


def test_an_expired_link_that_was_changed_is_not_told_from_any_other_wrong_one(house: House) -> None:
    link = house.links.link(house.drawn())
    house.books.clock.forward(4000)
    with pytest.raises(NotFound):
        house.open(link[:-1])


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_job_without_a_picture_has_nothing_to_open(house: House, state: str) -> None:
    job_id = queued_job(house.books, house.account)
    with pytest.raises(NotFound):
        house.open(house.links.link(job_id))
    end_job(house.books, house.account, job_id, state)
    with pytest.raises(NotFound):
        house.open(house.links.link(job_id))


def test_a_picture_that_is_promised_and_lost_is_our_mistake_and_not_the_callers(house: House) -> None:
    job_id = house.drawn()
    for path in house.folder.rglob("*.png"):
        path.unlink()
    with pytest.raises(ServiceError, match="reported") as failure:
        house.open(house.links.link(job_id))
    assert failure.value.code == "internal_error"


def test_a_store_that_is_gone_is_a_moment_to_try_again(house: House) -> None:
    link = house.links.link(house.drawn())
    house.folder.rename(house.folder.with_name("elsewhere"))
    house.folder.write_text("no folder")
    with pytest.raises(Overloaded, match="does not answer"):
        house.open(link)


# ── retention ─────────────────────────────────────────────────────────────────────────────────────────────


def test_retention_removes_old_pictures_and_the_poll_and_the_link_say_so(house: House) -> None:
    job_id = house.drawn()
    house.books.clock.forward(30 * 86_400)
    link = house.links.link(job_id)
    assert house.sweep() == 0
    house.books.clock.forward(10)
    assert house.sweep() == 1
    assert house.files() == 0
    with pytest.raises(Gone) as gone:
        house.open(link)
    assert gone.value.code == "picture_removed"
    shown = job_view(asyncio.run(find_job(house.books, job_id)), house.links)
    assert (shown.status, shown.image_url, shown.code) == ("error", None, "picture_removed")
    assert "removed" in shown.message


def test_what_was_charged_stays_charged_after_retention(house: House) -> None:
    house.drawn()
    before = house.books.money(house.account)
    house.books.clock.forward(31 * 86_400)
    assert house.sweep() == 1
    assert house.books.money(house.account) == before


def test_retention_of_no_days_keeps_pictures_for_ever(house: House) -> None:
    house.drawn()
    house.books.clock.forward(3000 * 86_400)
    assert house.sweep(0) == 0
    assert house.files() == 1


def test_more_pictures_than_one_transaction_takes_are_all_removed(house: House) -> None:
    account = house.account = house.books.account(1000 * PRICE)
    for _ in range(450):
        job_id = queued_job(house.books, account)
        end_job(house.books, account, job_id, key=f"{job_id:064x}-{job_id}")
    house.books.clock.forward(31 * 86_400)
    assert house.sweep() == 450


class FailingStore(LocalObjectStore):
    """Deletes nothing."""

    async def delete(self, key: str) -> None:
        raise StoreError("the store is gone")


def test_a_store_that_fails_in_the_middle_leaves_a_stray_and_never_a_dead_link(house: House) -> None:
    job_id = house.drawn()
    house.books.clock.forward(31 * 86_400)
    broken, whole = FailingStore(house.folder), house.store
    house.store = broken
    with pytest.raises(StoreError):
        house.sweep()
    # The row says so already: whoever asks is told, although the object is still there.
    assert house.books.rows("SELECT result FROM generations WHERE id = ?", job_id) == [(None,)]
    house.store = whole
    assert house.files() == 1
    assert house.sweep() == 0
    assert house.sweep(strays=True) == 1
    assert house.files() == 0


def test_only_strays_are_swept_and_only_where_their_own_job_says_so(house: House) -> None:
    promised = house.drawn()
    waiting = queued_job(house.books, house.account)
    failed = queued_job(house.books, house.account)
    end_job(house.books, house.account, failed, "failed")
    keys = {
        job: asyncio.run(house.store.put(job, f"an attempt at {job}".encode()))
        for job in (promised, waiting, failed, 4_711)
    }
    # The files are as young as the test; the clock of the books is far ahead of them.
    assert house.sweep(strays=True) == 2
    for job, is_left in ((promised, False), (waiting, True), (failed, False), (4_711, True)):
        assert is_there(house.store.get(keys[job])) == is_left, job
    assert house.open(house.links.link(promised))


def is_there(reading: Coroutine[Any, Any, bytes]) -> bool:
    try:
        return bool(asyncio.run(reading))
    except ObjectMissing:
        return False


def test_young_objects_are_nobodys_strays(books: TemporaryBooks, tmp_path: Path) -> None:
    books.clock = FixedClock(0)
    house = House(books, tmp_path / "objects")
    failed = queued_job(books, house.account)
    end_job(books, house.account, failed, "failed")
    asyncio.run(house.store.put(failed, PNG))
    assert house.sweep(strays=True) == 0
