"""Only documented fields reach an engine, and no catalog entry can add a name of the output limit."""

from __future__ import annotations

from typing import Any

import pytest

from minitoolai.core.catalog.catalog import EngineEntry
from minitoolai.core.catalog.loader import parse_catalog
from minitoolai.core.errors import CatalogError
from minitoolai.core.inference import ChatRequest
from minitoolai.core.request_fields import header_of_names, why_never_forwarded
from minitoolai.engines.chat.embeddings import embeddings_body
from minitoolai.engines.chat.openai import chat_body, completions_body

LIMITS = """n_predict num_predict max_new_tokens max_length best_of min_tokens n_cmpl ignore_eos max_output_tokens
    maxOutputTokens max_tokens_to_sample max_tokens max_completion_tokens maxTokens max_gen_len min_new_tokens
    min_length ban_eos_token auto_max_new_tokens num_return_sequences candidateCount tokens_to_generate
    max-tokens MAX_TOKENS Max_Completion_Tokens N_PREDICT max_to\u212aens n N maximum_tokens number_of_choices
    max_answer_length num_beams max_total_tokens minTokens numPredict""".split()  # noqa: SIM905
CONTAINERS = """extra_body options parameters generation_config generationConfig sampling_params model_kwargs
    provider_options Extra_Body nvext vllm_xargs""".split()  # noqa: SIM905
PATHS = [
    "options.num_predict",
    "extra_body.n_predict",
    "nvext/max_tokens",
    "generationConfig[maxOutputTokens]",
    "",
    "a b",
]
OURS = [
    "messages",
    "Model",
    "stream",
    "streamOptions",
    "tools",
    "service_tier",
    "models",
    "provider",
    "plugins",
    "audio",
]
ALLOWED = """top_k min_p typical_p repetition_penalty repeat_penalty guided_json guided_regex chat_template_kwargs
    skip_special_tokens stop_token_ids thinking reasoning include_reasoning bad_words grammar json_schema mirostat
    num_ctx n_probs truncate_prompt_tokens add_special_tokens cache_prompt""".split()  # noqa: SIM905


@pytest.mark.parametrize("name", [*LIMITS, *CONTAINERS, *PATHS, *OURS])
def test_a_name_of_the_limit_cannot_be_added_in_any_spelling(name: str) -> None:
    catalog = f'''
[engines.far]
kind = "upstream"
base_url = "https://example.com/v1"
forwards = ["top_k", "{name}"]
'''
    with pytest.raises(CatalogError, match=r"line 5: .*forwards") as caught:
        parse_catalog(catalog)
    assert "remove it" in str(caught.value) or "write the name" in str(caught.value)


@pytest.mark.parametrize("name", ALLOWED)
def test_a_field_that_does_not_change_the_amount_of_output_can_be_added(name: str) -> None:
    assert why_never_forwarded(name) is None


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("limit_field", ["max_completion_tokens", "max_tokens"])
def test_one_limit_is_sent_and_it_is_ours(limit_field: Any, stream: bool) -> None:
    extras: dict[str, Any] = dict.fromkeys([*LIMITS, *CONTAINERS, *OURS], 5000) | {"options": {"num_predict": 5000}}
    extras |= {"top_k": 40, "unknown": 1}
    request = ChatRequest(
        "m", [{"role": "user", "content": "Hi"}], {"temperature": 0.5}, stream, False, 16, prompt="Hi", extras=extras
    )
    entry = EngineEntry("upstream", limit_field=limit_field, forwards=("top_k",))
    expected = {"model", "stream", "temperature", "top_k"} | ({"stream_options"} if stream else set())
    chat = chat_body(request, 16, entry)
    assert set(chat) == expected | {"messages", limit_field}
    assert (chat[limit_field], chat["top_k"]) == (16, 40)
    text = completions_body(request, 16, entry)
    assert set(text) == expected | {"prompt", "max_tokens"}
    assert text["max_tokens"] == 16
    assert set(embeddings_body(request, entry)) == {"model", "input", "temperature", "top_k"}
    # The caller's own request is as it was, for another engine to be asked.
    assert request.fields == {"temperature": 0.5}


def test_names_in_a_header_are_bounded_and_cannot_end_it() -> None:
    assert header_of_names(["foo", "reasoning.context", "tools[0]"]) == b"foo, reasoning.context, tools[0]"
    assert header_of_names(["a\r\nset-cookie: x=1", "\u00e9\u4e16", "\x00", "", "a,b", "a b"]) == (
        b"a??set-cookie??x?1, ??, ?, ?, a?b, a?b"
    )
    many = header_of_names([f"{number}{'x' * 5000}" for number in range(5000)])
    assert len(many) < 2000
    assert many.endswith(b", and 4980 more")
