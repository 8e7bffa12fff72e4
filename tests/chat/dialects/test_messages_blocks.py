"""Tests of translating the content blocks of messages into those of a chat."""

from __future__ import annotations

import json
from typing import Any

import pytest

from minitoolai.chat.dialects.messages_request import parse_messages
from minitoolai.core.errors import InvalidRequest
from minitoolai.core.inference import ChatRequest, MessagesForm

PNG = "iVBORw0KGgo="
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
CALL = {"type": "tool_use", "id": "t1", "name": "read", "input": {"path": "a"}}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "ok"}
PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}}

Json = dict[str, Any]


def parse(messages: list[Any], **fields: Any) -> ChatRequest:
    return parse_messages(json.dumps({"model": "m", "max_tokens": 9, "messages": messages, **fields}).encode(), {})


def user(*blocks: Any) -> Json:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Any) -> Json:
    return {"role": "assistant", "content": list(blocks)}


def text(value: str) -> Json:
    return {"type": "text", "text": value}


def form_of(request: ChatRequest) -> MessagesForm:
    assert request.messages_form is not None
    return request.messages_form


def test_a_conversation_with_tools() -> None:
    request = parse(
        [
            user(text("a"), text("b")),
            assistant(
                {"type": "thinking", "thinking": "hm", "signature": "s"}, text("I read."), CALL, {**CALL, "id": "t2"}
            ),
            user(
                {**RESULT, "content": [text("one"), text("two")]},
                {**RESULT, "tool_use_id": "t2", "is_error": True},
                text("Go on."),
            ),
            {"role": "system", "content": "Be quick."},
        ]
    )
    call = {"type": "function", "function": {"name": "read", "arguments": '{"path":"a"}'}}
    assert request.messages == [
        {"role": "user", "content": "a\nb"},
        {"role": "assistant", "content": "I read.", "tool_calls": [{"id": "t1", **call}, {"id": "t2", **call}]},
        {"role": "tool", "tool_call_id": "t1", "content": "one\ntwo"},
        {"role": "tool", "tool_call_id": "t2", "content": "Error: ok"},
        {"role": "user", "content": "Go on."},
        {"role": "system", "content": "Be quick."},
    ]
    assert form_of(request).refusal is None


def test_images_by_base64_and_by_url() -> None:
    url = "https://example.com/a.png"
    request = parse([user(text("What?"), IMAGE, {"type": "image", "source": {"type": "url", "url": url}})], system="S")
    assert request.messages[1]["content"] == [
        text("What?"),
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
        {"type": "image_url", "image_url": {"url": url}},
    ]
    assert request.images == ["auto", "auto"]
    places = form_of(request).places
    assert places["messages[1].content[1].image_url.url"] == "messages[0].content[1].source"
    assert places["messages[1].content[2].image_url.url"] == "messages[0].content[2].source"


def test_an_image_in_a_tools_result_follows_as_the_users() -> None:
    request = parse([user(text("x")), assistant(CALL), user({**RESULT, "content": [IMAGE]})])
    assert request.messages[2] == {"role": "tool", "tool_call_id": "t1", "content": "The image follows."}
    assert request.messages[3]["content"][0]["type"] == "image_url"
    assert form_of(request).places == {
        "messages[3].content[0].image_url.url": "messages[2].content[0].content[0].source"
    }


def test_documents_that_are_text_become_text() -> None:
    plain = {"type": "document", "title": "T", "source": {"type": "text", "media_type": "text/plain", "data": "body"}}
    content = {"type": "document", "source": {"type": "content", "content": [text("part")]}}
    found = {"type": "search_result", "source": "s", "title": "t", "content": [text("hit")]}
    request = parse([user(plain, content, found)])
    assert request.messages[0]["content"] == "Title: T\nbody\npart\nt\ns\nhit"
    assert form_of(request).refusal is None


