"""Prepare a chat with tools or a response_format for llama.cpp: choose a function, and check the grammar."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Protocol

from minitoolai.core.errors import EngineRefused
from minitoolai.core.inference import ChatRequest
from minitoolai.engines.chat.llama.grammars import (
    NO_FUNCTION,
    Tool,
    beginning_with,
    chat_grammar,
    choice_grammar,
    choice_prompt,
    openers_of,
    read_tools,
)
from minitoolai.engines.chat.llama.tools import ToolResponse, as_plain_chat
from minitoolai.engines.chat.openai import UpstreamResponse
from minitoolai.httpclient.client import HttpResponse

#: Time to read a question with many functions.
CHOICE_TIMEOUT_S = 120.0
#: What a grammar that is tried begins with, and how many results are kept.
TRIED_BEGINNING = "QXJZ"
MAX_TRIED_GRAMMARS = 256
#: Reads the response of an engine.
ResponseType = Callable[[HttpResponse, str], UpstreamResponse]


class Ask(Protocol):
    """Sends a request to the child, in a slot that holds no conversation, and returns the decoded response."""

    def __call__(self, path: str, body: dict[str, Any], *, timeout_s: float = ...) -> Coroutine[Any, Any, Any]: ...


class ChatPreparation:
    """Prepares chats for one child process."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        #: Grammars that were tried, and whether llama.cpp understands them.
        self._tried: dict[str, bool] = {}

    async def prepare(self, request: ChatRequest) -> tuple[ChatRequest, ResponseType]:
        """Return the chat with tools as text and with a grammar, and what reads its response.

        Raises EngineRefused or InvalidRequest for a schema that no grammar can express.
        """
        tools = read_tools(request.fields)
        chosen = await self._choose_function(request, tools)
        grammar = chat_grammar(request.fields, tools, chosen)
        if grammar is not None and not await self._is_valid(grammar):
            # Functions that are not strict are called with any arguments rather than not at all.
            tools = read_tools(request.fields, relaxed=True)
            grammar = chat_grammar(request.fields, tools, chosen)
            if grammar is None or not await self._is_valid(grammar):
                raise EngineRefused(
                    "response_format.json_schema.schema cannot be expressed as a grammar of the embedded model: it is "
                    "too large, contradicts itself, or has oneOf whose cases overlap (use anyOf)",
                    param="response_format.json_schema.schema",
                )
        plain = as_plain_chat(request, tools, grammar)
        return plain, partial(ToolResponse, openers=openers_of(request.fields)) if tools else UpstreamResponse

    async def _choose_function(self, request: ChatRequest, tools: list[Tool]) -> str | None:
        """Return the function that a chat with tool_choice `auto` needs, or NO_FUNCTION. None: any may be called."""
        if not tools or request.fields.get("tool_choice", "auto") != "auto":
            return None
        prompt = choice_prompt(request.messages, tools)
        if prompt is None:
            return None
        asked = {
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": 64,
            # No account may learn from the time whether another one has asked the same.
            "cache_prompt": False,
            "grammar": choice_grammar(tools),
        }
        answer = await self._ask("/v1/chat/completions", asked, timeout_s=CHOICE_TIMEOUT_S)
        name = answer["choices"][0]["message"]["content"]
        return name if name == NO_FUNCTION or any(tool.name == name for tool in tools) else None

    async def _is_valid(self, grammar: str) -> bool:
        """Return True if llama.cpp understands a grammar. It ignores one that it does not understand.

        So it is tried with a beginning that no model would write by itself.
        """
        if grammar not in self._tried:
            tried = {
                "prompt": "x",
                "n_predict": 1,
                "temperature": 0,
                "cache_prompt": False,
                "grammar": beginning_with(TRIED_BEGINNING, grammar),
            }
            content = (await self._ask("/completion", tried, timeout_s=CHOICE_TIMEOUT_S))["content"]
            while len(self._tried) >= MAX_TRIED_GRAMMARS:
                del self._tried[next(iter(self._tried))]
            self._tried[grammar] = content != "" and TRIED_BEGINNING.startswith(content)
        return self._tried[grammar]
