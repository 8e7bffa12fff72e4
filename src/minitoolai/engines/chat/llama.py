"""The embedded chat model: a llama.cpp server in a supervised child process, used like an upstream."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from functools import partial
from importlib import util
from pathlib import Path
from typing import IO, Any

import msgspec

from minitoolai.core.catalog import EngineEntry
from minitoolai.core.clock import random_text
from minitoolai.core.counting import Tokenizer
from minitoolai.core.errors import ContextExceeded, EngineError
from minitoolai.core.inference import ChatRequest
from minitoolai.engines.chat.failures import upstream_failure
from minitoolai.engines.chat.openai import UpstreamEngine, UpstreamResponse, first_prompt
from minitoolai.engines.child_process import LONGEST_RESTART_S, ChildProcess, child_environment
from minitoolai.engines.concurrency import ConcurrencyLimit
from minitoolai.engines.fetching import FetchableModel, find_file
from minitoolai.httpclient.client import HttpClient, HttpError

log = logging.getLogger(__name__)
#: Interval in which a running server looks for a model that is being fetched.
LOOK_EVERY_S = 1.0


class LlamaEngine(ChildProcess):
    """The embedded model in one child process, with `slots` concurrent responses and `queue` waiting requests."""

    complete_chunks = False
    token_events = True
    tokenizer: Tokenizer | None = None
    bills_after_cancel = False
    sells_cache = False
    #: llama.cpp's own fields for sampling.
    forwards = frozenset(("top_k", "min_p", "typical_p", "repeat_penalty"))
    fetches_images = False
    plain_images = True
    speaks_messages = False
    # A model file that does not load will not load later either: report it instead.
    retries_first_start = False

    def __init__(
        self,
        name: str,
        entry: EngineEntry,
        client: HttpClient,
        *,
        fetched: tuple[FetchableModel, Path] | None = None,
        path: str = "",
        slots: int = 4,
        queue: int = 128,
        context: int = 0,
        threads: int = 0,
        mmproj: str = "",
    ) -> None:
        super().__init__(name)
        self.first_token_timeout_s = entry.first_token_timeout_s
        self.total_timeout_s = entry.total_timeout_s
        self._entry = entry
        self._client = client
        # Looked up once, because every request asks.
        self._has_library = util.find_spec("xllamacpp") is not None
        #: A model that may be fetched while the server runs. Until its process is up, another engine serves.
        self._fetched = fetched[0] if fetched else None
        self._was_missing = False
        self._must_be_up = False
        self._path = entry.file or path
        if fetched is not None:
            model, folder = fetched
            file = find_file(model, folder)
            self._was_missing = file is None
            self._path = str(file or folder / model.file)
            path = ""
        self._context = context or entry.context
        self._served_model = Path(path).stem if path and not entry.file else entry.model
        self._concurrency = ConcurrencyLimit(slots, queue, name)
        self._settings: dict[str, Any] = {"slots": slots, "queue": queue, "context": self._context, "threads": threads}
        self._settings |= {"embeds": entry.embeds, "pooling": entry.pooling}
        self._mmproj = "" if entry.file or entry.fetched else mmproj
        #: Why the last start failed, and why vision is unavailable.
        self._fault: str | None = None
        self._vision_fault: str | None = None
        self._key = ""
        self._address = ""
        self._upstream: UpstreamEngine | None = None
        self._ready = asyncio.Event()
        self._supports_tools = False

    def why_not_ready(self) -> str | None:
        if not Path(self._path).is_file():
            if self._fetched is not None:
                return f"not here: minitoolai fetch {self._fetched.name}"
            return f"no file {self._path}: MINITOOLAI_LLAMA_MODEL must name a GGUF file"
        if self._must_be_up and not self.is_up:
            return self._fault or "it is being started"
        if not self._has_library:
            return "no llama.cpp: pip install xllamacpp"
        return self._fault

    def vision_unavailable_reason(self) -> str | None:
        """Return why the vision projector is unusable, or None. The model handles text in any case."""
        if not self._mmproj or self._vision_fault is not None:
            return self._vision_fault
        return why_no_gguf(self._mmproj, "MINITOOLAI_LLAMA_MMPROJ")

    @property
    def vision(self) -> bool:
        return bool(self._mmproj) and self._vision_fault is None

    def context_tokens(self) -> int:
        return self._context

    def unsupported_field(self, request: ChatRequest) -> str | None:
        return unsupported_field(request, supports_tools=self._supports_tools)

    def check_capacity(self) -> None:
        self._concurrency.check_capacity()

    def is_busy(self) -> bool:
        return self._concurrency.is_busy

    async def open(self, request: ChatRequest, limit: int) -> UpstreamResponse:
        account_id = request.account_id
        await self._concurrency.acquire(account_id)
        try:
            await self._wait_until_ready()
            assert self._upstream is not None
            if request.embed is not None:
                # llama.cpp reports the requested model for embeddings, so request the model that serves them.
                request = msgspec.structs.replace(request, model=self._served_model)
            response = await self._upstream.open(request, limit)
        except BaseException:
            self._concurrency.release(account_id)
            raise
        response.on_close = partial(self._concurrency.release, account_id)
        return response

    # ── counting tokens ───────────────────────────────────────────────────────────────────────────────────

    async def count_messages(self, request: ChatRequest) -> int | None:
        return await self.count_prompt(request)

    async def count_prompt(self, request: ChatRequest) -> int | None:
        """Return the exact count, with the model's own template and tokenizer."""
        if request.embed is not None:
            return await self._count_inputs(request.embed)
        if request.prompt is not None:
            return await self._count(first_prompt(request.prompt))
        tools = {key: request.fields[key] for key in ("tools", "tool_choice") if request.fields.get(key)}
        if request.images:
            # Only the vision projector can tell how many tokens an image has.
            counted = await self._post("/v1/chat/completions/input_tokens", {"messages": request.messages, **tools})
            return int(counted["input_tokens"])
        prompt = await self._post("/apply-template", {"messages": request.messages, **tools})
        return await self._count(prompt["prompt"])

    async def _count_inputs(self, texts: list[Any]) -> int:
        """Return the sum for all embedding inputs, each of which must fit into the context."""
        total = 0
        for index, text in enumerate(texts):
            tokens = await self._count(text)
            if tokens > self._context:
                raise ContextExceeded(
                    f"input[{index}] is {tokens} tokens, but {self.name} reads at most {self._context} tokens of one "
                    "text: shortened it or send it in parts",
                    param=f"input[{index}]",
                )
            total += tokens
        return total

    async def _count(self, text: str | list[int]) -> int:
        if isinstance(text, list):
            return len(text)
        tokens = await self._post("/tokenize", {"content": text, "add_special": True, "parse_special": True})
        return len(tokens["tokens"])

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        if not self._ready.is_set():
            await self._wait_until_ready()
        return await self._request("POST", path, msgspec.json.encode(body))

    async def _request(self, method: str, path: str, body: bytes) -> Any:
        headers = {"authorization": f"Bearer {self._key}", "content-type": "application/json"}
        try:
            response = await self._client.request(
                method, self._address + path, headers=headers, body=body, read_timeout_s=30.0, may_repeat=True
            )
            try:
                raw = await response.read()
            finally:
                response.close()
        except HttpError as error:
            raise EngineError(f"{self.name} did not count the prompt; retry in a moment") from error
        if response.status != 200:
            raise upstream_failure(response.status, None, raw, self.name)
        return msgspec.json.decode(raw)

    # ── the child process ─────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Start the child and wait until it has loaded the model. Raises EngineError."""
        if self.why_not_ready() is not None or self._supervisor is not None:
            return
        try:
            await super().start()
        except EngineError as error:
            self._fault = error.message
            raise

    async def start_when_fetched(self) -> None:
        """Wait until the model's file is fetched, start it, and only then serve. Do nothing if it was here before."""
        if self._fetched is None or not self._was_missing:
            return
        if self._supervisor is not None or self._starting is not None:
            return
        self._must_be_up = True
        while not Path(self._path).is_file():  # noqa: ASYNC240 - it never blocks for long
            await asyncio.sleep(LOOK_EVERY_S)
        self._must_be_up = False
        if self.why_not_ready() is not None:
            return
        self._must_be_up = True
        try:
            await super().start()
        except EngineError as error:
            self._fault = error.message
            log.error("%s was fetched but failed to start: %s", self.name, error)
            return
        self._must_be_up = False
        log.warning("%s is here and answers from now on: %s", self.name, self._fetched.title)

    async def _start_once(self) -> None:
        self._key = random_text(32)
        settings = {**self._settings, "path": self._path, "model": self._served_model, "key": self._key}
        self._process, self._address = await self._spawn_with_vision(settings) or await self._spawn_text_only(settings)
        entry = EngineEntry("upstream", base_url=self._address + "/v1", forwards=tuple(self.forwards))
        # The child bills nothing, so a request on a connection that was just closed may be repeated.
        self._upstream = UpstreamEngine(self.name, entry, self._client, key=self._key, may_repeat=True)
        self._supports_tools = await self._template_supports_tools()
        self.is_up = True
        self._ready.set()

    async def _wait_for_exit(self, process: Process) -> None:
        await process.wait()
        self.is_up = False
        self._ready.clear()

    async def _wait_until_ready(self) -> None:
        try:
            await asyncio.wait_for(self._ready.wait(), LONGEST_RESTART_S)
        except TimeoutError:
            raise EngineError(f"{self.name} is restarting; retry in a moment", retry_after_s=5) from None

    async def _spawn_with_vision(self, settings: dict[str, Any]) -> tuple[Process, str] | None:
        """Spawn a child with the vision projector. Return None if there is none, or if it is unusable."""
        if not self._mmproj:
            return None
        self._vision_fault = why_no_gguf(self._mmproj, "MINITOOLAI_LLAMA_MMPROJ")
        if self._vision_fault is None:
            try:
                return await spawn({**settings, "mmproj": self._mmproj})
            except EngineError as error:
                self._vision_fault = (
                    f"llama.cpp could not load {self._mmproj} as the vision projector of {self._path} "
                    f"({error.message}): MINITOOLAI_LLAMA_MMPROJ must name the file that was made for this model"
                )
        log.error("%s serves text but no images: %s", self.name, self._vision_fault)
        return None

    async def _spawn_text_only(self, settings: dict[str, Any]) -> tuple[Process, str]:
        try:
            return await spawn(settings)
        except EngineError as error:
            raise EngineError(
                f"{self.name}: llama.cpp could not load {self._path} ({error.message}); is it a supported GGUF file?"
            ) from error

    async def _template_supports_tools(self) -> bool:
        """Return True if the model's chat template has a place for tools."""
        abilities = (await self._request("GET", "/props", b"")).get("chat_template_caps") or {}
        return bool(abilities.get("supports_tools"))


