"""Which fields of a request llama.cpp honours. Anything else is refused rather than ignored."""

from __future__ import annotations

from minitoolai.core.inference import ChatRequest

#: What it honours in a chat, or what asks nothing of an engine.
CHAT = frozenset(
    """messages model stream stream_options temperature top_p top_k min_p typical_p seed stop n logprobs top_logprobs
    presence_penalty frequency_penalty repeat_penalty logit_bias response_format tools tool_choice
    parallel_tool_calls user metadata safety_identifier prompt_cache_key prompt_cache_retention store
    service_tier""".split()  # noqa: SIM905
)
#: The same for a plain text that is to be continued.
TEXT = CHAT - {"messages", "response_format", "tools", "tool_choice", "parallel_tool_calls", "top_logprobs"}
EMBEDDING = frozenset(("encoding_format", "user"))
#: Fields that may be sent with the one value that changes nothing.
IDLE: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "service_tier": ("auto", "default"),
    "echo": (False,),
    "best_of": (1,),
    "suffix": ("",),
    "modalities": (["text"],),
    "verbosity": ("medium",),
    "reasoning_effort": ("none",),
}


def unsupported(request: ChatRequest, *, has_tools: bool) -> str | None:
    """The first field that cannot be honoured. `has_tools`: the model's template knows tools."""
    known = EMBEDDING if request.embed is not None else CHAT if request.prompt is None else TEXT
    for field, value in request.fields.items():
        if field in IDLE:
            # Of several choices llama.cpp reports the tokens of one: there would be no exact charge.
            if value not in IDLE[field]:
                return field
        elif field not in known and value is not None:
            return field
    if isinstance(request.prompt, list) and not _is_one_prompt(request.prompt):
        return "prompt"
    # Without a place for them in its template a model never sees the tools.
    if not has_tools and request.fields.get("tools") and request.fields.get("tool_choice") != "none":
        return "tools"
    return None


def _is_one_prompt(prompt: list[object]) -> bool:
    """A list of several prompts is answered for the first only."""
    return len(prompt) == 1 or all(isinstance(token, int) for token in prompt)
