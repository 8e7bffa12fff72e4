"""The objects that `/v1/responses` speaks of: the response, its items, its usage."""

from __future__ import annotations

from typing import Any, Literal

from minitoolai.chat.dialects.responses_request import ResponseEcho

Json = dict[str, Any]
Status = Literal["in_progress", "completed", "incomplete", "failed"]

#: Chat's reason to stop, where an answer is not complete.
_REASONS = {"length": "max_output_tokens", "content_filter": "content_filter"}


def response_object(
    name: str,
    echo: ResponseEcho,
    *,
    created_s: int,
    model: str,
    status: Status,
    output: list[Json],
    usage: Json | None = None,
    finish_reason: str | None = None,
    error: Json | None = None,
) -> Json:
    """One response as it stands. `usage` is a chat's; the rest of the request is repeated as it was understood."""
    asked = echo.fields
    text = asked.get("text") or {}
    reasoning = asked.get("reasoning") or {}
    return {
        "id": name,
        "object": "response",
        "created_at": created_s,
        "status": status,
        "background": False,
        "error": error,
        "incomplete_details": {"reason": _REASONS[finish_reason or ""]} if status == "incomplete" else None,
        "instructions": asked.get("instructions"),
        "max_output_tokens": asked.get("max_output_tokens"),
        "model": model,
        "output": output,
        "parallel_tool_calls": asked.get("parallel_tool_calls", True),
        "previous_response_id": None,
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "safety_identifier": asked.get("safety_identifier"),
        "prompt_cache_key": asked.get("prompt_cache_key"),
        "service_tier": "default",
        "store": False,
        "temperature": asked.get("temperature", 1.0),
        "text": {"format": text.get("format") or {"type": "text"}, "verbosity": text.get("verbosity") or "medium"},
        "tool_choice": asked.get("tool_choice", "auto"),
        "tools": [_tool(tool) for tool in asked.get("tools", ())],
        "top_logprobs": asked.get("top_logprobs", 0),
        "top_p": asked.get("top_p", 1.0),
        "truncation": "disabled",
        "usage": None if usage is None else usage_object(usage),
        "user": asked.get("user"),
        "metadata": asked.get("metadata", {}),
    }


def status_after(finish_reason: str | None) -> Status:
    """Whether an answer that ended so is complete."""
    return "incomplete" if finish_reason in _REASONS else "completed"


def usage_object(usage: Json) -> Json:
    """A chat's usage in the words of responses."""
    read = usage.get("prompt_tokens_details") or {}
    written = usage.get("completion_tokens_details") or {}
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {
            "cached_tokens": read.get("cached_tokens") or 0,
            "cache_write_tokens": read.get("cache_write_tokens") or 0,
        },
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": written.get("reasoning_tokens") or 0},
        "total_tokens": usage["prompt_tokens"] + usage["completion_tokens"],
    }


def message_item(name: str, content: list[Json], status: Status) -> Json:
    """What the model says."""
    return {"id": name, "type": "message", "role": "assistant", "status": status, "content": content}


def text_part(text: str, logprobs: list[Json]) -> Json:
    """Text, with the certainty of its tokens where that was asked for."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def refusal_part(text: str) -> Json:
    """Why the model says nothing else."""
    return {"type": "refusal", "refusal": text}


def reasoning_item(name: str, text: str, status: Status) -> Json:
    """What the model thinks, where its engine tells."""
    content = [{"type": "reasoning_text", "text": text}] if text else []
    return {"id": name, "type": "reasoning", "summary": [], "content": content, "status": status}


def call_item(name: str, call_id: str, function: str, arguments: str, status: Status) -> Json:
    """A call of one of the caller's functions."""
    return {
        "id": name,
        "type": "function_call",
        "call_id": call_id,
        "name": function,
        "arguments": arguments,
        "status": status,
    }


def logprobs_list(logprobs: Json | None) -> list[Json]:
    """A chat's logprobs, as a flat list."""
    return [
        {
            "token": token["token"],
            "bytes": token.get("bytes") or [],
            "logprob": token["logprob"],
            "top_logprobs": [
                {"token": top["token"], "bytes": top.get("bytes") or [], "logprob": top["logprob"]}
                for top in token.get("top_logprobs") or ()
            ],
        }
        for token in (logprobs or {}).get("content") or ()
    ]


def bare(logprobs: list[Json]) -> list[Json]:
    """The same as events tell it: without the bytes."""
    return [
        {
            "token": token["token"],
            "logprob": token["logprob"],
            "top_logprobs": [{"token": top["token"], "logprob": top["logprob"]} for top in token["top_logprobs"]],
        }
        for token in logprobs
    ]


def _tool(tool: Json) -> Json:
    return {"type": "function", **{key: tool.get(key) for key in ("name", "description", "parameters", "strict")}}
