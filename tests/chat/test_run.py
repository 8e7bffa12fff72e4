"""Unit tests of chat/run.py: failover, timeouts, cancellation, and the charge of every ending."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from typing import Any

import pytest

from minitoolai.chat.run import ChatRun
from minitoolai.chat.service import MAX_DRAINING
from minitoolai.core.clock import created_ms
from minitoolai.core.errors import ClientLeft, EngineError, EngineRateLimited, EngineUnavailable, RateLimited
from minitoolai.core.in_flight import HEARTBEAT_AFTER_S
from minitoolai.engines.concurrency import ConcurrencyLimit
from tests.support import manners
from tests.support.books import recover
from tests.support.scripted_chats import (
    COMMENT,
    DONE,
    FINISH,
    PRICE_IN,
    PRICE_OUT,
    ROLE,
    SILENCE,
    Answer,
    Attempt,
    CharacterTokenizer,
    ScriptedEngine,
    SetUp,
    Stage,
    completion,
    event,
    leaves,
    stops,
    stream,
    usage_event,
    without_usage,
    word,
)

WORDS = ("Saturn ", "has ", "most ", "moons.")
TEXT = "".join(WORDS)
COST = manners.PROMPT_TOKENS * PRICE_IN + len(WORDS) * PRICE_OUT
#: Our own count of the prompt "Hello there".
PROMPT = 6


def good(name: str = "b", **options: Any) -> ScriptedEngine:
    """Return an engine that responds at once."""
    return ScriptedEngine(name, Attempt(*stream(*WORDS)), **options)


def failed() -> EngineError:
    return EngineError("it broke")


# ── failover ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("streams", [True, False])
def test_a_failure_before_the_response_begins_fails_over(set_up: SetUp, streams: bool) -> None:
    a, b = ScriptedEngine("a", Attempt(opening=(0.4, failed()))), good()
    if not streams:
        b = ScriptedEngine("b", Attempt(completion(*WORDS)))
    stage = set_up(a, b)
    answer = stage.answer(stage.request(streams=streams))
    assert (answer.text if streams else answer.message) == TEXT
    row = answer.row
    assert (row["state"], row["engine"], row["error_code"], row["cost"]) == ("succeeded", "b", None, COST)
    assert answer.attempts == [("a", "upstream_error"), ("b", None)]
    assert stage.spent() == COST
    first, second = json.loads(row["attempts"])
    assert (first["after_ms"], first["took_ms"], second["after_ms"]) == (0, 400, 400)


def test_the_last_error_is_returned_if_every_engine_fails(set_up: SetUp) -> None:
    a = ScriptedEngine("a", Attempt(opening=(failed(),)), retries=0)
    b = ScriptedEngine("b", Attempt(opening=(EngineUnavailable("b cannot be reached"),)), retries=0)
    stage = set_up(a, b)
    answer = stage.answer()
    assert answer.error is not None
    assert answer.error.message == "b cannot be reached"
    assert (answer.row["state"], answer.row["cost"], stage.spent()) == ("failed", 0, 0)
    assert answer.attempts == [("a", "upstream_error"), ("b", "upstream_error")]


@pytest.mark.parametrize("calls_back", [True, False])
def test_a_stream_that_fails_after_its_role_fails_over_and_keeps_its_head(set_up: SetUp, calls_back: bool) -> None:
    first = json.loads(ROLE.removeprefix(b"data: "))
    opening = b"data: " + json.dumps({**first, "id": "chatcmpl-first", "model": "first-1"}).encode() + b"\n\n"
    a, b = ScriptedEngine("a", Attempt(opening, 0.2, failed()), calls_back=calls_back), good(calls_back=calls_back)
    stage = set_up(a, b)
    answer = stage.answer()
    assert (answer.text, answer.events[-1]) == (TEXT, "[DONE]")
    chunks = [chunk for chunk in answer.events if isinstance(chunk, dict)]
    assert {(chunk["id"], chunk["model"]) for chunk in chunks} == {("chatcmpl-first", "first-1")}
    assert [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]].count(
        first["choices"][0]["delta"]
    ) == 2
    assert a.responses[0].is_closed
    assert stage.spent() == COST


@pytest.mark.parametrize(
    "rest",
    [
        usage_event(1000, 1000),
        word("Saturn rules.")[:-20],
        event({"error": {"message": "it broke", "type": "server_error"}}),
        event({"choices": "nonsense"}),
    ],
    ids=["a usage", "half an event", "an error event", "nonsense"],
)
def test_nothing_that_the_first_engine_sent_counts_for_the_next(set_up: SetUp, rest: bytes) -> None:
    stage = set_up(
        ScriptedEngine("a", Attempt(ROLE, rest, failed())), ScriptedEngine("b", Attempt(*without_usage(*WORDS)))
    )
    answer = stage.answer()
    assert (answer.code, answer.text) == (None, TEXT)
    row = answer.row
    assert (row["input_units"], row["output_units"], row["estimated"]) == (PROMPT, len(WORDS), 1)
    assert row["delivered_bytes"] == len(TEXT)


@pytest.mark.parametrize("calls_back", [True, False])
def test_a_stream_that_fails_after_its_first_word_does_not_fail_over(set_up: SetUp, calls_back: bool) -> None:
    a = ScriptedEngine("a", Attempt(ROLE, word("Saturn "), 0.2, failed()), calls_back=calls_back)
    b = good()
    stage = set_up(a, b)
    answer = stage.answer()
    assert (answer.text, answer.code, b.asked_s) == ("Saturn ", "upstream_error", [])
    row = answer.row
    assert (row["state"], row["estimated"], row["output_units"]) == ("failed", 1, 1)
    assert stage.spent() == row["cost"] == PROMPT * PRICE_IN + PRICE_OUT
    assert a.responses[0].is_closed


def test_a_body_that_breaks_off_fails_over(set_up: SetUp) -> None:
    a, b = ScriptedEngine("a", Attempt(b"{", 0.2, failed())), ScriptedEngine("b", Attempt(completion(*WORDS)))
    stage = set_up(a, b)
    answer = stage.answer(stage.request(streams=False))
    assert (answer.message, answer.attempts) == (TEXT, [("a", "upstream_error"), ("b", None)])
    assert a.responses[0].is_closed


def test_an_engine_that_had_begun_is_not_asked_again(set_up: SetUp) -> None:
    a = ScriptedEngine("a", Attempt(ROLE, failed()), retries=3)
    stage = set_up(a)
    assert stage.answer().code == "upstream_error"
    assert len(a.asked_s) == 1


# ── timeouts ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("steps", [(SILENCE,), (ROLE, SILENCE), (*[COMMENT, 0.5] * 40, SILENCE)])
def test_an_engine_without_a_first_token_in_time_is_replaced(set_up: SetUp, steps: tuple[Any, ...]) -> None:
    a, b = ScriptedEngine("a", Attempt(*steps)), good()
    stage = set_up(a, b)
    answer = stage.answer()
    assert answer.text == TEXT
    assert answer.attempts == [("a", "upstream_timeout"), ("b", None)]
    assert 5.0 <= b.asked_s[0] <= 5.6
    assert a.responses[0].is_closed


def test_an_engine_that_does_not_even_begin_in_time_is_replaced(set_up: SetUp) -> None:
    a, b = ScriptedEngine("a", Attempt(opening=(SILENCE,)), first_s=2.0), good()
    stage = set_up(a, b)
    assert stage.answer().attempts == [("a", "upstream_timeout"), ("b", None)]
    assert 2.0 <= b.asked_s[0] <= 2.6
    assert a.cancelled == 1


def test_without_another_engine_the_first_token_timeout_ends_the_request_for_free(set_up: SetUp) -> None:
    stage = set_up(ScriptedEngine("a", Attempt(ROLE, SILENCE)))
    answer = stage.answer()
    assert answer.error is not None
    assert answer.error.message == "a sent no token for 5 s; nothing was charged"
    assert (answer.row["state"], answer.row["error_code"], stage.spent()) == ("failed", "upstream_timeout", 0)
    assert 5.0 <= answer.ended_s <= 5.6


def test_a_stream_that_ended_without_text_is_not_sent_to_another_engine_after_a_timeout(set_up: SetUp) -> None:
    a, b = ScriptedEngine("a", Attempt(ROLE, FINISH, SILENCE)), good()
    stage = set_up(a, b)
    assert (stage.answer().code, b.asked_s) == ("upstream_timeout", [])


def test_events_without_text_postpone_the_first_token_timeout(set_up: SetUp) -> None:
    a = ScriptedEngine("a", Attempt(*(ROLE, 4.0) * 4, *stream(*WORDS)))
    stage = set_up(a)
    answer = stage.answer()
    assert answer.text == TEXT
    assert answer.row["first_token_ms"] == 16_000


def test_a_pause_after_the_first_token_is_limited_by_the_total_timeout_only(set_up: SetUp) -> None:
    stage = set_up(ScriptedEngine("a", Attempt(ROLE, word("Saturn "), 40.0, *stream("rules."))))
    answer = stage.answer()
    assert (answer.code, answer.text) == (None, "Saturn rules.")


def test_the_next_engine_has_its_whole_first_token_timeout(set_up: SetUp) -> None:
    a = ScriptedEngine("a", Attempt(ROLE, 4.0, failed()))
    b = ScriptedEngine("b", Attempt(4.5, *stream(*WORDS)))
    stage = set_up(a, b)
    answer = stage.answer()
    assert answer.text == TEXT
    assert answer.row["first_token_ms"] == 8500


def test_the_wait_before_a_retry_does_not_count_towards_the_first_token_timeout(set_up: SetUp) -> None:
    limited = EngineRateLimited("slow down", retry_after_s=3, rests_model=True)
    a = ScriptedEngine("a", Attempt(opening=(0.8, limited)), Attempt(*stream(*WORDS)), first_s=1.0)
    stage = set_up(a)
    answer = stage.answer()
    assert answer.text == TEXT
    assert 3.8 <= a.asked_s[1] <= 4.5


def test_a_response_that_is_sent_whole_has_no_first_token_timeout(set_up: SetUp) -> None:
    stage = set_up(ScriptedEngine("a", Attempt(30.0, completion(*WORDS))))
    answer = stage.answer(stage.request(streams=False))
    assert (answer.message, stage.spent()) == (TEXT, COST)
    assert answer.row["first_token_ms"] == 30_000


def test_the_total_timeout_cuts_a_stream_off_and_charges_for_its_output(set_up: SetUp) -> None:
    b = good()
    a = ScriptedEngine("a", Attempt(ROLE, *(1.0, word("word ")) * 100), total_s=8.0)
    stage = set_up(a, b)
    answer = stage.answer()
    assert answer.error is not None
    assert answer.error.message == "the response took more than 8 s and was cut off; the output so far is charged"
    assert (answer.code, b.asked_s) == ("upstream_timeout", [])
    assert answer.text == "word " * 8
    assert (answer.row["output_units"], stage.spent()) == (8, PROMPT * PRICE_IN + 8 * PRICE_OUT)
    assert 8.0 <= answer.ended_s <= 8.6


@pytest.mark.parametrize(("following_s", "takes_over"), [(60.0, True), (3.0, False)])
def test_the_total_timeout_fails_over_to_an_engine_that_has_time_left(
    set_up: SetUp, following_s: float, takes_over: bool
) -> None:
    a = ScriptedEngine("a", Attempt(SILENCE), first_s=30.0, total_s=4.0)
    b = good(total_s=following_s)
    stage = set_up(a, b)
    answer = stage.answer()
    assert bool(b.asked_s) == takes_over
    assert answer.code == (None if takes_over else "upstream_timeout")


# ── waiting for a slot ────────────────────────────────────────────────────────────────────────────────────


def narrow(*attempts: Attempt, **options: Any) -> ScriptedEngine:
    """Return an engine that responds to one request at a time."""
    return ScriptedEngine("a", *attempts, slots=ConcurrencyLimit(1, 5, "a"), **options)


def two_answers(stage: Stage, *, streams: bool = True) -> list[Answer]:
    """Send two requests at the same time."""
    found: list[Answer] = []

    async def scenario() -> None:
        asked = [stage.ask(stage.request(streams=streams)) for _ in range(2)]
        found.extend(await asyncio.gather(*asked))

    stage.play(scenario)
    return found


def test_the_wait_for_a_slot_does_not_count_towards_the_first_token_timeout(set_up: SetUp) -> None:
    steps = (4.0, *stream(*WORDS))
    stage = set_up(narrow(Attempt(*steps)))
    first, second = two_answers(stage)
    assert (first.text, second.text) == (TEXT, TEXT)
    # A commit of the ledger takes 10 ms here.
    assert 8000 <= second.row["first_token_ms"] <= 8050


@pytest.mark.parametrize("streams", [True, False])
def test_a_request_that_gets_no_slot_in_time_is_refused_as_overloaded(set_up: SetUp, streams: bool) -> None:
    done = stream(*WORDS) if streams else [completion(*WORDS)]
    stage = set_up(narrow(Attempt(word("Saturn "), 20.0, *done) if streams else Attempt(20.0, *done)))
    first, second = two_answers(stage, streams=streams)
    assert first.code is None
    assert second.error is not None
    assert second.error.message == "a had no free slot for 5 s; try again"
    assert (second.code, second.error.retry_after_s, second.row["cost"]) == ("overloaded", 2, 0)
    assert 5.0 <= second.ended_s <= 5.6


def test_a_request_that_gets_no_slot_in_time_goes_to_the_next_engine(set_up: SetUp) -> None:
    a = narrow(Attempt(*stream(*WORDS, every_s=4.0)))
    b = good(slots=ConcurrencyLimit(1, 5, "b"))
    stage = set_up(a, b)
    answers: list[Answer] = []

    async def scenario() -> None:
        # The second engine is busy too when both are chosen, so the first comes first.
        busy = asyncio.ensure_future(stage.ask())
        await asyncio.sleep(0.1)
        assert b._slots is not None
        await b._slots.acquire()
        waiting = asyncio.ensure_future(stage.ask())
        await asyncio.sleep(0.1)
        b._slots.release()
        answers.extend(await asyncio.gather(busy, waiting))

    stage.play(scenario)
    assert answers[1].attempts == [("a", "overloaded"), ("b", None)]
    assert answers[1].text == TEXT


# ── fields that an engine leaves out ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("streams", [True, False])
def test_the_name_time_and_model_that_an_engine_leaves_out_are_filled_in(set_up: SetUp, streams: bool) -> None:
    chunk = {"choices": [{"delta": {"content": "Saturn."}, "finish_reason": "stop"}]}
    steps = (event(chunk), DONE) if streams else (json.dumps(manners.completion(["Saturn."], lean=True)).encode(),)
    stage = set_up(ScriptedEngine("a", Attempt(*steps), complete_chunks=False))
    answer = stage.answer(stage.request(streams=streams))
    found = answer.events[0] if streams else json.loads(answer.body)
    assert found["id"] == f"chatcmpl-{answer.run.name.removeprefix('gen-')}"
    assert found["created"] == created_ms(answer.run.hold_id) // 1000
    assert found["model"] == ("model" if streams else manners.MODEL)


# ── clients and callbacks ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("calls_back", [True, False])
def test_every_block_arrives_when_the_engine_sends_it_and_the_usage_at_the_end(set_up: SetUp, calls_back: bool) -> None:
    a = ScriptedEngine("a", Attempt(*stream(*WORDS, every_s=0.3)), calls_back=calls_back)
    stage = set_up(a)
    answer = stage.answer()
    at_s = [round(at, 1) for at, block in answer.blocks if b'"content"' in block]
    assert at_s == [0.0, 0.3, 0.6, 0.9, 1.2]
    usage = answer.events[-2]["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (manners.PROMPT_TOKENS, len(WORDS))
    row = answer.row
    assert (row["estimated"], row["delivered_bytes"], row["served_model"]) == (0, len(TEXT), manners.MODEL)
    assert row["first_token_ms"] == 300
    assert (row["engine"], row["attempts"]) == ("a", None)


@pytest.mark.parametrize("calls_back", [True, False])
def test_a_client_that_reads_slowly_gets_every_block_in_order(set_up: SetUp, calls_back: bool) -> None:
    a = ScriptedEngine("a", Attempt(*stream(*"abcdefgh", every_s=0.05)), calls_back=calls_back)
    stage = set_up(a)
    answers: list[Answer] = []

    async def scenario() -> None:
        answers.append(await stage.ask(write=lambda block: asyncio.sleep(0.2)))

    stage.play(scenario)
    assert answers[0].text == "abcdefgh"
    # A block is not written before the one before it.
    at_s = [at for at, _ in answers[0].blocks[:-1]]
    assert all(after - before >= 0.199 for before, after in itertools.pairwise(at_s))


@pytest.mark.parametrize("calls_back", [True, False])
def test_comments_of_the_engine_are_not_output_also_if_they_wait_for_a_slow_client(
    set_up: SetUp, calls_back: bool
) -> None:
    steps = (COMMENT, *stream("one "), COMMENT)
    a = ScriptedEngine("a", Attempt(COMMENT, ROLE, word("zero "), 0.05, *steps), calls_back=calls_back)
    stage = set_up(a)
    answers: list[Answer] = []

    async def scenario() -> None:
        answers.append(await stage.ask(write=lambda block: asyncio.sleep(0.2)))

    stage.play(scenario)
    # `Stage.ask` accepts no empty block.
    assert (answers[0].code, answers[0].text) == (None, "zero one ")


def test_a_chunk_that_arrives_while_the_task_is_cancelled_is_charged_but_not_written(set_up: SetUp) -> None:
    a = ScriptedEngine("a", Attempt(ROLE, word("one "), word("two "), SILENCE))
    stage = set_up(a)
    answers: list[Answer] = []

    def leave_at_the_last_moment(run: ChatRun) -> None:
        def leave() -> None:
            run.stop(ClientLeft("gone"))
            a.responses[0].arrive(word("three "))

        asyncio.get_running_loop().call_later(0.5, leave)

    async def scenario() -> None:
        answers.append(await stage.ask(prepare=leave_at_the_last_moment))

    stage.play(scenario)
    assert answers[0].text == "one two "
    row = answers[0].row
    assert (row["state"], row["error_code"], row["delivered_bytes"]) == ("cancelled", "client_left", 14)
    assert row["output_units"] == 3


def test_on_slow_is_called_once_after_half_a_second(set_up: SetUp) -> None:
    stage = set_up(
        ScriptedEngine("a", Attempt(3.0, completion(*WORDS))),
    )
    called_s: list[float] = []

    def prepare(run: ChatRun) -> None:
        run.on_slow = lambda: called_s.append(stage.now_s())

    async def scenario() -> None:
        await stage.ask(stage.request(streams=False), prepare=prepare)

    stage.play(scenario)
    assert len(called_s) == 1
    assert called_s[0] <= 0.6


class Output:
    """Output of a stream, which notes its heartbeats."""

    def __init__(self, stage: Stage) -> None:
        self.is_silent = True
        self.at_s: list[float] = []
        self._stage = stage

    def break_silence(self) -> None:
        self.at_s.append(self._stage.now_s())


def heartbeats(stage: Stage, *, leaves_after_s: float | None = None) -> list[float]:
    output = Output(stage)

    def prepare(run: ChatRun) -> None:
        run.output = output
        if leaves_after_s is not None:
            leaves(leaves_after_s)(run)

    def write(block: bytes) -> None:
        output.is_silent = False

    async def scenario() -> None:
        await stage.ask(write=write, prepare=prepare)

    stage.play(scenario)
    return output.at_s


def test_a_heartbeat_is_sent_after_fifteen_seconds_of_silence(set_up: SetUp) -> None:
    stage = set_up(ScriptedEngine("a", Attempt(ROLE, word("a"), 35.0, word("b"), 10.0, *stream("c"))))
    first_s, second_s = heartbeats(stage)
    assert HEARTBEAT_AFTER_S <= first_s <= HEARTBEAT_AFTER_S + 1.1
    assert HEARTBEAT_AFTER_S <= second_s - first_s <= HEARTBEAT_AFTER_S + 0.6
    assert HEARTBEAT_AFTER_S == 15.0


def test_a_client_that_has_left_gets_no_heartbeat(set_up: SetUp) -> None:
    a = ScriptedEngine("a", Attempt(ROLE, word("a"), 40.0, *stream("b")), bills_after_cancel=True)
    stage = set_up(a)
    assert heartbeats(stage, leaves_after_s=2.0) == []
    assert a.responses[0].is_closed


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
    stage = set_up(a, costs={("a", "model"): (100, 400)})
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
