"""No spelling of the limit reaches an engine, in whatever place it may be read; what asks for nothing else does."""

from __future__ import annotations

from typing import Any

import pytest

from minitoolai.core.catalog import EngineEntry
from minitoolai.core.inference import ChatRequest
from minitoolai.engines.forwarding import forwarded
from minitoolai.engines.text_completions import text_body
from minitoolai.engines.upstream import upstream_body

NAMES = """n_predict num_predict max_new_tokens max_length best_of min_tokens n_cmpl ignore_eos max_output_tokens
    maxOutputTokens max_tokens_to_sample max_tokens max_completion_tokens maxTokens max_gen_len min_new_tokens
    min_length ban_eos_token auto_max_new_tokens num_return_sequences candidateCount tokens_to_generate
    max-tokens MAX_TOKENS Max_Completion_Tokens N_PREDICT max_to\u212aens""".split()  # noqa: SIM905
CONTAINERS = """extra_body options parameters generation_config generationConfig sampling_params model_kwargs
    provider_options Extra_Body""".split()  # noqa: SIM905
SCHEMA = {"type": "object", "properties": {"max_length": {"type": "integer"}, "n": {}}, "max_tokens": 5}
HARMLESS: dict[str, Any] = {
    "temperature": 0.5,
    "top_k": 40,
    "n": 2,
    "stop": ["x"],
    "stream_options": {"include_usage": False},
    "tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}],
    "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}},
    "guided_json": SCHEMA,
    "metadata": {"max_tokens": "5", "options": "none"},
    "reasoning": {"max_tokens": 2000},
    "logit_bias": {"5": 1},
    "options": {"num_ctx": 4096, "logit_bias": {"n": 1}},
    "extra_body": {"top_k": 3, "options": {"seed": 1}, "reasoning": {"max_tokens": 9}},
    "extra": 5,
    "parameters": ["max_tokens"],
}


@pytest.mark.parametrize("name", NAMES)
def test_no_name_of_the_limit_is_sent_on(name: str) -> None:
    assert forwarded({name: 5000, "seed": 1}) == {"seed": 1}


@pytest.mark.parametrize("container", CONTAINERS)
def test_nor_is_one_inside_of_what_engines_merge(container: str) -> None:
    inner: dict[str, Any] = {"top_k": 3} | dict.fromkeys(NAMES, 5000)
    assert forwarded({container: inner}) == {container: {"top_k": 3}}
    assert forwarded({"extra_body": {container: inner}}) == {"extra_body": {container: {"top_k": 3}}}
    # There even the names that we use ourselves would take the place of ours.
    ours = {"model": "large", "messages": [], "n": 8, "stream": False, "tools": [], "prompt": "x"}
    assert forwarded({container: ours | {"seed": 1}}) == {container: {"seed": 1}}


def test_containers_in_containers_without_end_are_left_out() -> None:
    fields: dict[str, Any] = {"max_tokens": 5000}
    for _ in range(100_000):
        fields = {"options": fields}
    depth, found = 0, forwarded(fields)
    while found:
        depth, found = depth + 1, found["options"]
    assert depth == 8
    while "options" in fields:
        fields = fields.pop("options")


@pytest.mark.parametrize("name", ["Messages", "N", "MODEL", "Stream", "Tools", "response_Format", "streamOptions"])
def test_another_spelling_of_what_is_ours_to_set_is_not_sent_on(name: str) -> None:
    """Servers written in Go do not look at the case of a name, and the last one counts."""
    assert forwarded({name: 5, "n": 1}) == {"n": 1}


def test_what_asks_for_no_more_than_is_held_goes_as_it_is() -> None:
    assert forwarded(HARMLESS) == HARMLESS


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("limit_field", ["max_completion_tokens", "max_tokens"])
def test_one_limit_is_sent_and_it_is_ours(limit_field: Any, stream: bool) -> None:
    fields = dict.fromkeys(NAMES, 5000) | {"options": {"num_predict": 5000}, "temperature": 0.5}
    request = ChatRequest("m", [{"role": "user", "content": "Hi"}], fields, stream, False, 16, prompt="Hi")
    expected = {"model", "stream", "options", "temperature"} | ({"stream_options"} if stream else set())
    chat = upstream_body(request, 16, EngineEntry("upstream", limit_field=limit_field))
    assert set(chat) == expected | {"messages", limit_field}
    assert (chat[limit_field], chat["options"]) == (16, {})
    text = text_body(request, 16, "m")
    assert set(text) == expected | {"prompt", "max_tokens"}
    assert (text["max_tokens"], text["options"]) == (16, {})
    # The caller's own request is as it was, for another engine to be asked.
    assert fields["options"] == {"num_predict": 5000}
