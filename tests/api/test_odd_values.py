"""No JSON value in any place of a request makes the server fail: each gets a response or a refusal that names a field.

The requests hold every kind of node that the endpoints read. Each node is replaced, one at a time, by values of every
type, and each request goes to an engine of every kind.
"""

from __future__ import annotations

import copy
import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from minitoolai.settings import variables
from minitoolai.storage.tables.ledger import broken_invariants
from tests.support import all_kinds, catalogs, claude, manners
from tests.support.server import Account, ServerProcess
from tests.support.upstream import Upstream
from tests.support.waiting import eventually

ODD: list[Any] = [None, True, 0, -1, 1.5, 1e308, 10**30, "", "\ud800", "\0", [], {}, [[]], [{}], {"type": {}}, [None]]

PIXEL = "data:image/png;base64," + (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "enum": ["Rome"]}}, "required": ["city"]}
CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
CHAT: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "name": "a", "content": [
            {"type": "text", "text": "Hello", "cache_control": {"type": "ephemeral"}},
            {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}},
        ]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "Rome"},
    ],
    "tools": [{"type": "function", "function": {"name": "look", "description": "Look.", "parameters": SCHEMA}}],
    "tool_choice": {"type": "function", "function": {"name": "look"}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA, "strict": True}},
    "stop": ["x"], "max_completion_tokens": 5, "temperature": 1, "top_p": 1, "n": 1, "seed": 1, "logit_bias": {"1": 1},
    "logprobs": True, "top_logprobs": 1, "stream_options": {"include_usage": True}, "metadata": {"a": "b"}, "user": "u",
    "reasoning_effort": "low", "parallel_tool_calls": True, "frequency_penalty": 0, "presence_penalty": 0,
    "models": ["quick"], "provider": {"order": ["quick"], "sort": {"by": "price", "partition": "none"},
                                      "max_price": {"prompt": 1}, "allow_fallbacks": True},
}  # fmt: skip
RESPONSES: dict[str, Any] = {
    "instructions": "Be brief.",
    "input": [
        {"type": "message", "role": "user", "content": [
            {"type": "input_text", "text": "Hello"}, {"type": "input_image", "image_url": PIXEL, "detail": "low"},
        ]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "Rome"}]},
        {"type": "custom_tool_call", "call_id": "d", "name": "run", "input": "x"},
        {"type": "custom_tool_call_output", "call_id": "d", "output": "y"},
    ],
    "tools": [
        {"type": "function", "name": "look", "parameters": SCHEMA, "strict": True},
        {"type": "custom", "name": "run", "format": {"type": "text"}},
    ],
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "look"}]},
    "text": {"format": {"type": "json_schema", "name": "city", "schema": SCHEMA, "strict": True}, "verbosity": "low"},
    "reasoning": {"effort": "low", "summary": "auto"}, "store": False, "include": ["reasoning.encrypted_content"],
    "max_output_tokens": 16, "temperature": 1, "top_p": 1, "truncation": "disabled", "metadata": {"a": "b"},
}  # fmt: skip
MESSAGES: dict[str, Any] = {
    "max_tokens": 2000,
    "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {"role": "user", "content": [
            {"type": "text", "text": "Hello", "citations": []},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL.partition(",")[2]}},
        ]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
            {"type": "tool_use", "id": "t", "name": "look", "input": {"city": "Rome"}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "y"}], "is_error": False},
        ]},
    ],
    "tools": [{"name": "look", "description": "Look.", "input_schema": SCHEMA, "cache_control": {"type": "ephemeral"}}],
    "tool_choice": {"type": "tool", "name": "look", "disable_parallel_tool_use": True},
    "metadata": {"user_id": "u"}, "stop_sequences": ["x"], "temperature": 1, "top_p": 1, "top_k": 5,
    "service_tier": "auto", "thinking": {"type": "enabled", "budget_tokens": 1024},
}  # fmt: skip
COMPLETION = {
    "prompt": ["hi"],
    "echo": False,
    "suffix": None,
    "logprobs": 1,
    "best_of": 1,
    "max_tokens": 3,
    "stop": "x",
}
EMBEDDING = {"input": ["hi"], "dimensions": None, "encoding_format": "float", "user": "u"}
SPEECH = {"model": "teller", "input": "hi", "voice": "tone", "speed": 1, "response_format": "wav", "instructions": "",
          "language": "en", "stream_format": "audio"}  # fmt: skip
