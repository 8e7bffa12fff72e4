"""Reserve, renew and settle holds, with a real writer."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from minitoolai.accounts.rate_limits import Limits
from minitoolai.billing.charging import (
    LEASE_MS,
    Bound,
    Charging,
    charged_cost,
    chat_bound,
    image_job_bound,
    speech_bound,
    wait_until_durable,
)
from minitoolai.core.catalog.catalog import ChatModel
from minitoolai.core.catalog.prices import Prices
from minitoolai.core.counting import estimate_prompt
from minitoolai.core.errors import (
    AccessDenied,
    AlreadySettled,
    BudgetExceeded,
    InsufficientBalance,
    RateLimited,
    ServiceError,
    StoreError,
)
from minitoolai.core.inference import ChatRequest
from minitoolai.core.models import Balance, Caller, KeyRules, NewGeneration, Outcome, RateLimits
from minitoolai.core.telemetry.tracing import Spans
from minitoolai.ledger.types import Recover, UnknownAccountOrHold
from minitoolai.storage.writer import Writer
from tests.support.books import CHAT, DONE, NOON_MS, TemporaryBooks

BOUND = Bound(base=100, unit=10, units=50, least_units=16)
#: The same, with 60 tokens that count against rate limits.
COUNTED = Bound(base=100, unit=10, units=50, least_units=16, tokens=60)


def caller(account: int) -> Caller:
    return Caller(account, "key000000001")


def test_a_reservation_holds_the_bound_and_writes_the_generation(books: TemporaryBooks) -> None:
    account = books.account(1000)

    async def work(charging: Charging) -> None:
        reservation = await charging.reserve(caller(account), BOUND, CHAT)
        assert (reservation.amount, reservation.units) == (600, 50)
        assert (reservation.price_input, reservation.price_output) == (CHAT.price_input, CHAT.price_output)
        assert books.money(account) == Balance(1000, 600)
        assert books.rows("SELECT id, state, created_ms FROM generations") == [
            (reservation.hold_id, "running", NOON_MS)
        ]
        assert books.rows("SELECT lease_until_ms FROM holds") == [(NOON_MS + LEASE_MS,)]
        future = charging.settle(reservation, 250, DONE)
        assert future is not None
        assert charged_cost(await future) == 250

    with books.writer() as writer:
        asyncio.run(work(Charging(writer, books.clock)))
    assert books.money(account) == Balance(750, 0)


def test_a_charge_on_an_unknown_hold_is_an_error(books: TemporaryBooks) -> None:
    account = books.account(1000)

    async def work(charging: Charging) -> None:
        reservation = await charging.reserve(caller(account), BOUND, CHAT)
        lost = msgspec.structs.replace(reservation, hold_id=reservation.hold_id + 1)
        future = charging.settle(lost, 250, DONE)
        assert future is not None
        with pytest.raises(StoreError, match="has no hold for this charge"):
            await wait_until_durable(future, within_s=5)

    with books.writer() as writer:
        asyncio.run(work(Charging(writer, books.clock)))
    assert books.money(account) == Balance(1000, 600)


#: What came first → whether a charge of 250 for the work that DONE describes is the one in the books.
FIRST = {
    "the same charge": ((250, DONE), True),
    "another cost": ((240, DONE), False),
    "another state": ((250, msgspec.structs.replace(DONE, state="failed")), False),
    "another usage": ((250, msgspec.structs.replace(DONE, output_units=DONE.output_units + 1)), False),
    "a recovery": ((), False),
}


@pytest.mark.parametrize(("first", "is_the_same"), FIRST.values(), ids=FIRST)
def test_a_charge_is_durable_only_if_the_ledger_has_this_charge(
    books: TemporaryBooks, first: tuple[int, Outcome] | tuple[()], is_the_same: bool
) -> None:
    account = books.account(1000)

    async def work(charging: Charging, writer: Writer) -> None:
        reservation = await charging.reserve(caller(account), BOUND, CHAT)
        # The last checkpoint says what the charge will: a recovery then takes the same amount.
        charging.keep_alive(reservation, 250)
        if first:
            charging.settle(reservation, *first)
        else:
            await writer.submit(Recover(reservation.hold_id, account, NOON_MS, forced=True))  # type: ignore[misc]
        charge = charging.settle(reservation, 250, DONE)
        assert charge is not None
        if is_the_same:
            await wait_until_durable(charge, within_s=5)
        else:
            with pytest.raises(AlreadySettled):
                await wait_until_durable(charge, within_s=5)

    with books.writer() as writer:
        asyncio.run(work(Charging(writer, books.clock), writer))
    assert books.money(account) == Balance(1000 - (first[0] if first else 250), 0)


def test_a_charge_in_the_same_commit_as_a_recovery_is_not_durable(books: TemporaryBooks) -> None:
    account = books.account(1000)

    async def work(charging: Charging, writer: Writer) -> None:
        reservation = await charging.reserve(caller(account), BOUND, CHAT)
        charging.keep_alive(reservation, 250)
        # Neither waits for the other: one batch for both.
        writer.submit(Recover(reservation.hold_id, account, NOON_MS, forced=True), wait=False)
        charge = charging.settle(reservation, 250, DONE)
        assert charge is not None
        with pytest.raises(AlreadySettled):
            await wait_until_durable(charge, within_s=5)

    with books.writer() as writer:
        asyncio.run(work(Charging(writer, books.clock), writer))
        assert writer.counts.largest_batch == 3
    assert books.money(account) == Balance(750, 0)


def test_a_low_balance_is_granted_fewer_units(books: TemporaryBooks) -> None:
    account = books.account(299)

    async def work(charging: Charging) -> int:
        return (await charging.reserve(caller(account), BOUND, CHAT)).units

    with books.writer() as writer:
        assert asyncio.run(work(Charging(writer, books.clock))) == 19


@pytest.mark.parametrize(("nano", "dollars"), [(0, "0.00"), (3, "0.000000003"), (259, "0.000000259")])
def test_a_balance_below_the_minimum_is_refused_in_dollars(books: TemporaryBooks, nano: int, dollars: str) -> None:
    account = books.account(nano)

    async def work(charging: Charging) -> None:
        with pytest.raises(InsufficientBalance) as no:
            await charging.reserve(caller(account), BOUND, CHAT)
        assert no.value.message == (
            f"Insufficient balance: this request needs at least $0.00000026, but only ${dollars} is available. "
            "Top up, or lower max_completion_tokens."
        )
        assert (no.value.needed, no.value.available) == (260, nano)

    with books.writer() as writer:
        asyncio.run(work(Charging(writer, books.clock)))
    assert books.money(account) == Balance(nano, 0)
    assert books.rows("SELECT count(*) FROM generations") == [(0,)]


def test_a_deleted_account_is_a_401(books: TemporaryBooks) -> None:
    async def work(charging: Charging) -> None:
        with pytest.raises(AccessDenied):
            await charging.reserve(caller(999_999), BOUND, CHAT)

    with books.writer() as writer:
        asyncio.run(work(Charging(writer, books.clock)))


def test_a_client_that_disconnects_while_the_hold_is_written_pays_nothing(books: TemporaryBooks) -> None:
    account = books.account(100_000)

    async def work(charging: Charging, writer: Writer) -> None:
        for wait_s in (0, 0, 0.001, 0.002, 0.005, 0.01):
            asked = asyncio.create_task(charging.reserve(caller(account), BOUND, CHAT))
            await asyncio.sleep(wait_s)
            if asked.done():
                charging.settle(asked.result(), 0, DONE)
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
        await writer.run(lambda _: None)

    with books.writer() as writer:
        asyncio.run(work(Charging(writer, books.clock), writer))
    assert books.money(account) == Balance(100_000, 0)


def test_keep_alive_renews_the_lease_and_records_the_progress(books: TemporaryBooks) -> None:
    account = books.account(1000)

    async def work(charging: Charging) -> None:
        reservation = await charging.reserve(caller(account), BOUND, CHAT)
        books.clock.forward(3)
        charging.keep_alive(reservation, 120)

    with books.writer() as writer:
        asyncio.run(work(Charging(writer, books.clock)))
    assert books.rows("SELECT progress, lease_until_ms FROM holds") == [(120, NOON_MS + 3000 + LEASE_MS)]


@pytest.mark.parametrize("is_known", [True, False])
def test_a_checkpoint_on_a_hold_that_is_not_pending_is_reported_at_once(books: TemporaryBooks, is_known: bool) -> None:
    account, lost = books.account(1000), asyncio.Queue[ServiceError]()

    async def work(charging: Charging, writer: Writer) -> None:
        reservation = await charging.reserve(caller(account), BOUND, CHAT)
        charging.keep_alive(reservation, 100, lost.put_nowait)
        await writer.run(lambda _: None)
        await asyncio.sleep(0)
        assert lost.empty()
        await writer.submit(Recover(reservation.hold_id, account, NOON_MS, forced=True))  # type: ignore[misc]
        if not is_known:
            reservation = msgspec.structs.replace(reservation, hold_id=reservation.hold_id + 1)
        charging.keep_alive(reservation, 120, lost.put_nowait)
        error = await asyncio.wait_for(lost.get(), 5)
        assert error.code == "interrupted"

    with books.writer() as writer:
        asyncio.run(work(Charging(writer, books.clock), writer))
    assert lost.empty()
    assert books.money(account) == Balance(900, 0)


def test_five_hundred_concurrent_requests_get_exactly_what_the_balance_pays_for(books: TemporaryBooks) -> None:
    account = books.account(100 * 600)
    exact = Bound(base=600, unit=0, units=1, least_units=1)

    async def one(charging: Charging) -> bool:
        try:
            reservation = await charging.reserve(caller(account), exact, CHAT)
        except InsufficientBalance:
            return False
        future = charging.settle(reservation, 600, DONE)
        assert future is not None
        return charged_cost(await future) == 600

    async def work(charging: Charging) -> list[bool]:
        return await asyncio.gather(*(one(charging) for _ in range(500)))

    with books.writer() as writer:
        answered = asyncio.run(work(Charging(writer, books.clock)))
    assert sum(answered) == 100
    assert books.money(account) == Balance(0, 0)


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        ("chat", "Top up, or lower max_completion_tokens."),
        ("speech", "Top up, or send a shorter text."),
        ("image", "Top up."),
    ],
)
def test_a_refusal_advises_only_what_helps(sqlite_books: TemporaryBooks, kind: str, advice: str) -> None:
    poor = sqlite_books.account(0)
    generation = NewGeneration(kind, "model", "fake", 0, 100)

    async def work(charging: Charging) -> None:
        with pytest.raises(InsufficientBalance) as refusal:
            await charging.reserve(caller(poor), BOUND, generation)
        assert refusal.value.message.endswith(f"is available. {advice}")

    with sqlite_books.writer() as writer:
        asyncio.run(work(Charging(writer, sqlite_books.clock)))


def test_a_refused_hold_returns_its_slot_its_tokens_and_its_dollars(books: TemporaryBooks) -> None:
    poor, rate = books.account(0), RateLimits(streams=1, tokens_per_minute=60, dollars_per_minute=600)

    async def work(charging: Charging) -> None:
        for _ in range(3):
            with pytest.raises(InsufficientBalance):
                await charging.reserve(caller(poor), COUNTED, CHAT)

    with books.writer() as writer:
        asyncio.run(work(Charging(writer, books.clock, Limits(books.clock, rate))))


def test_a_queued_job_is_not_a_request_in_progress(books: TemporaryBooks) -> None:
    account = books.account(10_000)
    job = NewGeneration("image", "painter", "fake", 0, 100, request="{}", seed=1, size="256x256")

    async def work(charging: Charging) -> None:
        for _ in range(3):
            await charging.reserve(caller(account), COUNTED, job, queue_limit=10)

    with books.writer() as writer:
        asyncio.run(work(Charging(writer, books.clock, Limits(books.clock, RateLimits(streams=1)))))


def test_tokens_and_dollars_that_a_response_did_not_use_are_available_again(books: TemporaryBooks) -> None:
    account, rate = books.account(10_000), RateLimits(tokens_per_minute=100, dollars_per_minute=1000)

    async def work(charging: Charging) -> None:
        for _ in range(3):
            # At most 60 tokens and 600 nano-dollars are reserved; DONE has 8 tokens, and 30 nano-dollars are charged.
            charging.settle(await charging.reserve(caller(account), COUNTED, CHAT), 30, DONE)
        await charging.reserve(caller(account), COUNTED, CHAT)
        with pytest.raises(RateLimited):
            await charging.reserve(caller(account), COUNTED, CHAT)

    with books.writer() as writer:
        asyncio.run(work(Charging(writer, books.clock, Limits(books.clock, rate))))


def test_a_charge_that_is_not_written_in_time_is_an_error() -> None:
    async def work() -> None:
        with pytest.raises(TimeoutError, match="not written in time"):
            await wait_until_durable(asyncio.get_running_loop().create_future(), within_s=0.01)

    asyncio.run(asyncio.wait_for(work(), 5))


def test_a_result_that_is_no_charge_costs_nothing() -> None:
    assert charged_cost(UnknownAccountOrHold()) == 0


def test_the_bounds_of_speech_and_images_are_their_prices() -> None:
    assert speech_bound(15, 100) == Bound(1500, 0, 0, 0)
    assert speech_bound(0, 100) == Bound(0, 0, 0, 0)
    assert image_job_bound(1_500_000) == Bound(1_500_000, 0, 0, 0)
    assert image_job_bound(0) == Bound(0, 0, 0, 0)


def test_a_chat_must_be_able_to_pay_for_sixteen_tokens_or_for_its_limit() -> None:
    model = ChatModel("m", Prices.of_nano(150, 600), 128_000, 16_384, ("fake",), None)
    assert chat_bound(model, prompt_tokens=1, limit=100, choices=1).least_units == 16
    assert chat_bound(model, prompt_tokens=1, limit=5, choices=1).least_units == 5


def test_an_empty_prompt_counts_as_one_token() -> None:
    assert estimate_prompt(ChatRequest("m", [], {}, False, False, 5, text_bytes=0, images=[])) == 1


def test_a_key_beyond_its_budget_is_refused_and_holds_nothing(books: TemporaryBooks) -> None:
    account = books.account(10_000)
    frugal = Caller(account, "key000000001", rules=KeyRules(budget_total=259), rotation_group="key000000001")

    async def work(charging: Charging) -> None:
        with pytest.raises(BudgetExceeded, match="may spend only") as refusal:
            await charging.reserve(frugal, BOUND, CHAT)
        assert (refusal.value.needed, refusal.value.left) == (260, 259)

    with books.writer() as writer:
        asyncio.run(work(Charging(writer, books.clock)))
    assert books.money(account) == Balance(10_000, 0)


def test_a_full_queue_of_jobs_is_a_rate_limit_with_a_time_to_retry(books: TemporaryBooks) -> None:
    account = books.account(10_000)
    job = NewGeneration("image", "painter", "fake", 0, 100, state="queued", request="{}", seed=1, size="256x256")

    async def work(charging: Charging) -> None:
        await charging.reserve(caller(account), BOUND, job, queue_limit=1)
        with pytest.raises(RateLimited, match="already has 1 queued jobs") as refusal:
            await charging.reserve(caller(account), BOUND, job, queue_limit=1)
        assert refusal.value.retry_after_s == 5

    with books.writer() as writer:
        asyncio.run(work(Charging(writer, books.clock)))


def test_limits_of_requests_alone_leave_work_uncounted(books: TemporaryBooks) -> None:
    account, rate = books.account(10_000), RateLimits(requests_per_minute=1)
    job = NewGeneration("image", "painter", "fake", 0, 100, request="{}", seed=1, size="256x256")

    async def work(charging: Charging) -> None:
        reservation = await charging.reserve(caller(account), COUNTED, CHAT)
        assert reservation.limit_usage is None
        charge = charging.settle(reservation, 30, DONE)
        assert charge is not None
        assert charged_cost(await charge) == 30
        assert (await charging.reserve(caller(account), COUNTED, job, queue_limit=10)).limit_usage is None

    with books.writer() as writer:
        asyncio.run(work(Charging(writer, books.clock, Limits(books.clock, rate))))


def test_work_without_tokens_uses_none_of_the_tokens_per_minute(books: TemporaryBooks) -> None:
    account, rate = books.account(10_000), RateLimits(tokens_per_minute=60)

    async def work(charging: Charging) -> None:
        charging.settle(await charging.reserve(caller(account), BOUND, CHAT), 30, DONE)
        await charging.reserve(caller(account), COUNTED, CHAT)

    with books.writer() as writer:
        asyncio.run(work(Charging(writer, books.clock, Limits(books.clock, rate))))


def test_a_charge_is_metered_by_kind_and_model_and_written_alike_with_tracing(books: TemporaryBooks) -> None:
    account = books.account(10_000)

    def no_span(*_: object) -> None:
        raise AssertionError("a chat is not a job")

    async def work(charging: Charging) -> None:
        charge = charging.settle(await charging.reserve(caller(account), BOUND, CHAT), 30, DONE)
        assert charge is not None
        assert charged_cost(await charge) == 30
        (key,) = charging.meters.outcomes
        assert key == ("chat", CHAT.model, "succeeded", "")

    with books.writer() as writer:
        spans = Spans(no_span, books.clock)  # type: ignore[arg-type]
        asyncio.run(work(Charging(writer, books.clock, spans=spans)))
