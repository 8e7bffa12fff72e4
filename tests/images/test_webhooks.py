"""Tests of webhooks: signatures, retries for a day, limits per account, and the delivery log."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from minitoolai.core.clock import generation_name
from minitoolai.core.errors import FetchFailed, InvalidRequest, NotFound, Overloaded
from minitoolai.core.models import Caller
from minitoolai.httpclient.guarded import GuardedClient
from minitoolai.images.webhooks import (
    DELAYS_S,
    LEASE_MS,
    LOG_RETENTION_MS,
    MAX_AGE_MS,
    MAX_CONCURRENT,
    MAX_CONCURRENT_PER_ACCOUNT,
    WebhookDeliverer,
    WebhookLog,
    WebhookSecrets,
)
from minitoolai.storage.tables import outbox
from minitoolai.storage.writer import Writer
from tests.support.books import NOON_MS, TemporaryBooks
from tests.support.images import PRICE, end_job, find_job, links, queued_job, receiver
from tests.support.upstream import Upstream

SECRETS = WebhookSecrets(b"a key for tests")
Work = Callable[[WebhookDeliverer], Awaitable[None]]


def deliver(books: TemporaryBooks, work: Work, *, insecure: bool = True, post: Any = None) -> None:
    client = GuardedClient(insecure=insecure)

    async def by_client(url: str, body: bytes, headers: dict[str, str]) -> int:
        return await client.post(url, body, headers=headers, field="webhook_url", timeout_s=5)

    async def run(writer: Writer) -> None:
        await work(
            WebhookDeliverer(
                books.database,
                writer,
                books.clock,
                find_job=lambda job_id: find_job(books, job_id),
                links=links(books.clock),
                secrets=SECRETS,
                post=post or by_client,
            )
        )

    with books.writer() as writer:
        asyncio.run(run(writer))


async def once(deliverer: WebhookDeliverer) -> None:
    await deliverer.deliver_due()
    await deliverer.wait_idle()


def ended(books: TemporaryBooks, account: int, url: str | None, state: str = "succeeded") -> int:
    job_id = queued_job(books, account, url)
    end_job(books, account, job_id, state)
    # Jobs of these books end half a second after noon.
    books.clock.ms = max(books.clock.ms, NOON_MS + 500)
    return job_id


def url_of(hook: Upstream) -> str:
    return f"http://127.0.0.1:{hook.port}/hook?shop=7"


def states(books: TemporaryBooks) -> list[tuple[Any, ...]]:
    return books.rows("SELECT state, attempts FROM outbox ORDER BY id")


def is_signed(secret: str, headers: dict[str, str], raw: bytes) -> bool:
    """Verify a signature as a receiver does, independently of our code."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + raw
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return hmac.compare_digest(f"v1,{expected}", headers["webhook-signature"])


