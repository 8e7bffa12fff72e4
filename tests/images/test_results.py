"""Tests of finished images: links, delivery, retention and orphaned objects."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from minitoolai.core.errors import Gone, NotFound, ObjectMissing, Overloaded, ServiceError, SettingsError, StoreError
from minitoolai.core.signing import UrlSigner
from minitoolai.images.results import PATH, ImageDelivery, ImageSweeper, Links, PublicAddress, job_view
from minitoolai.storage.object_store import LocalObjectStore
from tests.support.books import NOON_MS, FixedClock, TemporaryBooks
from tests.support.images import PRICE, end_job, find_job, links, queued_job

PNG = b"\x89PNG\r\n\x1a\n, an image"


class ImageStore:
    """A database, a folder of images, and the services that deliver and sweep them."""

    def __init__(self, books: TemporaryBooks, folder: Path) -> None:
        self.books = books
        self.folder = folder
        self.store = LocalObjectStore(folder)
        self.links = links(books.clock)
        self.delivery = ImageDelivery(books.database, self.store, self.links)
        self.account = books.account(100 * PRICE)

    def finished_job(self, png: bytes = PNG) -> int:
        """Add a finished job with its image and return its ID."""
        job_id = queued_job(self.books, self.account)
        key = asyncio.run(self.store.put(job_id, png + str(job_id).encode()))
        end_job(self.books, self.account, job_id, key=key)
        return job_id

    def open(self, link: str) -> bytes:
        name, _, query = link.rpartition("/")[2].partition("?")
        fields = dict(pair.split("=") for pair in query.split("&"))

        async def work() -> bytes:
            return await self.delivery.read(await self.delivery.find(name, fields["expires"], fields["signature"]))

        return asyncio.run(work())

    def sweep(self, days: float = 30.0, *, orphans: bool = False) -> int:
        with self.books.writer() as writer:
            sweeper = ImageSweeper(self.books.database, writer, self.store, self.books.clock, retention_days=days)
            return asyncio.run(sweeper.sweep_orphans() if orphans else sweeper.sweep())

    def files(self) -> int:
        return len(list(self.folder.rglob("*.png")))


@pytest.fixture
def images(books: TemporaryBooks, tmp_path: Path) -> ImageStore:
    return ImageStore(books, tmp_path / "objects")


# ── links ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_link_returns_its_image_until_it_expires(images: ImageStore) -> None:
    job_id = images.finished_job()
    link = images.links.link(job_id)
    assert link.startswith(f"http://127.0.0.1:8000{PATH}{job_id}.png?expires={NOON_MS // 1000 + 3600}&signature=")
    images.books.clock.forward(3599)
    assert images.open(link) == PNG + str(job_id).encode()
    images.books.clock.forward(1)
    with pytest.raises(Gone, match="poll the job again") as gone:
        images.open(link)
    assert gone.value.code == "link_expired"
    assert images.open(images.links.link(job_id)) == PNG + str(job_id).encode()


def test_every_modified_link_gives_the_same_error(images: ImageStore) -> None:
    one, two = images.links.link(images.finished_job()), images.links.link(images.finished_job())
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
        Links(UrlSigner(b"another key"), images.books.clock, lambda: "", lifetime_s=9).link(
            int(one.split("/")[-1][:16])
        ),
    ]
    messages = set()
    for link in wrong:
        with pytest.raises(NotFound) as refusal:
            images.open(link)
        messages.add(refusal.value.message)
    assert len(messages) == 1


def test_a_modified_expired_link_gives_the_error_of_a_modified_link(images: ImageStore) -> None:
    link = images.links.link(images.finished_job())
    images.books.clock.forward(4000)
    with pytest.raises(NotFound):
        images.open(link[:-1])


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_job_without_an_image_is_not_found(images: ImageStore, state: str) -> None:
    job_id = queued_job(images.books, images.account)
    with pytest.raises(NotFound):
        images.open(images.links.link(job_id))
    end_job(images.books, images.account, job_id, state)
    with pytest.raises(NotFound):
        images.open(images.links.link(job_id))


def test_a_missing_object_is_an_internal_error(images: ImageStore) -> None:
    job_id = images.finished_job()
    for path in images.folder.rglob("*.png"):
        path.unlink()
    with pytest.raises(ServiceError, match="notified") as failure:
        images.open(images.links.link(job_id))
    assert failure.value.code == "internal_error"


def test_an_unreachable_store_is_retryable(images: ImageStore) -> None:
    link = images.links.link(images.finished_job())
    images.folder.rename(images.folder.with_name("elsewhere"))
    images.folder.write_text("no folder")
    with pytest.raises(Overloaded, match="does not respond"):
        images.open(link)


# ── retention ─────────────────────────────────────────────────────────────────────────────────────────────


def test_polls_and_links_report_an_image_that_retention_removed(images: ImageStore) -> None:
    job_id = images.finished_job()
    images.books.clock.forward(30 * 86_400)
    link = images.links.link(job_id)
    assert images.sweep() == 0
    images.books.clock.forward(10)
    assert images.sweep() == 1
    assert images.files() == 0
    with pytest.raises(Gone) as gone:
        images.open(link)
    assert gone.value.code == "picture_removed"
    shown = job_view(asyncio.run(find_job(images.books, job_id)), images.links)
    assert (shown.status, shown.image_url, shown.code) == ("error", None, "picture_removed")
    assert "removed" in shown.message


def test_retention_does_not_change_charges(images: ImageStore) -> None:
    images.finished_job()
    before = images.books.money(images.account)
    images.books.clock.forward(31 * 86_400)
    assert images.sweep() == 1
    assert images.books.money(images.account) == before


def test_retention_of_0_days_keeps_images_forever(images: ImageStore) -> None:
    images.finished_job()
    images.books.clock.forward(3000 * 86_400)
    assert images.sweep(0) == 0
    assert images.files() == 1


def test_more_images_than_fit_one_transaction_are_all_removed(images: ImageStore) -> None:
    account = images.account = images.books.account(1000 * PRICE)
    for _ in range(450):
        job_id = queued_job(images.books, account)
        end_job(images.books, account, job_id, key=f"{job_id:064x}-{job_id}")
    images.books.clock.forward(31 * 86_400)
    assert images.sweep() == 450


class FailingStore(LocalObjectStore):
    """Raise StoreError for every deletion."""

    async def delete(self, key: str) -> None:
        raise StoreError("the store is gone")


def test_a_store_that_fails_during_a_sweep_leaves_an_orphan_and_no_dead_link(images: ImageStore) -> None:
    job_id = images.finished_job()
    images.books.clock.forward(31 * 86_400)
    broken, whole = FailingStore(images.folder), images.store
    images.store = broken
    with pytest.raises(StoreError):
        images.sweep()
    # The row already says that the image is removed, although the object still exists.
    assert images.books.rows("SELECT result FROM generations WHERE id = ?", job_id) == [(None,)]
    images.store = whole
    assert images.files() == 1
    assert images.sweep() == 0
    assert images.sweep(orphans=True) == 1
    assert images.files() == 0


def test_only_objects_that_their_job_does_not_refer_to_are_orphans(images: ImageStore) -> None:
    referenced = images.finished_job()
    waiting = queued_job(images.books, images.account)
    failed = queued_job(images.books, images.account)
    end_job(images.books, images.account, failed, "failed")
    keys = {
        job: asyncio.run(images.store.put(job, f"an attempt at {job}".encode()))
        for job in (referenced, waiting, failed, 4_711)
    }
    # The files are new, but the clock of the database is far ahead of them.
    assert images.sweep(orphans=True) == 2
    for job, is_left in ((referenced, False), (waiting, True), (failed, False), (4_711, True)):
        assert exists(images.store.get(keys[job])) == is_left, job
    assert images.open(images.links.link(referenced))


def exists(reading: Coroutine[Any, Any, bytes]) -> bool:
    try:
        return bool(asyncio.run(reading))
    except ObjectMissing:
        return False


def test_new_objects_are_not_orphans(books: TemporaryBooks, tmp_path: Path) -> None:
    books.clock = FixedClock(0)
    images = ImageStore(books, tmp_path / "objects")
    failed = queued_job(books, images.account)
    end_job(books, images.account, failed, "failed")
    asyncio.run(images.store.put(failed, PNG))
    assert images.sweep(orphans=True) == 0


# ── public address ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("public_url", "host", "address"),
    [
        ("", "127.0.0.1", "http://127.0.0.1:8000"),
        ("", "0.0.0.0", "http://127.0.0.1:8000"),
        ("", "::", "http://[::1]:8000"),
        ("", "::1", "http://[::1]:8000"),
        ("", "api.internal", "http://api.internal:8000"),
        ("https://api.example.com", "0.0.0.0", "https://api.example.com"),
        ("https://api.example.com/", "0.0.0.0", "https://api.example.com"),
        ("https://example.com/ai/", "127.0.0.1", "https://example.com/ai"),
        ("http://localhost:9000", "127.0.0.1", "http://localhost:9000"),
    ],
)
def test_links_start_with_the_address_that_clients_use(public_url: str, host: str, address: str) -> None:
    assert PublicAddress(public_url, host, 8000)() == address


def test_links_use_a_port_that_is_known_only_after_startup() -> None:
    address = PublicAddress("", "127.0.0.1", 0)
    address.listening_on(41_234)
    assert address() == "http://127.0.0.1:41234"


@pytest.mark.parametrize("url", ["api.example.com", "ftp://example.com", "https://", "https://a?b=c", "https://a#b"])
def test_an_address_to_which_no_path_can_be_appended_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="MINITOOLAI_PUBLIC_URL"):
        PublicAddress(url, "127.0.0.1", 8000)
