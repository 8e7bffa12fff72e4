"""Tests of `/v1/embeddings`, with upstreams and with a GGUF file: results, validation and charges."""

from __future__ import annotations

import base64
import json
import math
import os
import signal
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
import requests

from tests.support.ask import check_refusal, get
from tests.support.server import Account, ServerProcess
from tests.support.small_model import small_model_file
from tests.support.strict import CreateEmbeddingResponse, check
from tests.support.upstream import Behaviour, Exchange, Upstream
from tests.support.waiting import children_of, eventually

PATH = "/v1/embeddings"
CREDIT = 5_000_000_000
PRICE = 20


def ask(account: Account, **fields: Any) -> requests.Response:
    body = {"model": "vectors", "input": "Saturn has many moons", **fields}
    return requests.post(account.server.url + PATH, json=body, headers=account.headers, timeout=60)


def made(account: Account, **fields: Any) -> Any:
    answer = ask(account, **fields)
    assert answer.status_code == 200, answer.text
    return check(CreateEmbeddingResponse, answer.json())


def vectors(*found: Any, **more: Any) -> Behaviour:
    """Return a behaviour that responds with these vectors."""

    async def behave(exchange: Exchange) -> None:
        data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(found)]
        exchange.answer(200, {"object": "list", "data": data, "model": "far-1", **more})

    return behave


def test_a_text_becomes_a_vector_and_its_tokens_are_charged(account: Account) -> None:
    found = made(account)
    assert (found.model, found.usage.prompt_tokens, found.usage.total_tokens) == ("fake-quick-1", 4, 4)
    assert len(found.data[0].embedding) == 64
    assert account.settled() == CREDIT - 4 * PRICE


@pytest.mark.parametrize("given", [["a b", "c"], [[1, 2], [3]], [1, 2, 3.0]])
def test_several_texts_and_token_lists_are_accepted(account: Account, given: Any) -> None:
    found = made(account, input=given)
    assert len(found.data) == (1 if isinstance(given[0], int) else 2)
    assert [item.index for item in found.data] == list(range(len(found.data)))
    assert account.settled() == CREDIT - 3 * PRICE


@pytest.mark.parametrize("theirs", ["float", "base64"])
@pytest.mark.parametrize("asked", ["float", "base64", None])
def test_vectors_come_in_the_encoding_that_was_asked_for(
    account: Account, upstream: Upstream, theirs: str, asked: str | None
) -> None:
    packed = base64.b64encode(struct.pack("<2f", 0.5, -1.0)).decode()
    upstream.behave = vectors(packed if theirs == "base64" else [0.5, -1.0], usage={"prompt_tokens": 9})
    answer = ask(account, model="far", encoding_format=asked, dimensions=2, user="u")
    assert answer.json()["data"][0]["embedding"] == (packed if asked == "base64" else [0.5, -1.0])
    assert upstream.last.path == "/v1/embeddings"
    assert upstream.last.body["input"] == ["Saturn has many moons"]
    assert (upstream.last.body["dimensions"], upstream.last.body["user"]) == (2, "u")
    assert account.settled() == CREDIT - 9 * PRICE
    row = account.server.generation(answer.headers["x-generation-id"])
    assert (row["input_units"], row["output_units"], row["estimated"], row["served_model"]) == (9, 0, 0, "far-1")


def test_no_limit_field_is_sent_to_an_embeddings_upstream(account: Account, upstream: Upstream) -> None:
    upstream.behave = vectors([1.0], usage={"prompt_tokens": 9})
    made(account, model="far", max_length=9, dimensions=2, Input="a longer text", options={"n_predict": 9, "x": 1})
    sent = upstream.last.body
    assert set(sent) == {"model", "input", "dimensions"}
    assert sent["input"] == ["Saturn has many moons"]


