"""Embeddings of an upstream are believed only if there is exactly one vector for each input."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest

from minitoolai.core.errors import EngineError
from minitoolai.engines.chat.embeddings import embeddings_as_chat

ONE, TWO = [1.0, 0.0], [0.0, 1.0]


def row(index: Any, embedding: Any) -> dict[str, Any]:
    return {"object": "embedding", "index": index, "embedding": embedding}


def packed(*numbers: float) -> str:
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def translated(data: Any, inputs: int = 2, **more: Any) -> Any:
    return json.loads(embeddings_as_chat(json.dumps({"data": data, **more}).encode(), inputs, model="asked"))


@pytest.mark.parametrize(
    "body",
    [
        b"rubbish",
        b"",
        b"<html></html>",
        b'{"error":{"message":"no"}}',
        b'{"data":[]}',
        b'{"data":5}',
        b"\xff",
        b"{}",
        b"[]",
        b"[" * 100_000,
    ],
)
def test_a_response_without_embeddings_is_an_error(body: bytes) -> None:
    with pytest.raises(EngineError, match="embedding"):
        embeddings_as_chat(body, 1)


@pytest.mark.parametrize(
    "data",
    [
        [row(0, ONE)],
        [row(0, ONE), row(1, TWO), row(2, TWO)],
        [row(0, ONE), row(0, TWO)],
        [row(1, ONE), row(2, TWO)],
        [row(-1, ONE), row(0, TWO)],
        [row(0, ONE), row(None, TWO)],
        [row(None, ONE), row(None, TWO)],
        [{"embedding": ONE}, {"embedding": TWO}],
        [row(False, ONE), row(True, TWO)],
        [row(0.5, ONE), row(1, TWO)],
        [row("zero", ONE), row("1", TWO)],
        [row([], ONE), row({}, TWO)],
    ],
    ids=str,
)
def test_fewer_more_doubled_and_missing_vectors_are_errors(data: Any) -> None:
    with pytest.raises(EngineError, match="nothing was charged"):
        translated(data)


@pytest.mark.parametrize(
    "vector",
    [[], "", None, 5, {}, ["a"], [None], [1e39], "!!!!", "AAA", "AAAA", packed(float("nan")), packed(float("inf"))],
    ids=str,
)
def test_what_is_no_vector_is_an_error(vector: Any) -> None:
    with pytest.raises(EngineError, match="nothing was charged"):
        translated([row(0, vector)], 1)


@pytest.mark.parametrize("indexes", [(1, 0), (1.0, 0.0), ("1", "0")])
def test_vectors_are_sorted_by_index(indexes: Any) -> None:
    data = translated([row(indexes[0], TWO), row(indexes[1], ONE)])["choices"][0]["data"]
    assert data == [ONE, TWO]


def test_a_single_vector_needs_no_index() -> None:
    assert translated([{"embedding": [1, 0]}], 1)["choices"][0]["data"] == [ONE]


def test_base64_is_kept_for_the_dialect() -> None:
    assert translated([row(0, packed(0.5))], 1)["choices"][0]["data"] == [packed(0.5)]


@pytest.mark.parametrize("model", [None, "", 5, [], {}])
def test_a_missing_name_is_that_of_the_requested_model(model: Any) -> None:
    assert translated([row(0, ONE)], 1, model=model)["model"] == "asked"


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 7}, 7),
        ({"prompt_tokens": 7.0, "total_tokens": None, "completion_tokens": "x"}, 7),
        ({"total_tokens": 7}, 7),
        ({"prompt_tokens": 0, "total_tokens": 7}, 7),
        *[(usage, None) for usage in (None, {}, [], "7", 7, {"prompt_tokens": 0}, {"prompt_tokens": None})],
        *[({"prompt_tokens": tokens}, None) for tokens in (-1, True, "7", [], 2**60, 1e300)],
    ],
    ids=str,
)
def test_a_usage_is_believed_if_it_is_a_positive_number(usage: Any, tokens: int | None) -> None:
    found = translated([row(0, ONE)], 1, usage=usage).get("usage")
    assert (None if found is None else found["prompt_tokens"]) == tokens
