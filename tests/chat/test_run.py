"""Unit tests of chat/run.py: failover, timeouts, waiting for a slot, and what the client receives."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest

from minitoolai.chat.run import ChatRun
from minitoolai.core.clock import created_ms
from minitoolai.core.errors import ClientLeft, EngineRateLimited, EngineUnavailable
from minitoolai.core.in_flight import HEARTBEAT_AFTER_S
from minitoolai.engines.concurrency import ConcurrencyLimit
from tests.support import manners
from tests.support.scripted_chats import (
    COMMENT,
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
    ScriptedEngine,
    SetUp,
    Stage,
    completion,
    event,
    failed,
    good,
    leaves,
    narrow,
    stream,
    usage_event,
    without_usage,
    word,
)

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
    opening = b"data: " + json.dumps({**first, "id": "chatcmpl-first", "model": "model-0613"}).encode() + b"\n\n"
    a, b = ScriptedEngine("a", Attempt(opening, 0.2, failed()), calls_back=calls_back), good(calls_back=calls_back)
    stage = set_up(a, b)
    answer = stage.answer()
    assert (answer.text, answer.events[-1]) == (TEXT, "[DONE]")
    chunks = [chunk for chunk in answer.events if isinstance(chunk, dict)]
    assert {(chunk["id"], chunk["model"]) for chunk in chunks} == {("chatcmpl-first", "model-0613")}
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
    assert answer.error.message == "the engine sent no token for 5 s; nothing was charged"
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
    assert second.error.message == "the engine had no free slot for 5 s; try again"
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


def test_a_stream_that_waits_is_told_its_place_whenever_it_changes(set_up: SetUp) -> None:
    stage = set_up(narrow(*(Attempt(ROLE, 4.0, *stream(*WORDS)) for _ in range(3))))
    outputs = [Output(stage) for _ in range(3)]

    def prepare(output: Output) -> Callable[[ChatRun], None]:
        return lambda run: setattr(run, "output", output)

    async def scenario() -> None:
        asked = []
        for output in outputs:
            asked.append(asyncio.ensure_future(stage.ask(prepare=prepare(output))))
            await asyncio.sleep(0.1)
        await asyncio.gather(*asked)

    stage.play(scenario)
    told = [[text.removeprefix("waiting for a free slot, ") for _, text in output.comments] for output in outputs]
    assert told == [[], ["place 1 in the queue"], ["place 2 in the queue", "place 1 in the queue"]]


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
    # The upstream's own name of the model tells who it is.
    assert found["model"] == "model"


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
        self.comments: list[tuple[int, str]] = []
        self._stage = stage

    def break_silence(self) -> None:
        self.at_s.append(self._stage.now_s())

    def comment(self, text: str) -> None:
        self.comments.append((round(self._stage.now_s()), text))


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