@pytest.mark.parametrize("usage", [None, {"prompt_tokens": 0, "total_tokens": 0}])
def test_an_upstream_that_counts_nothing_is_charged_by_our_own_count(
    account: Account, upstream: Upstream, usage: Any
) -> None:
    upstream.behave = vectors([1.0], usage=usage)
    found = made(account, model="far")
    row = account.server.generation(ask(account, model="far").headers["x-generation-id"])
    assert (row["estimated"], row["output_units"]) == (1, 0)
    # 21 bytes, and 4 around them.
    assert found.usage.prompt_tokens == row["input_units"] == 5
    assert row["cost"] == 5 * PRICE
    assert account.settled() == CREDIT - 2 * row["cost"]


@pytest.mark.parametrize("body", [b"{}", b"nothing", json.dumps({"data": []}).encode()])
def test_an_upstream_that_sends_no_vectors_is_charged_nothing(
    account: Account, upstream: Upstream, body: bytes
) -> None:
    async def behave(exchange: Exchange) -> None:
        exchange.answer(200, body)

    upstream.behave = behave
    check_refusal(ask(account, model="far"), 502, "upstream_error")
    assert account.settled() == CREDIT


def test_vectors_are_sorted_and_any_other_number_of_them_is_charged_nothing(
    account: Account, upstream: Upstream
) -> None:
    def rows(*indexes: int) -> list[Any]:
        return [{"object": "embedding", "index": index, "embedding": [float(index), 1.0]} for index in indexes]

    async def behave(exchange: Exchange) -> None:
        exchange.answer(200, {"data": found, "model": None, "usage": {"prompt_tokens": 9}})

    upstream.behave = behave
    for indexes in ([0], [0, 1, 2], [0, 0], [1, 2]):
        found = rows(*indexes)
        check_refusal(ask(account, model="far", input=["a", "b"]), 502, "upstream_error")
    assert account.settled() == CREDIT
    found = rows(1, 0)
    sorted_ = made(account, model="far", input=["a", "b"]).data
    assert [(item.index, item.embedding) for item in sorted_] == [(0, [0.0, 1.0]), (1, [1.0, 1.0])]
    assert account.settled() == CREDIT - 9 * PRICE


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": ["x", ""]}, "input[1]"),
        ({"input": [[]]}, "input[0]"),
        ({"input": [True]}, "input[0]"),
        ({"input": ["x"] * 2049}, "input"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": "8"}, "dimensions"),
        ({"stream": True}, "stream"),
        ({"user": 5}, "user"),
    ],
    ids=str,
)
def test_a_wrong_field_is_named(account: Account, fields: dict[str, Any], param: str) -> None:
    check_refusal(ask(account, **fields), 400, "invalid_request", param)
    assert account.money().posted == CREDIT


def test_a_chat_model_is_refused_with_the_names_of_embedding_models(account: Account) -> None:
    message = check_refusal(ask(account, model="quick"), 404, "model_not_found", "model")
    assert "quick makes no embeddings" in message
    assert "vectors" in message
    check_refusal(ask(account, model="nobody"), 404, "model_not_found", "model")
    listed = get(account, "/v1/models/vectors").json()
    assert (listed["kind"], listed["price"]["input_per_million"]) == ("embedding", "0.020000000")


EMBEDDED = """
[engines.reader]
kind = "llama"
model = "smollm2-vectors"
context = 1024
file = "{file}"
embeds = true
pooling = "mean"

[embedding.own]
input = "0.02"
context = 1024
engines = ["reader"]
"""


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    """Start a server with a llama.cpp engine for embeddings."""
    env = {"MINITOOLAI_LLAMA_SLOTS": "2", "MINITOOLAI_LLAMA_THREADS": "1"}
    catalog = EMBEDDED.format(file=small_model_file())
    with ServerProcess(tmp_path_factory.mktemp("reader"), catalog=catalog, env=env) as server:
        yield server.account()