IMAGE = {"model": "painter", "prompt": "hi", "negativePrompt": "no", "width": 256, "height": 256, "steps": 1, "seed": 1,
         "cfgScale": 1, "scheduler": "Euler"}  # fmt: skip
OPENAI_IMAGE = {"model": "painter", "prompt": "hi", "size": "256x256", "n": 1, "steps": 1, "background": "auto",
                "response_format": "b64_json", "output_format": "png"}  # fmt: skip

CHAT_MODELS = ("quick", "standin", "claude")
#: Path, a full request, and the models that it is sent to.
REQUESTS: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("/v1/chat/completions", CHAT, CHAT_MODELS),
    ("/v1/responses", RESPONSES, ("quick", "standin")),
    ("/v1/responses", {key: value for key, value in RESPONSES.items() if key != "text"}, ("claude",)),
    ("/v1/messages", MESSAGES, CHAT_MODELS),
    ("/v1/messages/count_tokens", {name: MESSAGES[name] for name in ("messages", "system", "tools")}, CHAT_MODELS),
    ("/v1/completions", COMPLETION, ("quick", "standin")),
    ("/v1/embeddings", EMBEDDING, ("vectors",)),
    ("/v1/audio/speech", SPEECH, ("teller",)),
    ("/api/texttospeech/", SPEECH, ("teller",)),
    ("/api/texttoimage/", IMAGE, ("painter",)),
    ("/v1/images/generations", OPENAI_IMAGE, ("painter",)),
]


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    with Upstream(manners.answer()) as other, Upstream(claude.answer()) as native:
        kinds = all_kinds.CATALOG[all_kinds.CATALOG.index("[image.painter]") :]
        catalog = catalogs.with_upstream(other.base_url) + catalogs.claude("claude", native.base_url) + kinds
        env = {name: "0" for name in variables() if name.endswith("_REQUESTS_PER_MINUTE")}
        with ServerProcess(tmp_path_factory.mktemp("odd"), catalog=catalog, env=env) as server:
            yield server.account("1000")
            eventually(lambda: server.read(lambda c: c.execute("SELECT 1 FROM holds WHERE state = 'pending'")) == [])
            assert server.read(broken_invariants) == {}


def places(node: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of every node below this one."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, child in children:
        yield (*at, name)
        yield from places(child, (*at, name))


def replaced(whole: dict[str, Any], at: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """Return a copy with another value in this place."""
    changed = node = copy.deepcopy(whole)
    for step in at[:-1]:
        node = node[step]  # type: ignore[index]
    node[at[-1]] = value  # type: ignore[index]
    return changed


@pytest.mark.parametrize(
    ("path", "full", "models"), REQUESTS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_no_value_in_any_place_makes_the_server_fail(
    serving: Account, path: str, full: dict[str, Any], models: tuple[str, ...]
) -> None:
    client = http.client.HTTPConnection("127.0.0.1", serving.server.port, timeout=30)
    wrong = []
    for number, at in enumerate(places(full)):
        for value in ODD:
            body = replaced({"model": models[number % len(models)]} | full, at, value)
            client.request("POST", path, json.dumps(body), serving.headers | {"content-type": "application/json"})
            answer = client.getresponse()
            seen = answer.read()
            if answer.status >= 500:
                wrong.append((at, value, answer.status, seen[:200]))
            elif answer.status >= 400:
                json.loads(seen)
    client.close()
    assert wrong == []


@pytest.mark.parametrize(
    ("path", "full", "models"), REQUESTS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_the_full_request_is_accepted(
    serving: Account, path: str, full: dict[str, Any], models: tuple[str, ...]
) -> None:
    # Otherwise nothing behind the first refusal would be tried.
    for model in models:
        answer = requests.post(
            serving.server.url + path, json={"model": model} | full, headers=serving.headers, timeout=30
        )
        assert answer.status_code == 200, f"{model}: {answer.text}"
