"""The prompt cache of the embedded model: what `cached_tokens` says is what llama.cpp has reused, in every account."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from minitoolai.core.catalog.catalog import EngineEntry
from minitoolai.core.inference import ChatRequest
from minitoolai.engines.chat.llama.engine import LlamaEngine
from minitoolai.httpclient.client import HttpClient
from tests.support.ask import OPENAI, events, post, said
from tests.support.server import Account, ServerProcess
from tests.support.small_model import small_model_file

pytestmark = pytest.mark.acceptance

MODEL = "gpt-4o-mini"
Messages = list[dict[str, Any]]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server whose embedded model has three slots."""
    env = {"MINITOOLAI_LLAMA_SLOTS": "3", "MINITOOLAI_LLAMA_THREADS": "1"}
    with ServerProcess(tmp_path_factory.mktemp("box"), env=env) as server:
        yield server


def opening(topic: str, words: int = 70) -> Messages:
    return [
        {"role": "system", "content": "You answer in one word."},
        {"role": "user", "content": f"{topic} " * words + "What is this about?"},
    ]


def turn(account: Account, messages: Messages, **options: Any) -> tuple[Messages, int, int]:
    """Ask, and return the conversation with the answer, the tokens of the prompt, and the cached ones of them."""
    answer = post(account, OPENAI, model=MODEL, messages=messages, max_completion_tokens=4, temperature=0, **options)
    assert answer.status_code == 200, answer.text
    if options.get("stream"):
        found = events(answer.text)
        text, usage = said(found), found[-2]["usage"]
    else:
        text, usage = answer.json()["choices"][0]["message"]["content"], answer.json()["usage"]
    more = [{"role": "assistant", "content": text}, {"role": "user", "content": "Say it again."}]
    return [*messages, *more], usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]


@pytest.mark.parametrize("options", [{}, {"stream": True, "stream_options": {"include_usage": True}}])
def test_the_second_turn_reads_the_first_from_the_cache_and_costs_the_same(
    box: ServerProcess, options: dict[str, Any]
) -> None:
    account = box.account()
    conversation, first, cached = turn(account, opening("moon"), **options)
    assert cached == 0
    before = account.settled()
    _, second, cached = turn(account, conversation, **options)
    # Whole, but for the tokens where the template begins the answer.
    assert first - 8 <= cached < second
    # A stand-in sells its cache at the price of the input.
    cost = before - account.settled()
    assert second * 150 <= cost <= second * 150 + 4 * 600


def test_conversations_of_an_account_keep_their_slots(box: ServerProcess) -> None:
    account = box.account()
    conversations = {topic: turn(account, opening(topic)) for topic in ("river", "engine", "garden")}
    for topic in ("garden", "river", "engine", "river"):
        conversation, before, _ = conversations[topic]
        conversations[topic] = turn(account, conversation)
        assert before - 8 <= conversations[topic][2], topic


def test_no_account_sees_what_another_has_sent(box: ServerProcess) -> None:
    accounts = [box.account() for _ in range(3)]
    # Each prompt is sent often enough to be in every slot.
    for account in accounts:
        counts = [turn(account, opening("secret"))[2] for _ in range(3)]
        assert counts[0] == 0
        assert counts[1] > 50


def test_the_cache_stays_true_when_conversations_share_slots_at_the_same_time(box: ServerProcess) -> None:
    def talk(number: int) -> list[int]:
        account, cached = box.account(), []
        conversation = opening(f"number {number}", 20)
        for _ in range(2):
            conversation, prompt, read = turn(account, conversation)
            assert 0 <= read < prompt
            cached.append(read)
        return cached

    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(talk, range(4)))
    # The first turn of an account has nothing to read, whose slot it gets.
    assert [count[0] for count in counts] == [0] * 4


def test_the_counts_are_those_of_the_engine() -> None:
    """llama.cpp reports in `timings` how many tokens it has processed, which leaves those that it has reused."""
    entry = EngineEntry("llama", model="small", file=str(small_model_file()), context=1024)

    async def work() -> None:
        engine = LlamaEngine("small", entry, HttpClient(), slots=2, threads=1)
        await engine.start()
        try:
            # Account 1, twice; a third conversation; then again the first, with more; then the same of account 2.
            story, other = opening("moon"), opening("sun")
            more = [*story, {"role": "assistant", "content": "Moon."}, {"role": "user", "content": "Again."}]
            asked = [(1, story), (1, story), (1, other), (1, more), (2, more), (2, other), (1, other)]
            found = []
            for account_id, messages in asked:
                request = ChatRequest(
                    "m", messages, {}, stream=False, include_usage=True, limit=1, account_id=account_id
                )
                response = await engine.open(request, 1)
                body = json.loads(await response.read())
                await response.close()
                usage, timings = body["usage"], body["timings"]
                cached = usage["prompt_tokens_details"]["cached_tokens"]
                assert cached == timings["cache_n"] == usage["prompt_tokens"] - timings["prompt_n"]
                found.append(cached > 50)
            assert found == [False, True, False, True, False, False, False]
        finally:
            await engine.stop()

    asyncio.run(work())