def test_a_file_of_the_operators_makes_vectors(reader: Account) -> None:
    texts = ["The moons of Saturn", "How to bake bread", "The moons of Saturn"]
    with openai.OpenAI(base_url=reader.server.url + "/v1", api_key=reader.key, max_retries=0) as client:
        before = reader.settled()
        found = client.embeddings.create(model="own", input=texts)
        assert found.model == "smollm2-vectors"
        one, other, same = (item.embedding for item in found.data)
        assert one == pytest.approx(same, abs=1e-4)
        assert sum(a * b for a, b in zip(one, other, strict=True)) < 0.999
        assert found.usage.prompt_tokens >= 12
        assert before - reader.settled() == found.usage.prompt_tokens * PRICE
        with pytest.raises(openai.BadRequestError) as refusal:
            client.embeddings.create(model="own", input=["x", "moon " * 1200])
        assert (refusal.value.param, refusal.value.code) == ("input[1]", "context_length_exceeded")
        short = client.embeddings.create(model="own", input=texts, dimensions=8).data[1].embedding
        length = math.hypot(*other[:8])
        assert short == pytest.approx([number / length for number in other[:8]], abs=1e-4)
        assert math.hypot(*short) == pytest.approx(1)
        assert len(client.embeddings.create(model="own", input="x", dimensions=len(one)).data[0].embedding) == len(one)
        with pytest.raises(openai.BadRequestError) as unable:
            client.embeddings.create(model="own", input="x", dimensions=len(one) + 1)
        assert unable.value.param == "dimensions"


def test_many_texts_come_back_in_order_and_both_encodings_are_the_same(reader: Account) -> None:
    texts = [f"text number {number}" for number in range(40)]
    body = {"model": "own", "input": texts}
    plain = ask(reader, **body, encoding_format="float").json()
    packed = ask(reader, **body, encoding_format="base64").json()
    for one, other in zip(plain["data"], packed["data"], strict=True):
        raw = base64.b64decode(other["embedding"])
        assert one["embedding"] == pytest.approx(struct.unpack(f"<{len(raw) // 4}f", raw), abs=1e-4)
    alone = ask(reader, model="own", input=texts[33]).json()["data"][0]["embedding"]
    assert alone == pytest.approx(plain["data"][33]["embedding"], abs=1e-2)
    single = ask(reader, model="own", input=texts[33]).json()["usage"]["prompt_tokens"]
    assert plain["usage"]["prompt_tokens"] == pytest.approx(40 * single, abs=80)


def test_a_killed_embedder_charges_nothing_and_answers_again(reader: Account) -> None:
    before = reader.settled()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, reader, model="own", input=["moon " * 300] * 200)
        (child,) = children_of(reader.server.pid)
        eventually(lambda: reader.money().held > 0)
        os.kill(child, signal.SIGKILL)
        check_refusal(asked.result(), 502, "upstream_error")
    assert reader.settled() == before
    eventually(lambda: ask(reader, model="own", input="x").status_code == 200, within_s=30)


def test_more_tokens_than_one_request_may_have_are_refused(reader: Account) -> None:
    before = reader.settled()
    message = check_refusal(ask(reader, model="own", input=[[1] * 1000] * 140), 400, "context_length_exceeded", "input")
    assert "131072 tokens together" in message
    assert reader.settled() == before


def test_without_the_model_the_remedy_is_named(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, env={"MINITOOLAI_MODELS_DIR": str(tmp_path / "none")}) as server:
        account = server.account()
        message = check_refusal(ask(account, model="text-embedding-3-small"), 503, "overloaded")
        listed = get(account, "/v1/models/text-embedding-3-small").json()
        assert (listed["ready"], "fetch" in str(listed)) == (False, False)
        assert "minitoolai fetch multilingual-e5-small" in server.command("models").stdout
        assert "text-embedding-3-small" in message


@pytest.mark.acceptance
def test_a_text_longer_than_llamas_default_batch_is_embedded(reader: Account) -> None:
    with openai.OpenAI(base_url=reader.server.url + "/v1", api_key=reader.key, max_retries=0) as client:
        long = client.embeddings.create(model="own", input="moon " * 540)
    assert long.usage.prompt_tokens > 512