def test_a_pdf_needs_an_engine_that_reads_it() -> None:
    form = form_of(parse([user(PDF)]))
    assert form.refusal is not None
    assert form.refusal.param == "messages[0].content[0].source"
    assert form.document_bytes == len("JVBERi0=")
    form = form_of(parse([user({"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}})]))
    assert form.urls == [("https://example.com/a.pdf", "messages[0].content[0].source.url")]


def test_an_unknown_block_needs_an_engine_of_this_format() -> None:
    request = parse([user({"type": "novelty", "payload": "x" * 100})])
    refusal = form_of(request).refusal
    assert refusal is not None
    assert "novelty" in refusal.message
    assert request.other_bytes > 100
    assert form_of(request).fields["messages"][0]["content"][0]["payload"] == "x" * 100


def test_earlier_thinking_is_part_of_the_bound_but_not_of_the_chat() -> None:
    thought = {"type": "thinking", "thinking": "x" * 1000, "signature": "s"}
    hidden = {"type": "redacted_thinking", "data": "y" * 500}
    request = parse([user(text("a")), assistant(thought, hidden, text("b")), user(text("c"))])
    assert request.other_bytes == 1500
    assert "x" not in json.dumps(request.messages)


BAD: list[tuple[list[Any], str, str]] = [
    ([user("x")], "messages[0].content[0]", "content block"),
    ([user({"text": "x"})], "messages[0].content[0]", "content block"),
    ([user({"type": "text"})], "messages[0].content[0].text", "string"),
    ([user({**text("x"), "cache_control": 1})], "messages[0].content[0].cache_control", "ephemeral"),
    ([user({"type": "image"})], "messages[0].content[0].source", "object"),
    (
        [user({"type": "image", "source": {"type": "base64", "data": PNG}})],
        "messages[0].content[0].source.media_type",
        "png",
    ),
    (
        [user({"type": "image", "source": {"type": "base64", "media_type": "image/bmp", "data": PNG}})],
        "messages[0].content[0].source.media_type",
        "image/png",
    ),
    (
        [user({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": 1}})],
        "messages[0].content[0].source.data",
        "base64",
    ),
    (
        [user({"type": "image", "source": {"type": "url", "url": "http://x/a"}})],
        "messages[0].content[0].source.url",
        "https",
    ),
    (
        [user({"type": "image", "source": {"type": "file", "file_id": "f"}})],
        "messages[0].content[0].source.type",
        "stored",
    ),
    ([user({"type": "image", "source": {"type": "ftp"}})], "messages[0].content[0].source.type", "base64 or url"),
    (
        [user({"type": "document", "source": {"type": "file", "file_id": "f"}})],
        "messages[0].content[0].source.type",
        "stored",
    ),
    (
        [user({"type": "document", "source": {"type": "base64", "media_type": "text/html", "data": "x"}})],
        "messages[0].content[0].source.media_type",
        "application/pdf",
    ),
    (
        [user({"type": "document", "source": {"type": "url", "url": "http://10.0.0.1/a"}})],
        "messages[0].content[0].source.url",
        "https",
    ),
    ([user({"type": "container_upload", "file_id": "f"})], "messages[0].content[0].type", "stored"),
    ([user({"type": "search_result", "source": "s", "title": "t"})], "messages[0].content[0].content", "list"),
    ([user(CALL)], "messages[0].content[0].type", "assistant"),
    ([user(RESULT)], "messages[0].content[0].tool_use_id", "no tool_use block"),
    ([user(text("a")), assistant(CALL), user(RESULT, RESULT)], "messages[2].content[1].tool_use_id", "once"),
    ([user(text("a")), assistant(CALL), user(text("b"))], "messages[2].content", "no result"),
    (
        [user(text("a")), assistant(CALL), user({**RESULT, "is_error": "no"})],
        "messages[2].content[0].is_error",
        "true or false",
    ),
    ([user(text("a")), assistant(CALL), user({**RESULT, "content": 1})], "messages[2].content[0].content", "string"),
    (
        [user(text("a")), assistant(CALL), user({**RESULT, "content": [RESULT]})],
        "messages[2].content[0].content[0].type",
        "text, image",
    ),
    ([user(text("a")), assistant({**CALL, "input": "{}"})], "messages[1].content[0].input", "object"),
    ([user(text("a")), assistant({**CALL, "id": ""})], "messages[1].content[0].id", "non-empty"),
    ([user(text("a")), assistant({**CALL, "id": "a b"})], "messages[1].content[0].id", "letters"),
    ([user(text("a")), assistant(CALL, CALL)], "messages[1].content[1].id", "no other"),
    ([user(text("a")), assistant({**CALL, "name": None})], "messages[1].content[0].name", "non-empty"),
    ([user(text("a")), assistant({"type": "thinking", "thinking": "x"})], "messages[1].content[0].signature", "string"),
    ([user(text("a")), assistant({"type": "redacted_thinking"})], "messages[1].content[0].data", "non-empty"),
    ([{"role": "system", "content": [IMAGE]}], "messages[0].content[0]", "block"),
]


@pytest.mark.parametrize(
    ("messages", "param", "words"), BAD, ids=[f"{param}-{index}" for index, (_, param, _) in enumerate(BAD)]
)
def test_a_wrong_block_is_named_with_the_remedy(messages: list[Any], param: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(messages)
    assert caught.value.param == param
    assert words in caught.value.message
