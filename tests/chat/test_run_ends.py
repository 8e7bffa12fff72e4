"""Unit tests of chat/run.py: every way in which a run can end, and what it then costs."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from minitoolai.chat.run import ChatRun
from minitoolai.chat.service import MAX_DRAINING
from minitoolai.core.catalog.prices import Prices
from minitoolai.core.errors import ClientLeft, EngineError, RateLimited
from tests.support import manners
from tests.support.books import recover
from tests.support.scripted_chats import (
    COST,
    DONE,
    FINISH,
    PRICE_IN,
    PRICE_OUT,
    PROMPT,
    ROLE,
    SILENCE,
    TEXT,
    WORDS,
    Answer,
    Attempt,
    CharacterTokenizer,
    ScriptedEngine,
    SetUp,
    Stage,
    completion,
    failed,
    good,
    leaves,
    narrow,
    stops,
    stream,
    usage_event,
    without_usage,
    word,
)

# ── cancellation and draining ─────────────────────────────────────────────────────────────────────────────


def abandoned(stage: Stage, after_s: float = 0.5, *, streams: bool = True) -> Answer:
    """Send a request whose client disconnects after so many seconds."""
    found: list[Answer] = []

    async def scenario() -> None:
        found.append(await stage.ask(stage.request(streams=streams), prepare=leaves(after_s)))
        found[0].ended_s = stage.now_s()

    stage.play(scenario)
    return found[0]


def test_a_client_that_leaves_ends_the_request_and_pays_for_its_output(set_up: SetUp) -> None:
    a = ScriptedEngine("a", Attempt(*stream(*WORDS, every_s=0.2)))
    stage = set_up(a)
    answer = abandoned(stage)
    row = answer.row
    assert (row["state"], row["error_code"], row["output_units"], row["estimated"]) == (
        "cancelled", "client_left", 2, 1,
    )  # fmt: skip
    assert stage.spent() == row["cost"] == PROMPT * PRICE_IN + 2 * PRICE_OUT
    assert a.responses[0].is_closed
    assert answer.ended_s < 0.6


@pytest.mark.parametrize("streams", [True, False])
def test_an_engine_that_bills_after_a_disconnect_is_read_to_its_end(set_up: SetUp, streams: bool) -> None:
    steps = stream(*WORDS, every_s=0.4) if streams else [1.6, completion(*WORDS)]
    a = ScriptedEngine("a", Attempt(*steps), bills_after_cancel=True)
    stage = set_up(a)
    answer = abandoned(stage, streams=streams)
    assert answer.code == "client_left"
    assert answer.ended_s < 0.6
    row = answer.row
    assert (row["state"], row["error_code"], row["estimated"]) == ("cancelled", "client_left", 0)
    assert stage.spent() == row["cost"] == COST
    assert a.responses[0].is_closed


def test_an_account_with_too_many_abandoned_responses_is_refused_until_they_end(set_up: SetUp) -> None:
    stage = set_up(ScriptedEngine("a", Attempt(*stream(*WORDS, every_s=2.0)), bills_after_cancel=True))

    async def scenario() -> None:
        await asyncio.gather(*(stage.ask(prepare=leaves(0.5)) for _ in range(MAX_DRAINING)))
        with pytest.raises(RateLimited):
            await stage.begin(stage.request())
        await stage.all_ended()
        assert (await stage.ask()).text == TEXT

    stage.play(scenario)
    assert stage.spent() == (MAX_DRAINING + 1) * COST


@pytest.mark.parametrize("streams", [True, False])
def test_an_engine_that_bills_after_a_disconnect_keeps_its_request_while_it_opens(set_up: SetUp, streams: bool) -> None:
    steps = stream(*WORDS) if streams else [completion(*WORDS)]
    a = ScriptedEngine("a", Attempt(*steps, opening=(2.0,)), bills_after_cancel=True)
    stage = set_up(a)
    abandoned(stage, streams=streams)
    assert (a.cancelled, len(a.asked_s), stage.spent()) == (0, 1, COST)
    assert a.responses[0].is_closed


def test_a_request_that_still_waits_for_a_slot_is_cancelled_and_free(set_up: SetUp) -> None:
    a = narrow(Attempt(*stream(*WORDS, every_s=1.0)), bills_after_cancel=True)
    stage = set_up(a)
    answers: list[Answer] = []

    async def scenario() -> None:
        first = asyncio.ensure_future(stage.ask())
        await asyncio.sleep(0.1)
        answers.append(await stage.ask(prepare=leaves(0.5)))
        answers.append(await first)

    stage.play(scenario)
    assert (answers[0].row["state"], answers[0].row["cost"]) == ("cancelled", 0)
    assert (len(a.asked_s), stage.spent()) == (1, COST)


def test_a_response_that_fails_while_it_is_drained_is_charged_so_far_with_its_error(set_up: SetUp) -> None:
    a = ScriptedEngine("a", Attempt(ROLE, word("a "), 1.0, word("b "), failed()), bills_after_cancel=True)
    stage = set_up(a)
    row = abandoned(stage).row
    assert (row["state"], row["error_code"], row["output_units"]) == ("failed", "upstream_error", 2)


def test_the_total_timeout_ends_a_drain_and_the_tokenizer_counts_its_output(set_up: SetUp) -> None:
    a = ScriptedEngine("a", Attempt(ROLE, word("a "), 1.0, word("b "), SILENCE), bills_after_cancel=True, total_s=10.0)
    a.tokenizer = CharacterTokenizer()
    stage = set_up(a)
    answer = abandoned(stage)
    row = answer.row
    assert (row["state"], row["error_code"], row["output_units"]) == ("cancelled", "client_left", 4)
    assert 10.0 <= stage.now_s() <= 11.0
    assert a.responses[0].is_closed


def test_a_timeout_cancels_a_request_that_is_still_opening_although_it_bills(set_up: SetUp) -> None:
    a = ScriptedEngine("a", Attempt(opening=(SILENCE,)), bills_after_cancel=True)
    stage = set_up(a)
    assert (stage.answer().code, a.cancelled) == ("upstream_timeout", 1)


@pytest.mark.parametrize("others", [0, 1])
def test_a_response_that_begins_just_after_its_timeout_is_closed(set_up: SetUp, others: int) -> None:
    a = ScriptedEngine("a", Attempt(opening=(SILENCE,), ignores_cancel=True), bills_after_cancel=True)
    stage = set_up(a, *[good()] * others)
    answer = stage.answer()
    assert answer.code == (None if others else "upstream_timeout")
    assert a.responses[0].is_closed


def test_an_engine_that_bills_fails_over_if_it_fails_while_it_opens(set_up: SetUp) -> None:
    a = ScriptedEngine("a", Attempt(opening=(0.5, failed())), bills_after_cancel=True)
    stage = set_up(a, good(bills_after_cancel=True))
    answer = stage.answer()
    assert (answer.text, answer.attempts) == (TEXT, [("a", "upstream_error"), ("b", None)])


def test_a_shutdown_of_the_loop_charges_for_the_output_so_far(set_up: SetUp) -> None:
    a = ScriptedEngine("a", Attempt(ROLE, word("Saturn "), SILENCE))
    stage = set_up(a, good())
    runs: list[ChatRun] = []

    async def scenario() -> None:
        task = asyncio.ensure_future(stage.ask(prepare=runs.append))
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    stage.play(scenario)
    row = Answer(stage.books, runs[0]).row
    assert (row["state"], row["output_units"]) == ("cancelled", 1)
    assert a.responses[0].is_closed


def test_the_first_reason_to_stop_is_the_error(set_up: SetUp) -> None:
    stage = set_up(ScriptedEngine("a", Attempt(ROLE, word("Saturn "), SILENCE)))
    answers: list[Answer] = []

    def prepare(run: ChatRun) -> None:
        stops(0.5, EngineError("the server stopped"))(run)
        leaves(0.5)(run)

    async def scenario() -> None:
        answers.append(await stage.ask(prepare=prepare))

    stage.play(scenario)
    assert (answers[0].code, answers[0].row["state"]) == ("upstream_error", "failed")


def test_a_run_whose_hold_was_settled_elsewhere_stops(set_up: SetUp) -> None:
    stage = set_up(ScriptedEngine("a", Attempt(ROLE, *(1.0, word("word ")) * 30)))
    answers: list[Answer] = []

    def prepare(run: ChatRun) -> None:
        def sweep() -> None:
            stage.books.apply(recover(run.hold_id, stage.account, stage.clock.now_ms() + 60_000, forced=True))

        asyncio.get_running_loop().call_later(5.2, sweep)

    async def scenario() -> None:
        answers.append(await stage.ask(prepare=prepare))

    stage.play(scenario)
    assert answers[0].code == "interrupted"
    assert answers[0].ended_s < 7.5
    # The other process charged for the output at the last checkpoint.
    assert stage.spent() == PROMPT * PRICE_IN + 4 * PRICE_OUT


def test_a_hold_that_is_lost_after_the_charge_was_queued_does_not_cancel_the_task(set_up: SetUp) -> None:
    stage = set_up(good())

    async def scenario() -> None:
        run = await stage.begin(stage.request())
        await run.open()
        run.finish()
        run.lose(EngineError("lost"))
        assert run.cancellation.reason is None
        await run.close()

    stage.play(scenario)


def test_a_run_whose_task_ended_without_finishing_it_is_charged_at_the_next_tick(
    set_up: SetUp, caplog: pytest.LogCaptureFixture
) -> None:
    stage = set_up(ScriptedEngine("a", Attempt(ROLE, word("Saturn "), SILENCE)))
    runs: list[ChatRun] = []

    async def buggy() -> None:
        run = await stage.begin(stage.request())
        runs.append(run)
        await run.open()
        await run.next_block()
        await run.next_block()

    async def scenario() -> None:
        await asyncio.ensure_future(buggy())

    stage.play(scenario)
    row = Answer(stage.books, runs[0]).row
    assert (row["state"], row["output_units"]) == ("failed", 1)
    assert "its task ended without finishing it" in caplog.text


# ── charging ──────────────────────────────────────────────────────────────────────────────────────────────


def test_the_lease_is_renewed_and_the_cost_so_far_recorded_every_second(set_up: SetUp) -> None:
    stage = set_up(ScriptedEngine("a", Attempt(*stream(*WORDS, every_s=2.0))))
    seen: list[tuple[int, int]] = []

    async def look() -> None:
        for _ in range(4):
            await asyncio.sleep(2.0)
            sql = "SELECT progress, lease_until_ms FROM holds WHERE state = 'pending'"
            [(progress, lease_ms)] = stage.books.rows(sql)
            seen.append((progress, lease_ms - stage.clock.lease_ms()))

    async def scenario() -> None:
        await asyncio.gather(stage.ask(), look())

    stage.play(scenario)
    assert [progress for progress, _ in seen] == [
        0, *(PROMPT * PRICE_IN + number * PRICE_OUT for number in (1, 2, 3)),
    ]  # fmt: skip
    assert all(left_ms > 8000 for _, left_ms in seen)


def test_a_run_is_charged_only_once(set_up: SetUp) -> None:
    stage = set_up(ScriptedEngine("a", Attempt(ROLE, word("a "), SILENCE)))
    runs: list[ChatRun] = []

    async def scenario() -> None:
        run = await stage.begin(stage.request())
        runs.append(run)
        await run.open()
        await run.next_block()
        await run.next_block()
        run.finish(EngineError("first"))
        before = run.usage_so_far()
        a = stage.engines[0].responses[0]
        a.arrive(word("b "))
        await run.next_block()
        run.finish()
        # What was charged does not change any more, nor does what is shown.
        assert run.usage_so_far() == before
        await run.charge(within_s=5.0)
        await run.close(ClientLeft("gone"))

    stage.play(scenario)
    row = Answer(stage.books, runs[0]).row
    assert (row["state"], row["error_code"], row["output_units"]) == ("failed", "upstream_error", 1)


@pytest.mark.parametrize("streams", [True, False])
def test_output_without_a_reported_usage_is_counted_with_the_tokenizer(set_up: SetUp, streams: bool) -> None:
    steps = without_usage(*WORDS) if streams else [completion(*WORDS, with_usage=False)]
    a = ScriptedEngine("a", Attempt(*steps))
    a.tokenizer = CharacterTokenizer()
    stage = set_up(a)
    answer = stage.answer(stage.request(streams=streams))
    expected = (len("Hello there") + 4, len(TEXT))
    usage = answer.events[-2]["usage"] if streams else json.loads(answer.body)["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == expected
    row = answer.row
    assert (row["input_units"], row["output_units"], row["estimated"]) == (*expected, 1)
    assert stage.spent() == expected[0] * PRICE_IN + expected[1] * PRICE_OUT


@pytest.mark.parametrize("streams", [True, False])
def test_a_reported_usage_is_charged_without_asking_the_tokenizer(set_up: SetUp, streams: bool) -> None:
    steps = stream(*WORDS) if streams else [completion(*WORDS)]
    a = ScriptedEngine("a", Attempt(*steps))
    tokenizer = a.tokenizer = CharacterTokenizer()
    stage = set_up(a)
    answer = stage.answer(stage.request(streams=streams))
    assert (stage.spent(), answer.row["estimated"], tokenizer.counted) == (COST, 0, [])


def test_the_output_of_a_client_that_left_is_counted_with_the_tokenizer_in_the_background(set_up: SetUp) -> None:
    a = ScriptedEngine("a", Attempt(ROLE, word("Saturn "), SILENCE))
    a.tokenizer = CharacterTokenizer()
    stage = set_up(a)
    row = abandoned(stage).row
    assert (row["state"], row["error_code"]) == ("cancelled", "client_left")
    assert (row["input_units"], row["output_units"]) == (len("Hello there") + 4, len("Saturn "))
    assert a.responses[0].is_closed


def test_a_client_that_leaves_before_the_first_token_pays_nothing(set_up: SetUp) -> None:
    a = ScriptedEngine("a", Attempt(ROLE, SILENCE))
    tokenizer = a.tokenizer = CharacterTokenizer()
    stage = set_up(a)
    assert (abandoned(stage).row["state"], stage.spent(), tokenizer.counted) == ("cancelled", 0, [])


def test_the_tokenizers_count_of_the_prompt_is_no_more_than_the_hold_pays_for(set_up: SetUp) -> None:
    class Wasteful(CharacterTokenizer):
        def count(self, text: str) -> int:
            return 1000 * len(text)

    a = ScriptedEngine("a", Attempt(*without_usage(*WORDS)))
    a.tokenizer = Wasteful()
    stage = set_up(a)
    row = stage.answer(stage.request(limit=20)).row
    assert (row["input_units"], row["output_units"]) == (11 + 16 + 64, 20)
    assert row["cost"] == row["input_units"] * PRICE_IN + 20 * PRICE_OUT


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize(("certain", "believed"), [(10, True), (4000, False)])
def test_a_prompt_that_is_reported_too_low_is_checked_again_by_its_certain_texts(
    set_up: SetUp, streams: bool, certain: int, believed: bool
) -> None:
    # Of 4,000 bytes at least 200 tokens are expected. Some engines leave out reasoning, so only certain texts count.
    message = {"role": "assistant", "content": "ab" * (certain // 2), "reasoning": "x" * (4000 - certain)}
    if streams:
        steps = stream(*WORDS, usage=(100, 4))
    else:
        body = json.loads(completion(*WORDS))
        steps = [json.dumps({**body, "usage": {"prompt_tokens": 100, "completion_tokens": 4}}).encode()]
    stage = set_up(ScriptedEngine("a", Attempt(*steps)))
    row = stage.answer(stage.request(streams=streams, messages=[message], text_bytes=4000)).row
    assert (row["input_units"], row["estimated"]) == ((100, 0) if believed else (804, 1))
    assert stage.meters.doubts == ({} if believed else {("a", "prompt_low"): 1})


@pytest.mark.parametrize(("choices", "reported", "charged"), [(1, 20, 20), (2, 40, 40), (1, 21, 4), (2, 41, 4)])
def test_a_reported_output_is_believed_up_to_what_the_hold_pays_for(
    set_up: SetUp, choices: int, reported: int, charged: int
) -> None:
    # Every choice may have as many tokens as the limit allows.
    a = ScriptedEngine("a", Attempt(*stream(*WORDS, usage=(7, reported))))
    stage = set_up(a)
    row = stage.answer(stage.request(limit=20, choices=choices)).row
    assert (row["output_units"], a.limits) == (charged, [20])
    assert row["estimated"] == (reported != charged)


def test_doubts_about_a_usage_are_counted_and_logged_ever_more_rarely(
    set_up: SetUp, caplog: pytest.LogCaptureFixture
) -> None:
    stage = set_up(ScriptedEngine("a", Attempt(*stream(*WORDS, usage=(7, 90_000)))))
    with caplog.at_level(logging.WARNING):
        stage.answers(*(stage.request(limit=100) for _ in range(9)))
    assert stage.meters.doubts == {("a", "output_high"): 9}
    times = [record.getMessage().split("seen ")[1].split(" ")[0] for record in caplog.records if "seen" in record.msg]
    assert times == ["1", "2", "4", "8"]
    assert "charging 7 and 4 tokens instead" in caplog.text


def test_a_cost_above_the_hold_is_the_operators_loss(set_up: SetUp, caplog: pytest.LogCaptureFixture) -> None:
    # The engine counted 3 tokens before, so no more are held, and reports 500 afterwards.
    stage = set_up(ScriptedEngine("a", Attempt(*stream(*WORDS, usage=(500, 20))), prompt_tokens=3))
    row = stage.answer(stage.request(limit=20)).row
    held = 3 * PRICE_IN + 20 * PRICE_OUT
    # The row has the cost of the usage; the customer pays what was held.
    assert (stage.spent(), row["cost"]) == (held, held + 497 * PRICE_IN)
    assert stage.meters.shortfalls == {"a": 497 * PRICE_IN}
    assert f"exceeds its hold of {held}" in caplog.text


def test_the_upstream_cost_and_cached_tokens_are_recorded(set_up: SetUp) -> None:
    usage = usage_event(7, 4, prompt_tokens_details={"cached_tokens": 5})
    a = ScriptedEngine("a", Attempt(ROLE, *map(word, WORDS), FINISH, usage, DONE))
    stage = set_up(a, costs={("a", "model"): Prices.of_nano(100, 400)})
    row = stage.answer().row
    assert (row["purchase"], row["cached_units"], row["cost"]) == (7 * 100 + 4 * 400, 5, COST)


@pytest.mark.parametrize(("n", "echoed"), [(None, 1), (2, 2)])
def test_the_echoed_prompt_of_a_text_completion_is_not_counted_as_output(
    set_up: SetUp, n: int | None, echoed: int
) -> None:
    prompt, output = "Hello there, " * 40, "Saturn. " * 10
    fields = {"echo": True} | ({"n": n} if n else {})
    choices = n or 1
    texts = [{"text": prompt + output, "index": index, "finish_reason": None} for index in range(choices)]
    ends = [{"text": "", "index": index, "finish_reason": "stop"} for index in range(choices)]
    head = manners.head("text_completion")
    steps = [f"data: {json.dumps({**head, 'choices': some})}\n\n".encode() for some in (texts, ends)]
    stage = set_up(ScriptedEngine("a", Attempt(*steps, DONE)))
    request = stage.request(messages=[], prompt=prompt, fields=fields, text_bytes=len(prompt), choices=choices)
    row = stage.answer(request).row
    assert row["output_units"] == echoed * len(output) // 5
    assert row["delivered_bytes"] == echoed * len(prompt + output)


def test_without_echo_every_byte_is_output(set_up: SetUp) -> None:
    stage = set_up(ScriptedEngine("a", Attempt(ROLE, word("Saturn. " * 10), FINISH, DONE)))
    row = stage.answer(stage.request(messages=[], prompt="Hello", text_bytes=5)).row
    assert row["output_units"] == 16
