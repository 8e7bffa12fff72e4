"""Unit tests of chat/request.py: valid requests are parsed, and errors name the field and the remedy."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitoolai.chat.request import DEFAULT_LIMIT, parse_chat
from minitoolai.core.errors import InvalidRequest
from minitoolai.core.inference import ChatRequest
from minitoolai.core.request_fields import UNPRICED_FIELDS

HELLO = [{"role": "user", "content": "Hello"}]
GOOD = {"model": "gpt-4o", "messages": HELLO}
HUGE = 10**400
PICTURE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}


def parse(dialect: Any = "api", **fields: Any) -> ChatRequest:
    return parse_chat(json.dumps({**GOOD, **fields}).encode(), dialect)


def refusal(body: bytes) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse_chat(body, "api")
    return caught.value


def user(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def picture(**image: Any) -> list[dict[str, Any]]:
    return user({"type": "image_url", "image_url": {"url": "https://example.com/a.png", **image}})


#: (expected field, request fields, part of the message)
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("model", {"model": ""}, "non-empty string"),
    ("model", {"model": 7}, "non-empty string"),
    ("model", {"model": None}, "non-empty string"),
    ("model", {"model": ["gpt-4o"]}, "non-empty string"),
    ("messages", {"messages": []}, "at least one message"),
    ("messages", {"messages": None}, "at least one message"),
    ("messages", {"messages": "Hello"}, "at least one message"),
    ("messages", {"messages": {"role": "user"}}, "at least one message"),
    ("messages[0]", {"messages": ["Hello"]}, '{"role": "user", "content": "Hello"}'),
    ("messages[1]", {"messages": [*HELLO, None]}, '{"role": "user", "content": "Hello"}'),
    ("messages[0].role", {"messages": [{"role": "robot", "content": "x"}]}, "developer, system, user, assistant, tool"),
    ("messages[0].role", {"messages": [{"content": "x"}]}, "must be one of"),
    ("messages[0].role", {"messages": [{"role": ["user"], "content": "x"}]}, "must be one of"),
    ("messages[2].role", {"messages": [*HELLO, *HELLO, {"role": "x" * 500, "content": "x"}]}, "must be one of"),
    ("messages[0].content", {"messages": [{"role": "user"}]}, "a string or a list of parts"),
    ("messages[0].content", {"messages": [{"role": "user", "content": None}]}, "a string or a list of parts"),
    ("messages[0].content", {"messages": [{"role": "user", "content": 7}]}, "a string or a list of parts"),
    ("messages[0].content", {"messages": [{"role": "user", "content": []}]}, "a string or a list of parts"),
    ("messages[0].content", {"messages": [{"role": "assistant", "content": []}]}, "a string or a list of parts"),
    ("messages[0].content", {"messages": [{"role": "assistant", "content": False}]}, "a string or a list of parts"),
    ("messages[0].content", {"messages": [{"role": "tool", "content": {}}]}, "a string or a list of parts"),
    ("messages[0].content[0].type", {"messages": user({"type": "video"})}, '"text" or "image_url"'),
    (
        "messages[0].content[1].type",
        {"messages": user({"type": "text", "text": "x"}, "words")},
        '"text" or "image_url"',
    ),
    ("messages[0].content[0].type", {"messages": user({"text": "x"})}, '"text" or "image_url"'),
    ("messages[0].content[0].text", {"messages": user({"type": "text"})}, "must be a string"),
    ("messages[0].content[0].text", {"messages": user({"type": "text", "text": 5})}, "must be a string"),
    ("messages[0].content[0]", {"messages": [{"role": "assistant", "content": [PICTURE]}]}, "only a user message"),
    ("messages[0].content[0].image_url", {"messages": user({"type": "image_url"})}, '{"url": "https://…"}'),
    (
        "messages[0].content[0].image_url",
        {"messages": user({**PICTURE, "image_url": ["https://x"]})},
        '{"url": "https://…"}',
    ),
    ("messages[0].content[0].image_url", {"messages": picture(url=7)}, '{"url": "https://…"}'),
    ("messages[0].content[0].image_url.url", {"messages": picture(url="http://x/a.png")}, "https URL"),
    ("messages[0].content[0].image_url.url", {"messages": picture(url="file:///etc/passwd")}, "https URL"),
    (
        "messages[0].content[0].image_url.url",
        {"messages": picture(url="data:image/svg+xml;base64,AA")},
        "jpg, jpeg, png",
    ),
    ("messages[0].content[0].image_url.url", {"messages": picture(url="data:image/png,AA")}, "data URL"),
    ("messages[0].content[0].image_url.detail", {"messages": picture(detail="extreme")}, "auto, low or high"),
    ("messages[0].content[0].image_url.detail", {"messages": picture(detail=["low"])}, "auto, low or high"),
    ("messages[0].content[0].image_url.detail", {"messages": picture(detail={})}, "auto, low or high"),
    ("temperature", {"temperature": 2.1}, "is 2.1; it must be from 0 to 2"),
    ("temperature", {"temperature": -0.1}, "from 0 to 2"),
    ("temperature", {"temperature": "hot"}, "a number from 0 to 2"),
    ("temperature", {"temperature": "1"}, "a number from 0 to 2"),
    ("temperature", {"temperature": True}, "a number from 0 to 2"),
    ("temperature", {"temperature": [1]}, "a number from 0 to 2"),
    ("temperature", {"temperature": HUGE}, "from 0 to 2"),
    ("top_p", {"top_p": 1.5}, "from 0 to 1"),
    ("top_p", {"top_p": "1"}, "from 0 to 1"),
    ("max_completion_tokens", {"max_completion_tokens": 0}, "is 0; it must be at least 1"),
    ("max_completion_tokens", {"max_completion_tokens": -1}, "is -1; it must be at least 1"),
    ("max_completion_tokens", {"max_completion_tokens": 10**12}, "is 1000000000000; it must be at most"),
    ("max_completion_tokens", {"max_completion_tokens": HUGE}, "at most"),
    ("max_completion_tokens", {"max_completion_tokens": -HUGE}, "at least 1"),
    ("max_completion_tokens", {"max_completion_tokens": 4.5}, "a whole number"),
    ("max_completion_tokens", {"max_completion_tokens": "4"}, "a whole number"),
    ("max_completion_tokens", {"max_completion_tokens": True}, "a whole number"),
    ("max_completion_tokens", {"max_completion_tokens": False}, "a whole number"),
    ("max_completion_tokens", {"max_completion_tokens": {}}, "a whole number"),
    ("max_tokens", {"max_tokens": 0}, "at least 1"),
    ("max_tokens", {"max_tokens": "4"}, "a whole number"),
    ("max_tokens", {"max_tokens": 5, "max_completion_tokens": 6}, "the same setting but differ"),
    ("n", {"n": 0}, "at least 1"),
    ("n", {"n": 129}, "at most 128"),
    ("n", {"n": 1.5}, "a whole number"),
    ("n", {"n": True}, "a whole number"),
    ("stream", {"stream": "true"}, "true or false"),
    ("stream", {"stream": 1}, "true or false"),
    ("stream_options", {"stream_options": True}, "an object"),
    ("stream_options", {"stream_options": []}, "an object"),
    ("stream_options.include_usage", {"stream_options": {"include_usage": "false"}}, "true or false"),
]


@pytest.mark.parametrize(("param", "fields", "words"), WRONG, ids=lambda value: str(value)[:40])
def test_an_invalid_field_is_named_with_its_valid_values(param: str, fields: dict[str, Any], words: str) -> None:
    for dialect in ("api", "openai"):
        with pytest.raises(InvalidRequest) as caught:
            parse(dialect, **fields)
        assert (caught.value.param, caught.value.code) == (param, "invalid_request")
        assert words in caught.value.message
        assert len(caught.value.message) < 400


@pytest.mark.parametrize("field", ["model", "messages"])
def test_a_missing_field_is_named(field: str) -> None:
    body = {key: value for key, value in GOOD.items() if key != field}
    assert refusal(json.dumps(body).encode()).param == field


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"model=gpt-4o",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe{}",
        b'{"model": "\xff"}',
        b"{} {}",
        b'{"temperature": NaN}',
        b'{"temperature": 1e999}',
        b"{'model': 'gpt-4o'}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        json.dumps(GOOD).encode().replace(b'"Hello"', b'"\\ud800"'),
    ],
    ids=lambda body: str(body[:24]),
)
def test_a_body_that_is_not_a_json_object_is_refused(body: bytes) -> None:
    assert refusal(body).code == "invalid_json"


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def test_nesting_is_bounded_in_every_field() -> None:
    parse(other=nested(60))
    for fields in ({"other": nested(200)}, {"tools": nested(900)}, {"messages": nested(900)}):
        assert refusal(json.dumps({**GOOD, **fields}).encode()).code == "invalid_json"


def test_many_brackets_that_are_not_deep_are_fine() -> None:
    assert parse(other=[[] for _ in range(5000)]).extras["other"]


@pytest.mark.parametrize(("written", "read"), [("4.0", 4), ("4", 4), ("4e0", 4), ("1e3", 1000), ("2147483648", 2**31)])
@pytest.mark.parametrize("field", ["max_completion_tokens", "max_tokens"])
def test_whole_floats_are_accepted_as_integers(field: str, written: str, read: int) -> None:
    body = json.dumps(GOOD)[:-1] + f', "{field}": {written}}}'
    limit = parse_chat(body.encode(), "api").limit
    assert limit == read
    assert isinstance(limit, int)


def test_a_whole_float_reaches_the_engine_as_an_integer() -> None:
    request = parse_chat(json.dumps(GOOD)[:-1].encode() + b', "n": 2.0}', "api")
    assert request.choices == 2
    assert isinstance(request.fields["n"], int)


def test_both_names_of_the_limit_may_be_sent_if_they_agree() -> None:
    assert parse(max_tokens=5, max_completion_tokens=5.0).limit == 5


def test_null_means_absent_for_every_optional_field() -> None:
    names = [
        "temperature",
        "top_p",
        "n",
        "max_tokens",
        "max_completion_tokens",
        "stream",
        "stream_options",
        "stop",
        "tools",
    ]
    assert parse(**dict.fromkeys(names)) == parse()


def test_the_two_dialects_differ_in_their_defaults_only() -> None:
    ours, openai = parse("api"), parse("openai")
    assert (ours.stream, ours.include_usage, ours.limit, ours.limit_is_default) == (True, True, DEFAULT_LIMIT, True)
    assert (openai.stream, openai.include_usage, openai.limit, openai.limit_is_default) == (False, False, None, True)
    explicit = {"stream": True, "stream_options": {"include_usage": True}, "max_completion_tokens": 7}
    assert parse("api", **explicit) == parse("openai", **explicit)


def test_other_openai_fields_are_passed_on() -> None:
    extra = {
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "seed": 5,
        "stop": ["x"],
        "logit_bias": {"5": -100},
        "user": "u",
    }
    assert parse(**extra).fields == extra
    assert parse(temperature=0.5, top_p=0, n=3).fields == {"temperature": 0.5, "top_p": 0, "n": 3}


def test_undocumented_fields_are_kept_apart() -> None:
    unknown = {"new": 1, "top_k": 5, "n_predict": 500, "Temperature": 1, "extra_body": {"max_tokens": 9}}
    request = parse(temperature=0.5, **unknown, nothing=None)
    assert (request.fields, request.extras) == ({"temperature": 0.5}, unknown)
    assert request.forwarded(("top_k", "missing")) == {"temperature": 0.5, "top_k": 5}


def test_all_bytes_that_are_sent_count_in_the_bound() -> None:
    """A field nobody knows, in any place that is sent as it is, costs at least its bytes."""
    huge = "x" * 1000
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    function = {"name": "f", "parameters": {}}
    plain = parse()
    for fields in (
        {"messages": [{**HELLO[0], "new": huge}]},
        {"messages": [{**HELLO[0], huge: 1}]},
        {"messages": [{**HELLO[0], "name": huge}]},
        {"messages": user({"type": "text", "text": "Hello", "new": huge})},
        {"messages": user({"type": "text", "text": "Hello", "cache_control": {huge: 1}})},
        {"messages": user({**image, "new": huge})},
        {"messages": user({**image, "image_url": {**image["image_url"], "new": huge}})},
        {"messages": [*HELLO, {"role": "assistant", "content": None, "tool_calls": [{"new": huge}]}]},
        {"tools": [{"type": "function", "function": function, "new": huge}]},
        {"tools": [{"type": "function", "function": {**function, huge: 1}}]},
        {"response_format": {"type": "text", "new": huge}},
        {"stream_options": {"include_usage": True, "new": huge}},
        {"functions": [{"new": huge}]},
        {"function_call": {"new": huge}},
        {"user": huge},
        {"stop": [huge]},
        {"prompt_cache_key": huge},
        {"logit_bias": [huge]},
        {"metadata": {"a": huge[:512], "b": huge[:512]}},
    ):
        request = parse(**fields)
        assert request.text_bytes + request.other_bytes >= plain.text_bytes + 1000 - len("Hello"), fields


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        *[({name: value}, name) for name in UNPRICED_FIELDS for value in ({}, [], "x", {"type": "content"})],
        *[({"service_tier": tier}, "service_tier") for tier in ("priority", "scale", "", 5, [])],
        *[({"modalities": value}, "modalities") for value in (["text", "audio"], ["audio"], "audio", [], ["image"])],
    ],
    ids=str,
)
def test_a_field_with_a_price_that_the_catalog_does_not_state_is_refused(fields: dict[str, Any], param: str) -> None:
    for dialect in ("api", "openai"):
        with pytest.raises(InvalidRequest, match="Leave it out") as caught:
            parse(dialect, **fields)
        assert caught.value.param == param


def test_ordinary_tiers_and_modalities_and_nulls_are_accepted() -> None:
    for tier in ("auto", "default", "flex"):
        assert parse(service_tier=tier, modalities=["text"]).fields["service_tier"] == tier
    nulls = ("web_search_options", "prediction", "plugins", "provider", "route", "models", "service_tier", "modalities")
    assert parse(**dict.fromkeys(nulls)) == parse()


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 3, "max_tokens": 7},
        {"n": 3, "max_tokens": 7, "max_completion_tokens": None},
        {"n": 3.0, "max_completion_tokens": 7.0},
        {"n": 3, "max_completion_tokens": 7, "max_tokens": 7},
        {"n": 3, "max_completion_tokens": 7, "best_of": 9, "Max_Tokens": 9, "N": 9, "n_predict": 9},
    ],
    ids=str,
)
def test_the_hold_covers_what_the_limit_and_the_choices_allow(fields: dict[str, Any]) -> None:
    request = parse(**fields)
    assert (request.limit, request.choices, request.fields) == (7, 3, {"n": 3})


CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def test_an_agents_messages_are_taken_where_they_mean_one_thing() -> None:
    messages = [
        *user({"type": "input_text", "text": "Hi"}, {"type": "input_image", "image_url": "https://example.com/a.png"}),
        {"role": "assistant", "content": [], "tool_calls": [CALL]},
        {
            "role": "tool",
            "tool_call_id": "c",
            "content": [{"type": "text", "text": "a"}, {"type": "output_text", "text": "b"}],
        },
        {"role": "tool", "tool_call_id": "d", "content": []},
        {"role": "tool", "tool_call_id": "e", "content": None},
    ]
    request = parse(messages=messages)
    picture = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    assert request.messages == [
        {"role": "user", "content": [{"type": "text", "text": "Hi"}, picture]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c", "content": "ab"},
        {"role": "tool", "tool_call_id": "d", "content": ""},
        {"role": "tool", "tool_call_id": "e", "content": ""},
    ]
    assert request.images == ["auto"]


@pytest.mark.parametrize("kind", ["jpeg", "jpg", "png", "webp", "gif"])
def test_images_are_counted_by_their_detail_and_not_by_their_bytes(kind: str) -> None:
    url = f"data:image/{kind};base64," + "A" * 50_000
    request = parse(
        messages=user({"type": "text", "text": "what?"}, picture(url=url, detail="low")[0]["content"][0], PICTURE)
    )
    assert request.images == ["low", "auto"]
    assert request.text_bytes == 5


def test_an_assistants_message_may_be_without_content() -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    messages = [*HELLO, {"role": "assistant", "content": None, "tool_calls": calls}, {"role": "tool", "content": "7"}]
    assert parse(messages=messages).messages == messages


@settings(max_examples=200, deadline=None)
@given(st.text(), st.text())
def test_the_bytes_of_everything_in_the_prompt_are_counted(content: str, name: str) -> None:
    messages = [
        {"role": "user", "content": content, "name": name},
        {"role": "assistant", "content": [{"type": "text", "text": content}, {"type": "refusal", "refusal": name}]},
    ]
    request = parse_chat(json.dumps({**GOOD, "messages": messages}, ensure_ascii=False).encode(), "api")
    bytes_of_text = 2 * len(content.encode()) + 2 * len(name.encode())
    assert request.text_bytes >= bytes_of_text


def test_tools_and_schemas_are_counted_as_prompt() -> None:
    tools = [{"type": "function", "function": {"name": "f", "description": "d" * 1000}}]
    assert parse(tools=tools).text_bytes > 1000
    assert (
        parse(
            response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": {"x": "d" * 1000}}}
        ).text_bytes
        > 1000
    )


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_cause_at_most_a_refusal(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse_chat(body, "openai")


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "role", "url", "text"]), inner)
    ),
    max_leaves=6,
)
FIELDS = st.sampled_from(["model", "messages", "temperature", "top_p", "n", "stream", "stream_options", "max_tokens"])


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(FIELDS, ANYTHING))
def test_any_value_in_any_field_is_read_or_refused_with_a_name(fields: dict[str, Any]) -> None:
    refused = None
    try:
        parse(**fields)
    except InvalidRequest as error:
        refused = error
    assert refused is None or refused.param is not None


def test_null_means_absent_inside_a_message_too() -> None:
    given_back = {"refusal": None, "tool_calls": None, "audio": None, "function_call": None, "name": None}
    messages = [
        {"role": "user", "content": [{**PICTURE, "image_url": {**PICTURE["image_url"], "detail": None}}], "name": None},
        {"role": "assistant", "content": "Hello.", **given_back},
        {"role": "assistant", "content": None, **given_back},
    ]
    assert parse(messages=messages).messages == [
        {"role": "user", "content": [PICTURE]},
        {"role": "assistant", "content": "Hello."},
        {"role": "assistant", "content": None},
    ]