def why_no_gguf(path: str, variable: str) -> str | None:
    """Return None if the file starts like a GGUF file, else the mistake in the setting."""
    try:
        with Path(path).open("rb") as file:
            is_gguf = file.read(4) == b"GGUF"
    except OSError as error:
        return f"no file {path} ({error.strerror}): {variable} must name a GGUF file"
    return None if is_gguf else f"{path} is not a GGUF file: {variable} must name one"


# ── starting llama.cpp ────────────────────────────────────────────────────────────────────────────────────────

START_TIMEOUT_S = 120.0
_MAX_REASON_LENGTH = 300
_ERROR_LINE = re.compile(r"^[\d.]+ E [^:]*: (?:error: )?(.+)$", re.MULTILINE)


async def spawn(settings: dict[str, Any]) -> tuple[Process, str]:
    """Return the child and its address once it has loaded its files. Raises EngineError with llama.cpp's message."""
    command = [sys.executable, "-m", "minitoolai.engines.chat.llama_server"]
    with tempfile.TemporaryFile() as output:
        child = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=output, env=child_environment()
        )
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps(settings).encode() + b"\n")
        try:
            line = await asyncio.wait_for(child.stdout.readline(), START_TIMEOUT_S)
        except BaseException as error:
            child.kill()
            if not isinstance(error, TimeoutError):
                raise
            line = b""
        if line.startswith(b"http"):
            return child, line.decode().strip()
        await child.wait()
        raise EngineError(_error_lines(output) or f"it did not start within {START_TIMEOUT_S:g} s")