@pytest.mark.parametrize(
    ("state", "kind", "status"),
    [
        ("succeeded", "image.succeeded", "success"),
        ("failed", "image.failed", "error"),
        ("cancelled", "image.cancelled", "error"),
    ],
)
def test_a_webhook_is_signed_and_has_the_fields_of_a_poll(
    books: TemporaryBooks, state: str, kind: str, status: str
) -> None:
    account = books.account(10 * PRICE)
    with receiver(200) as hook:
        job_id = ended(books, account, url_of(hook), state)
        deliver(books, once)
        sent = hook.last
    assert (sent.body["type"], sent.body["data"]["status"]) == (kind, status)
    assert sent.body["data"]["jobid"] == job_id
    assert (sent.body["data"]["image_url"] is not None) == (state == "succeeded")
    assert sent.path == "/hook?shop=7"
    assert sent.headers["webhook-id"] == sent.body["id"]
    assert sent.headers["webhook-timestamp"] == str(NOON_MS // 1000)
    assert is_signed(SECRETS.secret_for(account), sent.headers, sent.raw)
    assert not is_signed(SECRETS.secret_for(account), sent.headers, sent.raw + b" ")
    assert not is_signed(SECRETS.secret_for(account + 1), sent.headers, sent.raw)
    assert states(books) == [("delivered", 1)]


def test_a_job_without_a_webhook_url_sends_nothing(books: TemporaryBooks) -> None:
    ended(books, books.account(10 * PRICE), None)
    assert states(books) == []


def test_the_end_of_a_job_and_its_message_are_one_commit(books: TemporaryBooks) -> None:
    account = books.account(10 * PRICE)
    job_id = queued_job(books, account, "https://example.com/")

    def unplugged() -> None:
        with books.connection.transaction():
            outbox.enqueue_webhooks(books.connection, [job_id], NOON_MS)
            raise OSError("unplugged")

    with pytest.raises(OSError, match="unplugged"):
        unplugged()
    assert states(books) == []
    end_job(books, account, job_id)
    with books.connection.transaction():
        outbox.enqueue_webhooks(books.connection, [job_id], NOON_MS)
    assert len(states(books)) == 1


def test_a_failing_receiver_is_retried_with_growing_delays_until_it_succeeds(books: TemporaryBooks) -> None:
    account = books.account(10 * PRICE)
    with receiver(500, 503, 302, 404, 204) as hook:
        ended(books, account, url_of(hook))

        async def work(deliverer: WebhookDeliverer) -> None:
            for delay_s in (*DELAYS_S[:4], 0):
                await once(deliverer)
                received = len(hook.seen)
                books.clock.forward(delay_s * 0.89)
                await once(deliverer)
                assert len(hook.seen) == received
                books.clock.forward(delay_s * 0.11)

        deliver(books, work)
        assert [sent.headers["webhook-id"] for sent in hook.seen] == [hook.seen[0].headers["webhook-id"]] * 5
        assert len({sent.headers["webhook-timestamp"] for sent in hook.seen}) == 5
    assert states(books) == [("delivered", 5)]
    logged = books.database.read(outbox.delivery_log, account, 10)[0]
    assert [attempt.status for attempt in logged.attempts] == [500, 503, 302, 404, 204]
    assert logged.finished_ms == books.clock.now_ms() - 0


def test_a_receiver_that_always_fails_is_retried_for_a_day(books: TemporaryBooks) -> None:
    account = books.account(10 * PRICE)
    with receiver(500) as hook:
        ended(books, account, url_of(hook))

        async def work(deliverer: WebhookDeliverer) -> None:
            for delay_s in (*DELAYS_S, 0, 0):
                await once(deliverer)
                books.clock.forward(delay_s)

        deliver(books, work)
        assert len(hook.seen) == len(DELAYS_S) + 1
    assert states(books) == [("failed", len(DELAYS_S) + 1)]
    assert 0.8 * MAX_AGE_MS < sum(DELAYS_S) * 1000 + LEASE_MS <= MAX_AGE_MS + 8 * 3_600_000
    assert books.clock.now_ms() - NOON_MS > 20 * 3_600_000


def test_a_410_response_ends_the_retries(books: TemporaryBooks) -> None:
    with receiver(410) as hook:
        ended(books, books.account(10 * PRICE), url_of(hook))
        deliver(books, once)
        assert len(hook.seen) == 1
    assert states(books) == [("failed", 1)]


def test_an_internal_address_is_refused_and_logged_and_never_contacted(books: TemporaryBooks) -> None:
    account = books.account(10 * PRICE)
    with receiver(200) as hook:
        ended(books, account, f"https://127.0.0.1:{hook.port}/")
        deliver(books, once, insecure=False)
        assert hook.seen == []
    logged = books.database.read(outbox.delivery_log, account, 10)[0]
    assert "webhook_url" in (logged.attempts[0].error or "")
    assert logged.state == "pending"


def test_a_message_is_sent_again_after_the_lease_of_a_dead_process(books: TemporaryBooks) -> None:
    account = books.account(10 * PRICE)
    with receiver(200) as hook:
        ended(books, account, url_of(hook))

        async def hang(*_: Any) -> Any:
            await asyncio.Event().wait()

        async def dies(deliverer: WebhookDeliverer) -> None:
            running = asyncio.ensure_future(deliverer.run())
            while not states(books)[0][1]:
                await asyncio.sleep(0.01)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

        deliver(books, dies, post=hang)
        deliver(books, once)
        assert hook.seen == []
        books.clock.forward(LEASE_MS / 1000)
        deliver(books, once)
        assert len(hook.seen) == 1
    assert states(books) == [("delivered", 2)]


def test_an_attempt_that_outlived_its_lease_changes_nothing(books: TemporaryBooks) -> None:
    account = books.account(10 * PRICE)
    ended(books, account, "https://example.com/")
    with books.connection.transaction():
        slow = outbox.claim(books.connection, now_ms=NOON_MS + 500, lease_ms=LEASE_MS, limit=9)[0]
        quick = outbox.claim(books.connection, now_ms=NOON_MS + 500 + LEASE_MS, lease_ms=LEASE_MS, limit=9)[0]
        delivered = outbox.DeliveryAttempt(quick.attempts, NOON_MS, 5, 200, None)
        outbox.log_attempt(books.connection, quick, delivered, state="delivered", next_ms=NOON_MS, now_ms=NOON_MS)
        late = outbox.DeliveryAttempt(slow.attempts, NOON_MS, 5, 500, None)
        outbox.log_attempt(books.connection, slow, late, state="failed", next_ms=NOON_MS, now_ms=NOON_MS)
    assert states(books) == [("delivered", 2)]
    assert books.rows("SELECT attempt, status FROM webhook_deliveries") == [(2, 200)]


def test_100_messages_to_a_slow_receiver_do_not_block_other_accounts(books: TemporaryBooks) -> None:
    greedy, modest = books.account(1000 * PRICE), books.account(10 * PRICE)
    posted: list[str] = []
    release = asyncio.Event()

    async def post(url: str, _: bytes, __: dict[str, str]) -> int:
        posted.append(url)
        if "pit" in url:
            await release.wait()
            raise FetchFailed("webhook_url: no whole answer within 10 s")
        return 200

    for _ in range(100):
        ended(books, greedy, "https://pit.example.com/")
    ended(books, modest, "https://shop.example.com/")

    async def work(deliverer: WebhookDeliverer) -> None:
        running = asyncio.ensure_future(deliverer.run())
        for _ in range(500):
            if "https://shop.example.com/" in posted:
                break
            await asyncio.sleep(0.01)
        assert "https://shop.example.com/" in posted
        assert posted.count("https://pit.example.com/") < MAX_CONCURRENT / 2
        release.set()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    deliver(books, work, post=post)


def test_a_message_of_a_deleted_job_fails(books: TemporaryBooks) -> None:
    ended(books, books.account(10 * PRICE), "https://example.com/")

    async def missing(_: int) -> Any:
        raise NotFound("there is no such job")

    async def work(deliverer: WebhookDeliverer) -> None:
        deliverer._find_job = missing
        await once(deliverer)

    deliver(books, work)
    assert states(books) == [("failed", 1)]


def test_only_finished_messages_are_deleted_from_the_log(books: TemporaryBooks) -> None:
    account = books.account(10 * PRICE)
    with receiver(200, 500) as hook:
        ended(books, account, url_of(hook))
        deliver(books, once)
        ended(books, account, url_of(hook))
        deliver(books, once)
    with books.connection.transaction():
        assert outbox.delete_finished(books.connection, NOON_MS + 501, 100) == 1
    assert states(books) == [("pending", 1)]
    assert books.rows("SELECT count(*) FROM webhook_deliveries") == [(1,)]


def test_every_account_has_its_own_secret() -> None:
    assert SECRETS.secret_for(1) != SECRETS.secret_for(2)
    assert SECRETS.secret_for(1).startswith("whsec_")


def test_at_most_four_messages_of_one_account_are_sent_concurrently(books: TemporaryBooks) -> None:
    account, posted = books.account(1000 * PRICE), []
    release = asyncio.Event()

    async def post(url: str, _: bytes, __: dict[str, str]) -> int:
        posted.append(url)
        await release.wait()
        return 200

    for _ in range(20):
        ended(books, account, "https://pit.example.com/")

    async def work(deliverer: WebhookDeliverer) -> None:
        for _ in range(3):
            await deliverer.deliver_due()
            await asyncio.sleep(0.05)
        assert len(posted) == MAX_CONCURRENT_PER_ACCOUNT == 4
        release.set()
        await deliverer.wait_idle()

    deliver(books, work, post=post)


def test_finished_messages_older_than_a_month_are_deleted(books: TemporaryBooks) -> None:
    with receiver(200) as hook:
        ended(books, books.account(10 * PRICE), url_of(hook))

        async def work(deliverer: WebhookDeliverer) -> None:
            await once(deliverer)
            books.clock.forward(LOG_RETENTION_MS / 1000 + 1)
            running = asyncio.ensure_future(deliverer.run())
            for _ in range(200):
                if not states(books):
                    break
                await asyncio.sleep(0.01)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

        deliver(books, work)
    assert states(books) == []


def test_a_secret_is_derived_from_the_key_of_the_server_and_stays_the_same() -> None:
    expected = hmac.new(b"a key for tests", b"webhooks\0" + b"1001", hashlib.sha256).digest()
    assert SECRETS.secret_for(1001) == "whsec_" + base64.b64encode(expected).decode()


@pytest.mark.parametrize(
    ("status", "state"), [(199, "pending"), (200, "delivered"), (299, "delivered"), (300, "pending"), (410, "failed")]
)
def test_any_status_from_200_to_299_is_a_delivery(sqlite_books: TemporaryBooks, status: int, state: str) -> None:
    ended(sqlite_books, sqlite_books.account(10 * PRICE), "https://example.com/")

    async def post(*_: object) -> int:
        return status

    deliver(sqlite_books, once, post=post)
    assert states(sqlite_books) == [(state, 1)]


def test_the_limit_of_an_account_still_holds_after_deliveries_have_ended(sqlite_books: TemporaryBooks) -> None:
    account, in_flight, most = sqlite_books.account(1000 * PRICE), 0, 0

    async def post(*_: object) -> int:
        nonlocal in_flight, most
        in_flight += 1
        most = max(most, in_flight)
        await asyncio.sleep(0.001)
        in_flight -= 1
        return 200

    for _ in range(20):
        ended(sqlite_books, account, "https://example.com/")

    async def work(deliverer: WebhookDeliverer) -> None:
        started = await deliverer.deliver_due()
        assert started == MAX_CONCURRENT_PER_ACCOUNT
        while started < 20:
            await asyncio.sleep(0.002)
            started += await deliverer.deliver_due()
        await deliverer.wait_idle()
        assert await deliverer.deliver_due() == 0
        assert not deliverer._sending

    deliver(sqlite_books, work, post=post)
    assert most == MAX_CONCURRENT_PER_ACCOUNT
    assert set(states(sqlite_books)) == {("delivered", 1)}


def test_retries_of_messages_that_failed_together_are_spread(sqlite_books: TemporaryBooks) -> None:
    for _ in range(20):
        ended(sqlite_books, sqlite_books.account(10 * PRICE), "https://example.com/")

    async def post(*_: object) -> int:
        return 500

    deliver(sqlite_books, once, post=post)
    due_ms = [row[0] - sqlite_books.clock.now_ms() for row in sqlite_books.rows("SELECT next_ms FROM outbox")]
    assert len(due_ms) == 20
    assert all(4500 <= ms <= 5000 for ms in due_ms)
    assert len(set(due_ms)) > 10


def test_the_deliverer_polls_now_and_then_and_not_in_a_loop(sqlite_books: TemporaryBooks) -> None:
    account, posted, polls = sqlite_books.account(100 * PRICE), asyncio.Queue[str](), 0

    async def post(url: str, *_: object) -> int:
        posted.put_nowait(url)
        return 200

    async def work(deliverer: WebhookDeliverer) -> None:
        deliver_due = deliverer.deliver_due

        async def counted() -> int:
            nonlocal polls
            polls += 1
            return await deliver_due()

        deliverer.deliver_due = counted  # type: ignore[method-assign]
        running = asyncio.ensure_future(deliverer.run())
        # Nobody announces the second message: the poll a second later finds it.
        for _ in range(2):
            ended(sqlite_books, account, "https://example.com/")
            await asyncio.wait_for(posted.get(), 10)
            await asyncio.sleep(0.1)
        assert not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    deliver(sqlite_books, work, post=post)
    assert states(sqlite_books) == [("delivered", 1)] * 2
    assert 2 <= polls <= 10


def test_an_attempt_that_cannot_be_recorded_is_logged_and_repeated_after_its_lease(
    sqlite_books: TemporaryBooks, caplog: pytest.LogCaptureFixture
) -> None:
    ended(sqlite_books, sqlite_books.account(10 * PRICE), "https://example.com/")

    async def post(*_: object) -> int:
        return 200

    async def unreadable(_: int) -> Any:
        raise Overloaded("The database is away.")

    async def work(deliverer: WebhookDeliverer) -> None:
        find, deliverer._find_job = deliverer._find_job, unreadable
        await once(deliverer)
        assert states(sqlite_books) == [("pending", 1)]
        assert "recording the attempt failed, will retry after its lease: The database is away." in caplog.text
        caplog.clear()
        deliverer._find_job = find
        sqlite_books.clock.forward(LEASE_MS / 1000)
        await once(deliverer)
        assert caplog.text == ""

    with caplog.at_level(logging.ERROR):
        deliver(sqlite_books, work, post=post)
    assert states(sqlite_books) == [("delivered", 2)]


def test_the_log_of_an_account_has_its_secret_and_its_own_messages(sqlite_books: TemporaryBooks) -> None:
    account, other = sqlite_books.account(10 * PRICE), sqlite_books.account(10 * PRICE)
    with receiver(500) as hook:
        job_id = ended(sqlite_books, account, url_of(hook))
        ended(sqlite_books, other, url_of(hook))
        deliver(sqlite_books, once)
    shown = asyncio.run(WebhookLog(sqlite_books.database, SECRETS).read(Caller(account, "k")))
    assert shown["secret"] == SECRETS.secret_for(account)
    (message,) = shown["data"]
    assert message["id"] == f"evt-{generation_name(job_id)}"
    assert (message["state"], message["finished_at"]) == ("pending", None)
    assert message["next_attempt_at"] is not None
    assert [(attempt["status"], attempt["error"]) for attempt in message["attempts"]] == [(500, None)]


def test_a_log_that_cannot_be_read_is_overloaded(sqlite_books: TemporaryBooks) -> None:
    sqlite_books.connection.execute("ALTER TABLE outbox RENAME TO elsewhere")
    with pytest.raises(Overloaded) as refusal:
        asyncio.run(WebhookLog(sqlite_books.database, SECRETS).read(Caller(1, "k")))
    assert refusal.value.retry_after_s == 5


def test_older_messages_of_the_log_come_page_by_page(sqlite_books: TemporaryBooks) -> None:
    account = sqlite_books.account(100 * PRICE)
    jobs = [queued_job(sqlite_books, account) for _ in range(5)]
    sqlite_books.connection.execute("UPDATE generations SET webhook_url = 'https://example.com'")
    for job_id in jobs:
        with sqlite_books.connection.transaction():
            outbox.enqueue_webhooks(sqlite_books.connection, [job_id], NOON_MS)
    reader, before, seen = WebhookLog(sqlite_books.database, SECRETS, page_size=2), None, []
    while True:
        page = asyncio.run(reader.read(Caller(account, "k"), before))
        seen += [entry["id"] for entry in page["data"]]
        if not page["has_more"]:
            break
        before = seen[-1]
    assert seen == [f"evt-{generation_name(job_id)}" for job_id in reversed(jobs)]
    with pytest.raises(InvalidRequest, match="like evt-gen"):
        asyncio.run(reader.read(Caller(account, "k"), "yesterday"))
