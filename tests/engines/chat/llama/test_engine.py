"""The embedded model behind the same contract: real tokens, slots freed at once, a crash that stays its own."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from minitoolai.storage.tables.ledger import broken_invariants
from tests.support.ask import API, OPENAI, check_refusal, events, get, post, said, start
from tests.support.dial import dial
from tests.support.server import Account, ServerProcess
from tests.support.waiting import children_of, eventually

CREDIT = 5_000_000_000
MODEL = "gpt-4o-mini"
SERVED = "smollm2-135m-instruct"
STORY = [{"role": "user", "content": "Count from one to one thousand, every number in words."}]


@pytest.fixture
def account(llama_server: ServerProcess) -> Iterator[Account]:
    account = llama_server.account()
    yield account
    account.settled()
    assert llama_server.read(broken_invariants) == {}


def long_answer(account: Account) -> requests.Response:
    """One that takes a slot for a long while; the model is told not to stop on its own."""
    bias = {"logit_bias": [[2, False], [0, False]], "temperature": 0}
    return start(account, model=MODEL, messages=STORY, max_completion_tokens=3000, **bias)


@pytest.mark.parametrize("path", [API, OPENAI])
@pytest.mark.parametrize("stream", [True, False])
def test_the_model_answers_under_its_own_name_and_is_charged_to_the_token(
    account: Account, path: str, stream: bool
) -> None:
    options = {"stream_options": {"include_usage": True}} if stream else {}
    answer = post(account, path, model=MODEL, stream=stream, max_completion_tokens=12, temperature=0, **options)
    assert answer.status_code == 200, answer.text
    if stream:
        found = events(answer.text)
        assert found[-1] == "[DONE]"
        assert len(said(found).split()) >= 3
        last = found[-2]
    else:
        last = answer.json()
        assert last["choices"][0]["message"]["role"] == "assistant"
    assert last["model"] == SERVED
    assert last["system_fingerprint"].startswith("fp_")
    usage = last["usage"]
    assert usage["prompt_tokens"] > 8
    assert 1 <= usage["completion_tokens"] <= 12
    assert CREDIT - account.settled() == usage["prompt_tokens"] * 150 + usage["completion_tokens"] * 600


def test_the_counted_prompt_is_the_one_that_is_charged(account: Account) -> None:
    answer = post(account, model=MODEL, max_completion_tokens=4, stream=False)
    row = account.server.generation(answer.headers["x-generation-id"])
    # The hold was exact on the prompt: what the template and tokenizer gave is what the engine then reported.
    assert row["hold_amount"] == row["input_units"] * 150 + 4 * 600


def test_the_models_page_tells_who_answers(account: Account) -> None:
    model = get(account, f"/v1/models/{MODEL}").json()
    assert (model["demo"], model["ready"], model["vision"]) == (True, True, False)
    assert (model["context_length"], model["note"]) == (4096, "demo model: smollm2-135m-instruct")


def test_an_image_is_refused_with_the_remedy(account: Account) -> None:
    parts = [{"type": "image_url", "image_url": {"url": "https://example.com/picture.jpg", "detail": "auto"}}]
    answer = post(account, model=MODEL, messages=[{"role": "user", "content": parts}])
    assert "remove the image_url part" in check_refusal(answer, 400, "invalid_request", "messages")


def test_what_the_model_cannot_honour_is_named(account: Account) -> None:
    answer = post(account, model=MODEL, reasoning_effort="high")
    check_refusal(answer, 400, "invalid_request", "reasoning_effort")
    # Of several choices it reports the tokens of one.
    check_refusal(post(account, model=MODEL, n=2), 400, "invalid_request", "n")
    assert account.settled() > CREDIT - 100 * 150


def test_what_asks_nothing_of_the_model_is_taken(account: Account) -> None:
    idle = {"modalities": ["text"], "verbosity": "medium", "reasoning_effort": "none", "n": 1}
    hints = {"prompt_cache_key": "k", "prompt_cache_retention": "24h", "safety_identifier": "s", "store": True}
    null = dict.fromkeys(("stream_options", "max_tokens", "audio", "function_call", "prediction", "web_search_options"))
    answer = post(account, model=MODEL, max_completion_tokens=2, **idle, **hints, **null)
    assert answer.status_code == 200, answer.text
    check_refusal(post(account, model=MODEL, verbosity="low"), 400, "invalid_request", "verbosity")


def test_an_answer_can_be_sent_back_as_an_sdk_holds_it(account: Account) -> None:
    held = {"refusal": None, "tool_calls": None, "audio": None, "function_call": None, "annotations": []}
    messages = [*STORY, {"role": "assistant", "content": "One, two.", **held}, {"role": "user", "content": "Go on."}]
    answer = post(account, model=MODEL, messages=messages, max_completion_tokens=2)
    assert answer.status_code == 200, answer.text


def test_a_prompt_beyond_the_context_is_refused_before_anything_is_held(account: Account) -> None:
    answer = post(account, model=MODEL, messages=[{"role": "user", "content": "moon " * 6000}])
    message = check_refusal(answer, 400, "context_length_exceeded", "messages")
    assert "4096" in message
    holds = account.server.read(lambda c: c.execute("SELECT * FROM holds WHERE account_id = ?", (account.id,)))
    assert holds == []


def test_a_schema_is_obeyed(account: Account) -> None:
    schema = {"type": "object", "properties": {"planet": {"enum": ["Saturn", "Jupiter"]}}, "required": ["planet"]}
    answer = post(
        account,
        model=MODEL,
        stream=False,
        max_completion_tokens=30,
        response_format={"type": "json_schema", "json_schema": {"name": "moons", "schema": schema}},
    )
    assert answer.status_code == 200, answer.text
    text = answer.json()["choices"][0]["message"]["content"]
    assert json.loads(text)["planet"] in ("Saturn", "Jupiter")


def test_text_beyond_ascii_comes_back_intact(account: Account) -> None:
    words = "Ätna über Ñandú 雪国 🌋"
    schema = {"type": "object", "properties": {"word": {"const": words}}, "required": ["word"]}
    answer = post(
        account,
        model=MODEL,
        max_completion_tokens=80,
        response_format={"type": "json_schema", "json_schema": {"name": "words", "schema": schema}},
    )
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert words in said(events(answer.text))


def test_a_full_queue_is_a_503_and_leaving_frees_the_slots_at_once(account: Account) -> None:
    # Two at work. Their heads have arrived, so they have their slots.
    at_work = [long_answer(account) for _ in range(2)]
    assert [answer.status_code for answer in at_work] == [200, 200]
    waiting = [dial(account, model=MODEL, max_completion_tokens=50) for _ in range(2)]
    pending = "SELECT id FROM holds WHERE state = 'pending'"
    try:
        eventually(lambda: len(account.server.read(lambda c: c.execute(pending))) == 4, within_s=10)
        answer = post(account, model=MODEL, max_completion_tokens=1)
        check_refusal(answer, 503, "overloaded")
        assert int(answer.headers["retry-after"]) >= 1
    finally:
        for one in [*waiting, *at_work]:
            one.close()
    freed_s = time.monotonic()
    eventually(lambda: post(account, model=MODEL, max_completion_tokens=2).status_code == 200)
    # The long ones would have gone on for half a minute.
    assert time.monotonic() - freed_s < 20
    account.settled(within_s=3)
    # No place at work or in the queue was lost.
    assert [post(account, model=MODEL, max_completion_tokens=1).status_code for _ in range(5)] == [200] * 5


def model_process(server: ServerProcess) -> int:
    """The child that runs llama.cpp."""
    names = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children_of(server.pid)}
    (found,) = [pid for pid, name in names.items() if b"llama.server" in name]
    return found


def test_a_crash_of_the_model_fails_its_own_answers_and_it_is_back_in_seconds(account: Account) -> None:
    server = account.server
    with long_answer(account) as answer:
        name = answer.headers["x-generation-id"]
        lines = answer.iter_lines(decode_unicode=True)
        for _ in range(8):
            next(lines)
        child = model_process(server)
        os.kill(child, signal.SIGSEGV)
        rest = [line for line in lines if line]
    assert '"code":"upstream_error"' in rest[-1]
    assert "[DONE]" not in rest[-1]
    # The server itself did not notice.
    assert get(account, "/api/balance/").status_code == 200
    assert eventually(lambda: post(account, model=MODEL, max_completion_tokens=2).status_code == 200, within_s=20)
    assert model_process(server) != child
    account.settled()
    row = server.generation(name)
    assert (row["state"], row["estimated"], row["hold_state"]) == ("failed", 1, "posted")
    assert row["output_units"] >= 2
