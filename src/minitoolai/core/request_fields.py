"""Select the request fields that may reach an engine: an allow-list of documented fields that the hold covers.

The hold covers the output limit, which is sent under one name. An engine that also knows it by another name might use
that one instead: llama.cpp reads `n_predict` before `max_tokens`. So only documented fields are sent, and those that
the engine's catalog entry adds with `forwards`. Another name of the limit cannot be added.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

Fields = dict[str, Any]

# ── documented fields ─────────────────────────────────────────────────────────────────────────────────────────────

CHAT_FIELDS = frozenset(
    """model messages stream stream_options max_tokens max_completion_tokens n temperature top_p seed stop
    presence_penalty frequency_penalty logprobs top_logprobs logit_bias response_format tools tool_choice
    parallel_tool_calls functions function_call modalities reasoning_effort verbosity user safety_identifier
    prompt_cache_key prompt_cache_retention metadata store service_tier""".split()  # noqa: SIM905
)
COMPLETION_FIELDS = frozenset(
    """model prompt suffix stream stream_options max_tokens n temperature top_p seed stop presence_penalty
    frequency_penalty logprobs logit_bias echo user safety_identifier prompt_cache_key prompt_cache_retention metadata
    store service_tier""".split()  # noqa: SIM905
)
EMBEDDING_FIELDS = frozenset(("model", "input", "encoding_format", "dimensions", "user", "stream"))
SPEECH_FIELDS = frozenset(
    ("model", "input", "voice", "instructions", "response_format", "speed", "stream_format", "language")
)
#: Fields with an extra cost that no catalog entry prices. They are refused, not dropped, because the caller would get
#: another response than the one requested.
UNPRICED_FIELDS = ("web_search_options", "prediction", "route", "plugins")
#: Fields that choose models and engines (chat/preferences.py). No engine receives them.
ROUTING_FIELDS = ("models", "provider")
#: Whole values that become part of the prompt and are counted as text.
_PROMPT_FIELDS = frozenset(("tools", "functions", "response_format", "suffix"))
_FREE_STREAM_OPTIONS = frozenset(("include_usage", "include_obfuscation"))
_encode = msgspec.json.Encoder().encode


def split_fields(fields: Fields, documented: frozenset[str]) -> tuple[Fields, Fields]:
    """Return the documented fields and the others. Both without nulls, which mean that a field is absent."""
    given = {name: value for name, value in fields.items() if value is not None}
    if given.keys() <= documented:
        return given, {}
    extras = {name: given.pop(name) for name in [*given] if name not in documented}
    return given, extras


def prompt_bytes(fields: Fields) -> int:
    """Return the bytes of the fields that become part of the prompt, beside the messages."""
    return sum(len(_encode(value)) for name, value in fields.items() if name in _PROMPT_FIELDS)


def other_bytes(fields: Fields) -> int:
    """Return the bytes of all other values that are sent. An engine is unlikely to count them, but it might."""
    return sum(
        len(_encode(value))
        for name, value in fields.items()
        if not isinstance(value, int | float) and name not in _PROMPT_FIELDS and not _is_free(name, value)
    )


def _is_free(name: str, value: Any) -> bool:
    return name == "stream_options" and isinstance(value, dict) and value.keys() <= _FREE_STREAM_OPTIONS


def named_bytes(fields: Mapping[str, Any], names: Collection[str]) -> int:
    """Return the bytes of these fields with their names, as they are sent."""
    return sum(len(_encode({name: fields[name]})) for name in names if name in fields)


# ── x-dropped-fields ──────────────────────────────────────────────────────────────────────────────────────────────

_MAX_NAMES = 20
_MAX_NAME_LENGTH = 64
_UNSAFE = re.compile(r"[^A-Za-z0-9_.\[\]-]")


def header_of_names(names: Collection[str]) -> bytes:
    """Return names chosen by a caller as a header value: bounded, and without characters that end a header."""
    shown = [_UNSAFE.sub("?", name[:_MAX_NAME_LENGTH]) or "?" for name in [*names][:_MAX_NAMES]]
    more = len(names) - len(shown)
    return ", ".join([*shown, f"and {more} more"] if more else shown).encode()


# ── which names an engine's catalog entry may add ─────────────────────────────────────────────────────────────────

#: How many tokens a response has at most or at least, and how many responses there are; written as `_folded` does.
_LIMITS = frozenset(
    """maxtokens maxcompletiontokens maxoutputtokens maxnewtokens maxnewtoken automaxnewtokens maxtoken maxtokencount
    maxlength maxlen maxgenlen maxgentoks maxgeneratedtokens maxgenerationtokens maxgeneratetokens maxgenerationlength
    maxresponsetokens maxresponselength maxcompletionlength maxanswertokens maxdecodelen maxdecodesteps maxpredict
    maxtokenstosample maxtokenstogenerate maxtotaltokens maxseqlen npredict ntokens numpredict numtokens
    numtokenstogenerate tokenstogenerate genamt outputlen outputlength
    mintokens mincompletiontokens minoutputtokens minnewtokens minlength minlen ignoreeos baneostoken
    n ncmpl bestof candidatecount numresults numcompletions numgenerations numreturnsequences numsamples
    usebeamsearch numbeams beamwidth""".split()  # noqa: SIM905
)
_LIMIT_PATTERN = re.compile(
    r"(auto)?(max|min|maximum|minimum|num|number|n)(of)?[a-z]*"
    r"(tokens?|toks?|length|len|predict|samples|sequences|completions|choices|candidates|generations|results)"
)
#: Fields that this server sets or prices. Other spellings of them are never forwarded.
_OURS = frozenset(
    name.replace("_", "")
    for name in (
        *CHAT_FIELDS,
        *COMPLETION_FIELDS,
        *EMBEDDING_FIELDS,
        *SPEECH_FIELDS,
        *UNPRICED_FIELDS,
        *ROUTING_FIELDS,
        "audio",
    )
)
#: Objects that some engines and gateways merge into the request itself.
_CONTAINERS = frozenset(
    """extrabody extra extraargs extraparams extraparameters additionalparams additionalparameters
    additionalmodelrequestfields body config customparams generationargs generationconfig generationkwargs
    generationoptions generationparams generationparameters inferenceconfig inferenceparams inferenceparameters kwargs
    litellmparams modelkwargs modeloptions modelparams modelparameters nvext optionalparams options overrides
    parameters params provideroptions providerparams samplingconfig samplingparams samplingparameters
    textgenerationconfig vllmxargs""".split()  # noqa: SIM905
)


def why_never_forwarded(name: str) -> str | None:
    """Return the reason and the remedy if an engine's entry must not forward this field, else None."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", name):
        return f"{name!r} is not a field name: write the name of one field, such as top_k, without a path"
    folded = _folded(name)
    if folded in _LIMITS or _LIMIT_PATTERN.fullmatch(folded):
        return f"{name} changes how much an engine generates, beyond what is held for the request; remove it"
    if folded in _CONTAINERS:
        return f"{name} may carry another output limit inside; remove it, and list the fields that you need by name"
    if folded in _OURS:
        return f"{name} is handled by this server already, or has a price that the catalog does not state; remove it"
    return None


def _folded(name: str) -> str:
    """Return the name without what some engines ignore: servers in Go read `Max_Tokens` as `max_tokens`."""
    return name.casefold().replace("_", "").replace("-", "")