def _error_lines(output: IO[bytes]) -> str:
    output.seek(0)
    text = output.read().decode(errors="replace")
    lines = list(dict.fromkeys(_ERROR_LINE.findall(text))) or text.strip().splitlines()[-1:]
    return "; ".join(lines)[:_MAX_REASON_LENGTH]


# ── which request fields llama.cpp honours; others are refused rather than ignored ────────────────────────────

#: Fields of a chat that it honours, or that need no support of the engine.
CHAT_FIELDS = frozenset(
    """messages model stream stream_options temperature top_p seed stop n logprobs top_logprobs
    presence_penalty frequency_penalty logit_bias response_format tools tool_choice
    parallel_tool_calls user metadata safety_identifier prompt_cache_key prompt_cache_retention store
    service_tier""".split()  # noqa: SIM905
)
#: The same for text completions and for embeddings.
COMPLETION_FIELDS = CHAT_FIELDS - {
    "messages", "response_format", "tools", "tool_choice", "parallel_tool_calls", "top_logprobs",
}  # fmt: skip
EMBEDDING_FIELDS = frozenset(("encoding_format", "user"))
#: Fields that are accepted only with a value that has no effect.
NEUTRAL_VALUES: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "service_tier": ("auto", "default"),
    "echo": (False,),
    "best_of": (1,),
    "suffix": ("",),
    "modalities": (["text"],),
    "verbosity": ("medium",),
    "reasoning_effort": ("none",),
}


def unsupported_field(request: ChatRequest, *, supports_tools: bool) -> str | None:
    """Return the first field that cannot be honoured. `supports_tools`: the model's template has a place for tools."""
    supported = EMBEDDING_FIELDS if request.embed is not None else CHAT_FIELDS
    if request.prompt is not None and request.embed is None:
        supported = COMPLETION_FIELDS
    for field, value in request.fields.items():
        if field in NEUTRAL_VALUES:
            # With n > 1, llama.cpp reports the tokens of one choice only, so there would be no exact charge.
            if value not in NEUTRAL_VALUES[field]:
                return field
        elif field not in supported and value is not None:
            return field
    if isinstance(request.prompt, list) and not _is_single_prompt(request.prompt):
        return "prompt"
    # Without a place in its template, a model never sees the tools.
    if not supports_tools and request.fields.get("tools") and request.fields.get("tool_choice") != "none":
        return "tools"
    return None


def _is_single_prompt(prompt: list[object]) -> bool:
    """Return True for one prompt; of several, llama.cpp responds to the first only."""
    return len(prompt) == 1 or all(isinstance(token, int) for token in prompt)
